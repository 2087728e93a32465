#!/bin/sh
# Installs real engines without a GPU into DIR, for the tests marked `engine`: SGLang's server on a CPU with a tiny model (DIR/sglang,
# DIR/models), the sources of SGLang 0.5.12 for its parser (DIR/sglang-0.5.12), vLLM's parser in two versions (DIR/vllm-0.33.0, DIR/vllm-0.16.0).
# No CUDA package is installed. About 5 GB and six minutes.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=$1
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

if [ ! -f "$dir/sglang/ready" ]; then
    sh "$here/install_sglang.sh" "$dir/sglang" 0.5.23
    touch "$dir/sglang/ready"
fi
[ -f "$dir/models/test/tiny/config.json" ] || "$dir/sglang/bin/python" "$here/make_model.py" "$dir/models/test/tiny" 2>/dev/null
if [ ! -d "$dir/sglang-0.5.12" ]; then
    "$dir/sglang/bin/pip" download -q --no-deps -d "$dir/wheels" sglang==0.5.12
    "$dir/sglang/bin/python" -m zipfile -e "$dir"/wheels/sglang-0.5.12-*.whl "$dir/sglang-0.5.12"
fi
for version in 0.33.0 0.16.0; do
    [ -f "$dir/vllm-$version/ready" ] || { sh "$here/install_vllm.sh" "$dir/vllm-$version" "$version" && touch "$dir/vllm-$version/ready"; }
done
