#!/bin/sh
# Installs SGLang for a CPU into VENV, without CUDA packages: install_sglang.sh VENV VERSION (0.5.23). About 2 GB and two minutes.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=$1 version=$2
python3 -m venv "$venv"
echo torch==2.13.0 >"$venv/constraint.txt"
"$venv/bin/pip" install -q torch==2.13.0
"$venv/bin/pip" install -q -c "$venv/constraint.txt" -r "$here/sglang-requirements.txt"
"$venv/bin/pip" install -q --no-deps "sglang==$version" 'torchvision<0.29' compressed-tensors==0.18.0 xgrammar==0.2.7
# torchvision's operators are built for CUDA and do not load with CPU torch. The two that SGLang needs are declared without code.
extension=$(echo "$venv"/lib/python3*/site-packages/torchvision/extension.py)
cat >>"$extension" <<'P'

if not _has_ops():
    _declared = torch.library.Library("torchvision", "DEF")
    _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
P
