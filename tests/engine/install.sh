#!/bin/sh
# Real engines without a GPU, for the tests marked `engine`, into DIR: SGLang's server on a CPU with a tiny model (DIR/sglang, DIR/models),
# SGLang 0.5.12's sources for its parser (DIR/sglang-0.5.12), vLLM's parser in two versions (DIR/vllm-0.33.0, DIR/vllm-0.16.0).
# No CUDA package is installed. About 5 GB and six minutes.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=$1
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
torch=torch==2.13.0
echo "$torch" >"$dir/constraint.txt"

if [ ! -f "$dir/sglang/ready" ]; then
    python3 -m venv "$dir/sglang"
    "$dir/sglang/bin/pip" install -q "$torch"
    "$dir/sglang/bin/pip" install -q -c "$dir/constraint.txt" -r "$here/sglang-requirements.txt"
    "$dir/sglang/bin/pip" install -q --no-deps sglang==0.5.23 'torchvision<0.29' compressed-tensors==0.18.0 xgrammar==0.2.7
    # torchvision's operators are built for CUDA and do not load beside CPU torch: the two that it asks for are declared without code
    extension=$(echo "$dir"/sglang/lib/python3*/site-packages/torchvision/extension.py)
    cat >>"$extension" <<'P'

if not _has_ops():
    _declared = torch.library.Library("torchvision", "DEF")
    _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
P
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
