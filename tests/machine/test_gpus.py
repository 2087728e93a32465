"""Whether a node has the arm's GPUs and they are free, from the output of the vendors' tools."""

import dataclasses

import pytest
from conftest import compose

from glm5bench.machine import gpus

SMI = 'case "$*" in\n  *memory.used*) cat_memory ;;\n  *query-gpu=name*) cat_names ;;\n  *) exit 2 ;;\nesac\n'
VISIBLE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
B200 = "NVIDIA B200, 580.95.05, GPU-{n}"
ROCM_NAMES = "device,Card Series,Card Model,Card Vendor,Card SKU,GFX Version"
ROCM_MEMORY = "device,VRAM Total Memory (B),VRAM Total Used Memory (B)"


@pytest.fixture(autouse=True)
def bare_node(tmp_path, monkeypatch):
    """No vendor's tool is on PATH, and every GPU is visible."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in VISIBLE:
        monkeypatch.delenv(name, raising=False)


def tool(tmp_path, name, body):
    path = tmp_path / "bin" / name
    path.write_text(f"#!/bin/sh\n{body}")
    path.chmod(0o755)


def echoed(lines):
    return "\n".join(f"echo '{line}'" for line in lines) or ":"


def nvidia(tmp_path, *, names=(), memory=()):
    body = f"cat_names() {{\n{echoed(names)}\n}}\ncat_memory() {{\n{echoed(memory)}\n}}\n{SMI}"
    tool(tmp_path, "nvidia-smi", body)


def amd(tmp_path, *, names=(), memory=()):
    asked = f'case "$1" in\n--showproductname)\n{echoed(names)} ;;\n--showmeminfo)\n{echoed(memory)} ;;\nesac\n'
    tool(tmp_path, "rocm-smi", asked)


def hardware(name):
    return compose("speculative=off", f"hardware={name}").hardware


def test_a_node_with_the_arm_s_gpus_is_right(tmp_path):
    nvidia(tmp_path, names=[B200.format(n=n) for n in range(8)])

    assert gpus.wrong(hardware("b200"), 8) == ""
    assert gpus.wrong(hardware("b200"), 4) == ""


def test_a_node_with_too_few_of_them_is_wrong_and_says_what_it_has(tmp_path):
    nvidia(tmp_path, names=[B200.format(n=n) for n in range(3)])

    said = gpus.wrong(hardware("b200"), 4)

    assert said.startswith("it needs 4 B200 GPUs, but this node has NVIDIA B200, 580.95.05, GPU-0; ")
    assert said.count("NVIDIA B200") == 3


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        ("b200", "NVIDIA GB200, 580.95.05, GPU-0"),
        ("b200", "NVIDIA H200, 580.95.05, GPU-0"),
        ("h200", "NVIDIA GH200 480GB, 580.95.05, GPU-0"),
        ("h100", "NVIDIA H200, 580.95.05, GPU-0"),
        ("b300", "NVIDIA GB300, 580.95.05, GPU-0"),
        ("gb200", "NVIDIA B200, 580.95.05, GPU-0"),
    ],
)
def test_a_gpu_of_a_name_alike_is_another_gpu(tmp_path, asked, there):
    nvidia(tmp_path, names=[there] * 8)

    assert there in gpus.wrong(hardware(asked), 4)


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        ("h100", "NVIDIA H100 80GB HBM3, 570.86.15, GPU-0"),
        ("h200", "NVIDIA H200, 570.86.15, GPU-0"),
        ("b300", "NVIDIA B300 SXM6 AC, 580.95.05, GPU-0"),
        ("gb200", "NVIDIA GB200, 580.95.05, GPU-0"),
        ("gb300", "NVIDIA GB300, 580.95.05, GPU-0"),
    ],
)
def test_a_driver_s_longer_name_of_the_gpu_is_known(tmp_path, asked, there):
    nvidia(tmp_path, names=[there] * 4)

    assert gpus.wrong(hardware(asked), 4) == ""


@pytest.mark.parametrize("name", ["mi300x", "mi325x", "mi355x"])
def test_amd_s_gpus_are_counted_by_rocm_smi_without_its_heading(tmp_path, name):
    card = f"AMD Instinct {name.upper()}"
    amd(tmp_path, names=[ROCM_NAMES, *(f"card{n},{card},0x75a0,Advanced Micro Devices Inc. [AMD/ATI],{card},gfx950" for n in range(8))])

    assert gpus.wrong(hardware(name), 8) == ""
    assert gpus.wrong(hardware(name), 9).startswith(f"it needs 9 {name.upper()} GPUs")


def test_a_node_without_a_vendor_s_tool_has_no_gpus():
    said = gpus.wrong(hardware("b200"), 8)

    assert said == "it needs 8 B200 GPUs, but this node has none that nvidia-smi or rocm-smi shows"
    assert gpus.shown() == []


def test_a_tool_that_fails_shows_no_gpus_whatever_it_prints(tmp_path):
    tool(tmp_path, "nvidia-smi", echoed([B200.format(n=n) for n in range(8)]) + "\necho 'Failed to initialize NVML' >&2\nexit 9\n")

    assert "none that nvidia-smi" in gpus.wrong(hardware("b200"), 8)


def test_a_tool_that_cannot_be_run_shows_no_gpus(tmp_path):
    (tmp_path / "bin/nvidia-smi").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "bin/nvidia-smi").chmod(0o755)

    assert gpus.shown() == []
    assert gpus.in_use(hardware("b200")) == ""


def test_hardware_that_no_tool_knows_is_taken_at_its_word():
    assert gpus.wrong(dataclasses.replace(hardware("b200"), vendor="none"), 8) == ""
    assert gpus.in_use(dataclasses.replace(hardware("b200"), vendor="none")) == ""


def test_gpus_that_hold_a_driver_s_own_memory_are_free(tmp_path):
    nvidia(tmp_path, memory=["0, GPU-aa, 4", "1, GPU-bb, 2048"])

    assert gpus.in_use(hardware("b200")) == ""


def test_a_gpu_that_holds_more_is_in_use_and_named(tmp_path):
    nvidia(tmp_path, memory=["0, GPU-aa, 4", "1, GPU-bb, 2049", "2, GPU-cc, 171000"])

    assert gpus.in_use(hardware("b200")) == "GPU 1 holds 2,049 MiB, GPU 2 holds 171,000 MiB"


@pytest.mark.parametrize(
    ("visible", "told"),
    [
        ("0", ""),
        ("1", "GPU 1 holds 90,000 MiB"),
        ("0,2", "GPU 2 holds 80,000 MiB"),
        ("GPU-aa11", ""),
        ("GPU-cc33-4444", "GPU 2 holds 80,000 MiB"),
        ("GPU-cc33", "GPU 2 holds 80,000 MiB"),
        ("GPU-aa11,GPU-bb22", "GPU 1 holds 90,000 MiB"),
        ("", "GPU 1 holds 90,000 MiB, GPU 2 holds 80,000 MiB, GPU 12 holds 70,000 MiB"),
    ],
)
def test_only_the_gpus_that_this_job_may_use_count(tmp_path, monkeypatch, visible, told):
    nvidia(tmp_path, memory=["0, GPU-aa11-1111, 4", "1, GPU-bb22-2222, 90000", "2, GPU-cc33-4444, 80000", "12, GPU-dd44-5555, 70000"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert gpus.in_use(hardware("b200")) == told


@pytest.mark.parametrize("figure", ["[N/A]", "[Insufficient Permissions]", "[GPU is lost]"])
def test_a_gpu_that_does_not_tell_its_memory_is_passed_over_and_its_neighbour_is_not(tmp_path, figure):
    nvidia(tmp_path, memory=[f"0, GPU-aa, {figure}", "1, GPU-bb, 90000"])

    assert gpus.in_use(hardware("b200")) == "GPU 1 holds 90,000 MiB"


@pytest.mark.parametrize("variable", ["ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", None])
def test_amd_s_memory_is_read_in_bytes_and_by_the_card_s_number(tmp_path, monkeypatch, variable):
    amd(tmp_path, memory=[ROCM_MEMORY, "card0,309220868096,297123840", "card1,309220868096,104857600000"])
    told = "GPU 1 holds 100,000 MiB"

    assert gpus.in_use(hardware("mi355x")) == told
    if variable:
        monkeypatch.setenv(variable, "0")
        assert gpus.in_use(hardware("mi355x")) == ""
        monkeypatch.setenv(variable, "1")
        assert gpus.in_use(hardware("mi355x")) == told


def test_gpus_of_which_nobody_tells_are_not_said_to_be_in_use(tmp_path):
    assert gpus.in_use(hardware("b200")) == ""

    tool(tmp_path, "nvidia-smi", "echo '0, GPU-aa, 90000'\nexit 9\n")

    assert gpus.in_use(hardware("b200")) == ""


def test_the_other_vendor_s_tool_is_not_asked(tmp_path):
    nvidia(tmp_path, memory=["0, GPU-aa, 90000"])

    assert gpus.in_use(hardware("mi355x")) == ""
