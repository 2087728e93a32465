#!/bin/sh
# Installs the argument parser of `vllm serve` into VENV, without CUDA packages or vLLM's GPU libraries: install_vllm.sh VENV VERSION (0.33.0, 0.16.0).
set -eu
venv=$1 version=$2
python3 -m venv "$venv"
echo torch==2.13.0 >"$venv/constraint.txt"
"$venv/bin/pip" install -q torch==2.13.0
"$venv/bin/pip" download -q --no-deps -d "$venv/wheel" "vllm==$version"
# The packages that importing the parser needs, in the versions of this vLLM's metadata; xgrammar without Triton (1 GB), which parsing does not use.
"$venv/bin/python" - "$venv" <<'P'
import email, pathlib, re, sys, zipfile

venv = pathlib.Path(sys.argv[1])
wheel = zipfile.ZipFile(next((venv / "wheel").glob("vllm-*.whl")))
metadata = email.message_from_bytes(wheel.read(next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))))
lines = [re.sub(r"\[.*?\]", "", line) for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
asked = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-"): line for line in lines}
need = """regex cachetools psutil numpy requests tqdm py-cpuinfo transformers huggingface-hub tokenizers fastapi openai pydantic pillow
typing-extensions filelock cbor2 cloudpickle msgspec pyyaml pyzmq aiohttp pybase64 prometheus-client partial-json-parser gguf
openai-harmony oss-harmony llguidance apache-tvm-ffi""".split()
(venv / "needs.txt").write_text("\n".join([*(asked[name] for name in need if name in asked), "uvloop"]))  # fastapi[standard] includes uvloop
(venv / "alone.txt").write_text(asked["xgrammar"])
P
"$venv/bin/pip" install -q -c "$venv/constraint.txt" -r "$venv/needs.txt"
"$venv/bin/pip" install -q --no-deps -r "$venv/alone.txt" "$venv"/wheel/vllm-*.whl
rm -r "$venv/wheel"
find "$venv"/lib/python3*/site-packages/vllm \( -name '*.so*' -o -name vllm-rs \) -type f -delete # the parser loads none of them
