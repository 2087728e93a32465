"""Checks of a node for a job: each finding has its value and its fix. A simulated job checks only what it needs."""

import ctypes
import dataclasses
import shutil
from collections import namedtuple

import pytest
from conftest import plan

from glm5bench.checks import machine as preflight
from glm5bench.checks.finding import refuse
from glm5bench.engines.known import adapter
from glm5bench.errors import ServerError
from glm5bench.machine import gpus
from glm5bench.settings.overrides import compose

GIB = 2**30


def job(*overrides):
    return plan([compose(*overrides)]).jobs[0]


@pytest.fixture(scope="module")
def real():
    return job("hardware=b200", "concurrency=4")


def of(found, what):
    (one,) = (f for f in found if f.what == what)
    return one


def test_a_simulated_job_needs_a_directory_that_it_can_write(tmp_path):
    found = preflight.findings(job("engine=simulated"), tmp_path / "points")

    assert [f.what for f in found] == ["HDF5", "shared file system", "local disk", "memory", "clock"]
    assert all(f.is_well for f in found if f.what != "clock")
    assert list((tmp_path / "points").iterdir()) == []


def test_a_directory_that_cannot_be_written_is_the_nodes_fault(tmp_path):
    (tmp_path / "points").write_text("a file")
    found = preflight.findings(job("engine=simulated"), tmp_path / "points" / "x")

    assert of(found, "shared file system").is_well is False
    with pytest.raises(ServerError, match="Node gpu7 cannot run the job: shared file system: ") as raised:
        refuse(found, "gpu7")
    assert (raised.value.failure_class, raised.value.next_step) == (
        "node_fault",
        "set output_dir=... to a writable directory",
    )


@pytest.mark.parametrize(("free", "is_well"), [(100, True), (5, None), (0.01, False)])
def test_a_disk_that_is_small_is_said_and_one_that_is_full_ends_the_job(real, tmp_path, monkeypatch, free, is_well):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, free * GIB))
    found = preflight.findings(real, tmp_path)

    assert (of(found, "local disk").is_well, of(found, "/dev/shm").is_well) == (is_well, is_well)
    assert bool(of(found, "local disk").next_step) == (is_well is not True)


def test_gpus_that_are_not_there_are_named(real, tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "lines", lambda command: [])

    assert "it needs 8 B200 GPUs" in of(preflight.findings(real, tmp_path), "GPUs").said


def test_gpus_are_looked_at(real, tmp_path, monkeypatch):
    shown = [f"NVIDIA B200, 570.86.15, GPU-{i}" for i in range(8)]
    monkeypatch.setattr(gpus, "shown", lambda: shown)
    monkeypatch.setattr(gpus, "in_use", lambda hardware: "GPU 3 holds 9,000 MiB")
    found = preflight.findings(real, tmp_path)

    assert of(found, "GPUs").is_well
    assert (of(found, "GPUs' memory").is_well, of(found, "GPUs' memory").said) == (None, "GPU 3 holds 9,000 MiB")


@pytest.mark.parametrize(
    ("branch", "cuda", "is_well"), [(580, 13, True), (575, 13, False), (525, 12, True), (470, 12, False), (600, 14, None)]
)
def test_a_driver_runs_the_cuda_of_its_time_and_older_ones(branch, cuda, is_well):
    assert preflight.driver(branch, cuda).is_well is is_well
    assert preflight.driver(branch, cuda, has_compat=True).is_well is (True if is_well else None)


def test_the_images_own_cuda_is_held_against_the_driver(real, monkeypatch):
    monkeypatch.setattr(gpus, "shown", lambda: ["NVIDIA B200, 570.86.15, GPU-0"])
    told = {"cuda": "13.0.1", "nvcc": "/n", "deep_gemm": "/d", "cutlass": "True"}

    assert of(preflight.inside(real, told), "driver").is_well is False
    assert of(preflight.inside(real, {**told, "compat": "/usr/local/cuda-13.0/compat"}), "driver").is_well is None
    assert of(preflight.inside(real, {**told, "cuda": "12.9.1"}), "driver").is_well is True


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ({"cuda": "13.0.1", "nvcc": "/usr/local/cuda/bin/nvcc", "deep_gemm": "/p/deep_gemm", "cutlass": "True"}, []),
        ({"cuda": "13.0.1", "nvcc": "", "deep_gemm": "/p/deep_gemm", "cutlass": "False"}, ["nvcc", "CUTLASS headers"]),
        ({"cuda": "13.0.1", "nvcc": "", "deep_gemm": "", "cutlass": "False"}, []),
    ],
)
def test_what_deep_gemm_compiles_with_is_looked_for_in_the_image(real, told, wrong):
    found = list(preflight.inside(real, told))

    assert [f.what for f in found if f.is_well is False] == wrong
    assert {f.failure_class for f in found if f.is_well is False} <= {"image_missing"}


@pytest.mark.parametrize(
    ("overrides", "does"),
    [
        (["hardware=b200"], True),
        (["hardware=b300"], False),
        (["hardware=b200", "engine=vllm", "speculative=off"], False),
        (["hardware=mi355x", "tp=4"], False),
        (["hardware=b200", "+engine.env.SGLANG_ENABLE_JIT_DEEPGEMM='0'"], False),
    ],
)
def test_deep_gemm_compiles_where_its_recipe_says(overrides, does):
    made = job(*overrides, "concurrency=4")

    assert ("deep_gemm" in adapter(made.arm.engine).needs(made)) == does


def test_a_checkpoint_that_is_cut_off_is_named_before_anything_is_loaded(real, tmp_path):
    here = dataclasses.replace(real, model_path=str(tmp_path / "GLM-5"))
    found = of(preflight.findings(here, tmp_path), "checkpoint")

    assert (found.is_well, found.failure_class) == (False, "checkpoint_missing")


def test_an_image_that_is_not_there_is_named(real, tmp_path):
    found = of(preflight.findings(dataclasses.replace(real, image_dir=str(tmp_path)), tmp_path), "image")

    assert (found.is_well, found.failure_class, found.next_step) == (False, "image_missing", "`glm5bench images pull`")


@pytest.mark.parametrize(("status", "is_well"), [(0x40, None), (0x2001, True)])
def test_a_clock_that_nothing_keeps_in_step_is_said(monkeypatch, status, is_well):
    class Libc:
        def __init__(self, *_, **__): ...
        def adjtimex(self, told):
            told._obj.status = status
            told._obj.maxerror = 21000
            return 0

    monkeypatch.setattr(ctypes, "CDLL", Libc)

    assert preflight.clock().is_well is is_well
