#!/bin/sh
# Released load clients for benchmarks/client.py, each in a virtual environment of its own below DIR, without CUDA packages:
# client_peers.sh DIR. vLLM and SGLang (with its Rust client) as tests/engine installs them, GuideLLM, AIPerf, and the tiny tokenizer that
# they ask for. One that is not installed after five minutes is left out, and said so. About 6 GB and four minutes; again, it does what is missing.
set -u
engine=$(cd "$(dirname "$0")/../tests/engine" && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)

peer() { # NAME COMMAND...: runs the command within five minutes, once
    name=$1 && shift
    [ -f "$dir/$name/ready" ] && return
    rm -rf "${dir:?}/$name"
    if timeout 300 "$@" >"$dir/$name.log" 2>&1; then
        touch "$dir/$name/ready" && echo "$name: installed"
    else
        rm -rf "${dir:?}/$name" && echo "$name: left out, see $dir/$name.log" >&2
    fi
}
# What the clients import beyond what the servers' command lines do: einops and datasets
peer vllm sh -ec 'sh "$1/install_vllm.sh" "$2" 0.33.0 && "$2/bin/pip" install -q einops==0.8.2' - "$engine" "$dir/vllm"
peer sglang sh -ec 'sh "$1/install_sglang.sh" "$2" 0.5.23 && "$2/bin/pip" install -q datasets==5.2.0' - "$engine" "$dir/sglang"
peer guidellm sh -ec 'python3 -m venv "$1" && "$1/bin/pip" install -q guidellm==0.8.1' - "$dir/guidellm"
peer aiperf sh -ec 'python3 -m venv "$1" && "$1/bin/pip" install -q aiperf==0.13.0' - "$dir/aiperf"

# needs torch and transformers, which SGLang's has
tiny=$dir/models/test/tiny
[ -f "$tiny/tokenizer.json" ] || PYTHONPATH=$engine/stubs "$dir/sglang/bin/python" "$engine/make_model.py" "$tiny" 2>/dev/null
[ -f "$tiny/tokenizer.json" ] || { echo "No tokenizer: it is made with SGLang's packages. next: see $dir/sglang.log" >&2; exit 3; }
