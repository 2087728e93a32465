"""Real engines without a GPU: SGLang's own server through a whole node job, and the parsers of SGLang and vLLM over every published arm.

By hand, because they take 5 GB: `sh tests/engine/install.sh DIR && GLM5BENCH_ENGINES=DIR .venv/bin/pytest -m engine`.
"""

import os
import signal
from pathlib import Path

import pytest
from conftest import compose, plan
from program import beats, bench, processes_of, status, until
from test_recipe import ARMS

from glm5bench.archive.pointfile import read_point
from glm5bench.checks.flags import validations

pytestmark = pytest.mark.engine
HERE = Path(__file__).resolve().parent
CPU = [
    "--config-dir", str(HERE / "conf"), "engine=sglang_cpu", "hardware=cpu", "checkpoint=tiny", "tp=1", "speculative=off",
    "+price.usd_per_gpu_h.cpu=1", f"+engine.env.PYTHONPATH={HERE}/stubs", "workload.isl_tokens=256", "workload.osl_tokens=64",
    "workload.prompts_per_concurrency=4", "workload.warmups_per_concurrency=1", "name=c",
]  # fmt: skip
OLD_REGISTRY = """
from transformers.models.auto.configuration_auto import CONFIG_MAPPING as mapping
kind = type(mapping)
register = kind.register
kind.register = lambda self, key, value, exist_ok=False: register(self, key, value, exist_ok=True)
"""  # SGLang 0.5.12 registers names that the newer transformers beside it already has


def asked(engines, *more):
    """A sweep of the tiny model on the real server, and the PATH that finds it."""
    path = f"{engines}/sglang/bin{os.pathsep}{os.environ['PATH']}"
    return ["sweep", *CPU, f"cluster.checkpoint_dir={engines}/models", *more], {"PATH": path}


def points(tmp_path):
    return [read_point(f)[0] for f in (tmp_path / "outputs/c/points").glob("*.h5")]


@pytest.mark.parametrize("endpoint", ["completions", "chat", "generate"])
def test_a_sweep_on_a_real_server_is_valid_and_its_tokens_are_the_server_s_own_count(engines, tmp_path, endpoint):
    staged = ["stage=local", f"++cluster.stage_dir={tmp_path}/staged"] if endpoint == "generate" else []
    overrides, env = asked(engines, "concurrency=1,4,8", f"workload.endpoint={endpoint}", "wait=true", *staged)
    done = bench(tmp_path, *overrides, timeout=300, **env)

    assert done.returncode == 0, done.stderr
    found = points(tmp_path)
    assert [(p.verdict().validity, p.verdict().codes) for p in found] == [("flagged", ("power_gpu_missing",))] * 3
    for p in found:
        assert {t.name for t in p.telemetry.tracks} >= {"running", "queued", "kv_usage", "generation_tput", "generation_tokens"}
        assert p.server["startup"]["kv_tokens"] == 65536
        counted = p.server["counted_tokens"]
        assert (counted["prompt_tokens"], counted["generation_tokens"]) == (p.requests.prompt_tokens.sum(), p.requests.output_tokens.sum())
        assert (p.requests.output_tokens == p.requests.asked_tokens).all()
    assert ("stage_s" in found[0].provenance["checkpoint"]) == (endpoint == "generate")
    phases = [phase["name"] for phase in found[0].server["start_phases"]]
    assert phases == ["loading weights", "allocating the KV cache", "preparing kernels", "warming up"]


def test_the_key_of_a_real_server_stands_in_no_command_line_and_is_left_in_no_file(engines, tmp_path):
    overrides, env = asked(engines, "concurrency=4", "workload.prompts_per_concurrency=40")
    done = bench(tmp_path, *overrides, **env)
    assert done.returncode == 0, done.stderr
    until(lambda: any(b["phase"] == "measuring" for b in beats(tmp_path)), "a measurement", 120)
    (file,) = (tmp_path / "outputs/c/jobs").rglob("api_key")
    key = file.read_text()
    lines = [f.read_bytes().decode("utf-8", "replace") for f in Path("/proc").glob("[0-9]*/cmdline") if f.exists()]
    until(lambda: not status(tmp_path)["jobs"], "the end", 120)

    assert any("with_key.py" in line for line in lines)
    assert not [line for line in lines if key in line]
    assert [f for f in (tmp_path / "outputs").rglob("*") if f.is_file() and key.encode() in f.read_bytes()] == []


def test_a_scheduler_that_is_killed_is_a_crash_within_seconds_and_nothing_is_left_running(engines, tmp_path):
    overrides, env = asked(engines, "concurrency=4", "workload.prompts_per_concurrency=400")
    assert bench(tmp_path, *overrides, **env).returncode == 0
    until(lambda: any(b["phase"] == "measuring" for b in beats(tmp_path)), "a measurement", 120)
    scheduler = [pid for pid in descendants(tmp_path) if b"sglang::schedul" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(scheduler[0], signal.SIGKILL)
    until(lambda: not status(tmp_path)["jobs"], "the end of the job", 60)

    assert [(p["state"], p["failure_class"]) for p in status(tmp_path)["points"]] == [("failed", "server_crash")]
    until(lambda: not processes_of(tmp_path), "the end of every process")


def descendants(tmp_path):
    """Every process in the sessions of this directory's servers."""
    sessions = {os.getsid(pid) for pid, line in processes_of(tmp_path).items() if "with_key.py" in line}
    alive = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in alive if os.path.exists(f"/proc/{pid}") and os.getsid(pid) in sessions]


def jobs_of(flavor, version=None):
    """The node jobs of every published arm of an engine."""
    wanted = [o for o in ARMS if ("engine=vllm" in o) == (flavor == "vllm")]
    more = [f"engine.version={version}", "engine.image=none"] if version else []
    return plan([compose(*o.split(), *more) for o in wanted]).jobs


def parsed(engines, tmp_path, monkeypatch, folder, jobs, *pythonpath):
    (tmp_path / "sitecustomize.py").write_text(OLD_REGISTRY if pythonpath else "")
    monkeypatch.setenv("PATH", f"{engines}/{folder}/bin{os.pathsep}{os.environ['PATH']}")
    stubs = [f"{HERE}/stubs"] if folder == "sglang" else []
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*map(str, pythonpath), str(tmp_path), *stubs]))
    return validations(jobs)


@pytest.mark.parametrize("version", ["0.5.12", "0.5.23"])
def test_sglang_s_own_parser_takes_every_published_arm(engines, tmp_path, monkeypatch, version):
    old = [engines / "sglang-0.5.12"] if version == "0.5.12" else []
    found = parsed(engines, tmp_path, monkeypatch, "sglang", jobs_of("sglang", version), *old)

    assert {v.version for v in found} == {version}
    assert [(v.arm, v.refused) for v in found if v.refused] == []


@pytest.mark.parametrize("version", ["0.16.0", "0.33.0"])
def test_vllm_s_own_parser_takes_every_published_arm(engines, tmp_path, monkeypatch, version):
    found = parsed(engines, tmp_path, monkeypatch, f"vllm-{version}", jobs_of("vllm"))

    assert {v.version for v in found} == {version}
    assert [(v.arm, v.refused) for v in found if v.refused] == []


def test_a_flag_that_a_later_version_dropped_is_refused_with_the_group_that_it_came_from(engines, tmp_path, monkeypatch):
    (found,) = parsed(engines, tmp_path, monkeypatch, "sglang", plan([compose("hardware=b200")]).jobs)

    assert {(r.words[0], r.group) for r in found.refused} == {
        ("--nsa-decode-backend", "hardware/b200"),
        ("--nsa-prefill-backend", "hardware/b200"),
        ("--cuda-graph-max-bs", "hardware/b200"),
    }
