"""Wrong input gives a message, a next step and the right exit code, and never a traceback."""

import json
import subprocess
import sys

import h5py
import pytest
from conftest import measured
from program import ROOT, bench

from glm5bench import cli
from glm5bench.archive.pointfile import write_point
from glm5bench.cli.app import as_called


@pytest.fixture
def typed(monkeypatch, capsys, tmp_path):
    """Runs the program in this process as in tmp_path. Returns its exit code and its output."""

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["glm5bench", *arguments])
        code = cli.main()
        return code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("plan", "hardware=b201"), "b201"),
        (("plan", "hardwear=b200"), "hardwear"),
        (("plan", "concurency=4"), "concurency"),
        (("plan", "concurrency=many"), "concurrency"),
        (("plan", "concurrency=0"), "concurrency"),
        (("plan", "tp=3"), "tp=3"),
        (("plan", "+colour=red"), "colour"),
        (("plan", "experiment=nope"), "nope"),
        (("plan", "server_scope=node"), "server_scope"),
        (("plan", "price=own"), "b200"),
        (("plan", "hardware=h200", "checkpoint=glm5_nvfp4"), "nvfp4"),
        (("plan", "name=[1"), "name=[1"),
        (("plan", "=4"), "next"),
        (("plan", "hardware=null"), "next"),
        (("plan", "engine.time_scale=0"), "time_scale"),
        (("plan", "engine.time_scale=nan"), "time_scale"),
        (("plan", "workload.isl_tokens=0"), "isl_tokens"),
        (("plan", "workload.range_ratio=2"), "range_ratio"),
        (("plan", "experiment=h200_vs_b200,quickstart"), "one experiment"),
        (("plan", "hydra/launcher=basic"), "launcher"),
        (("plan", "price=rental,neocloud"), "price"),
        (("tables", "published", "--price", "b20=2"), "b20"),
        (("tables", "published", "--price", "b200=nan"), "b200"),
        (("tables", "published", "--price", "b200=2.5"), "no price for h200, mi355x"),
        (("tables", "published", "--price", "own"), "--price b200=1.95,h200=1.41,mi355x=1.48"),
        (("plan", "repeat_scope=node"), "repeat_scope"),
        (("plan", "name=a/b"), "a/b"),
        (("plan", "engine.image=lmsysorg/sglang:latest"), "engine.image"),
        (("tables", "published", "--baseline", "b200"), "b200"),
        (("simulate", "--port", "80000"), "65535"),
        (("simulate", "experiment=quickstart"), "experiment"),
        (("plan", "--show", "nothing"), "--show"),
        (("sweep", "--bogus"), "bogus"),
        (("frobnicate",), "frobnicate"),
        (("tables",), "paths"),
        (("tables", "nosuch.h5"), "nosuch.h5"),
        (("tables", "published", "--format", "xls"), "xls"),
        (("tables", "published", "--interpolation", "cubic"), "cubic"),
        (("tables", "published", "--at", "fast"), "fast"),
        (("tables", "published", "--at", "-3"), "-3"),
        (("tables", "published", "--price", "nowhere"), "nowhere"),
        (("tables", "published", "--price", "b200=much"), "much"),
        (("tables", "published", "--baseline", "tpu"), "tpu"),
        (("merge", "published"), "output"),
        (("simulate", "engine=simulated", "hardware=h200", "checkpoint=glm5_nvfp4"), "nvfp4"),
        (("simulate", "--fault", "explode"), "explode"),
        (("simulate", "hardware=gb200", "roles=wide", "tp=8", "speculative=off"), "one server on one node"),
        (("simulate", "roles=pd", "workload.endpoint=generate", "speculative=off"), "one server on one node"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)
def test_wrong_usage_is_said_and_exits_with_2(typed, arguments, said):
    code, told = typed(*arguments)

    assert code == 2, told
    assert said.lower() in told.lower()
    assert "next:" in told
    assert "Traceback" not in told


def test_status_of_a_directory_that_is_no_campaign_says_so(tmp_path):
    done = bench(tmp_path, "status", ".")

    assert done.returncode == 1
    assert "plan.json is missing" in done.stderr


def test_bad_files_are_named_and_the_rest_is_merged(tmp_path):
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "text.h5").write_text("no HDF5")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = [1, 2, 3]

    done = bench(tmp_path, "merge", ".", "published", "-o", "all.h5")

    assert done.returncode == 1
    assert all(name in done.stderr for name in ("empty.h5", "text.h5", "foreign.h5"))
    assert "53 points" in done.stderr


def test_strict_stops_at_the_first_bad_file_and_writes_nothing(tmp_path):
    (tmp_path / "text.h5").write_text("no HDF5")

    done = bench(tmp_path, "merge", "text.h5", "published", "-o", "all.h5", "--strict")

    assert done.returncode == 1
    assert not (tmp_path / "all.h5").exists()


def test_json_is_one_object_and_nothing_else_on_standard_output(tmp_path):
    plan = json.loads(bench(tmp_path, "plan", "experiment=h200_vs_b200", "--json").stdout)
    tables = json.loads(bench(tmp_path, "tables", "published", "--format", "json").stdout)

    assert (plan["n_points"], len(plan["jobs"]), plan["n_server_starts"]) == (20, 4, 4)
    assert set(tables) == {
        "points",
        "frontier",
        "arms",
        "iso",
        "bands",
        "saturation",
        "speculation",
        "energy",
        "startup",
        "sessions",
        "prices",
        "notes",
    }


def test_plan_writes_nothing(tmp_path):
    bench(tmp_path, "plan", "experiment=quickstart")
    bench(tmp_path, "sweep", "experiment=quickstart", "hydra/launcher=plan")

    assert [f.name for f in tmp_path.iterdir()] == ["tmp"]


def test_what_cannot_be_is_left_out_with_its_reason(tmp_path):
    done = bench(
        tmp_path,
        "plan",
        "-m",
        "hardware=h200,b200,mi355x",
        "checkpoint=glm5_fp8,glm5_nvfp4",
        "tp=4,8",
        "speculative=off,mtp",
        "concurrency=4,8",
    )

    assert done.returncode == 0
    assert "24 points in 12 node jobs" in done.stdout
    said = " ".join(done.stdout.split())
    assert said.count("points): ") == 12
    assert "does not fit" in said
    assert "no tensor cores" in said


def test_point_scope_starts_a_server_for_each_point(tmp_path):
    plan = json.loads(bench(tmp_path, "plan", "experiment=h200_vs_b200", "server_scope=point", "--json").stdout)

    assert (plan["n_points"], plan["n_server_starts"]) == (20, 20)


def test_ones_own_cluster_and_prices_come_from_a_config_directory(tmp_path):
    (tmp_path / "site/price").mkdir(parents=True)
    (tmp_path / "site/price/mine.yaml").write_text("id: mine\nusd_per_gpu_h: {b200: 10.0}\n")

    plan = json.loads(bench(tmp_path, "plan", "concurrency=4", "--config-dir", "site", "price=mine", "--json").stdout)

    job = plan["jobs"][0]
    assert job["estimate_usd"] == pytest.approx(job["estimate_s"] / 3600 * 8 * 10.0)


def test_ones_own_archive_keeps_what_it_holds_whatever_its_name(tmp_path):
    bench(tmp_path, "merge", "published", "-o", "archive.h5")
    (tmp_path / "empty").mkdir()

    done = bench(tmp_path, "merge", "empty", "-o", "archive.h5")

    assert done.returncode == 0, done.stderr
    assert "53 points" in done.stderr


@pytest.mark.parametrize(
    "text",
    ["comon: [tp=4]\narms: [[tp=4]]", "arms: []", "arms: tp=8", "arms: 5", "", "common: {a: 1}", "arms: [[tp=4]", "- tp=4", "arms: [[\t]]"],
)
def test_an_experiment_of_the_wrong_shape_is_refused(typed, tmp_path, text):
    (tmp_path / "site/experiment").mkdir(parents=True)
    (tmp_path / "site/experiment/mine.yaml").write_text(text)

    code, told = typed("plan", "--config-dir", "site", "experiment=mine")

    assert code == 2
    assert "Traceback" not in told


def test_output_that_cannot_be_written_is_exit_code_3(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "glm5bench", "tables", "published"], cwd=ROOT, stdout=full, stderr=-1, text=True, check=False
        )

    assert done.returncode == 3
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_tables_of_nothing_say_so(tmp_path):
    done = bench(tmp_path, "tables", ".")

    assert done.returncode == 1
    assert "No point was found" in done.stderr


def test_a_terminal_that_lacks_a_character_gets_everything_else(tmp_path):
    write_point(tmp_path / "p.h5", measured(hardware="b200é"))
    told = bench(tmp_path, "tables", "p.h5", PYTHONIOENCODING="ascii")

    assert told.returncode == 0, told.stderr
    assert "B200? FP8 MTP" in told.stdout


@pytest.mark.parametrize(
    ("argv", "orig_argv", "named"),
    [
        (["glm5bench"], ["python3", "glm5bench"], "glm5bench"),
        ([".venv/bin/glm5bench"], [".venv/bin/python3", ".venv/bin/glm5bench"], ".venv/bin/glm5bench"),
        (["/my venv/glm5bench"], ["python3", "/my venv/glm5bench"], "'/my venv/glm5bench'"),
        (["/x/glm5bench/__main__.py"], [".venv/bin/python", "-m", "glm5bench", "plan"], ".venv/bin/python -m glm5bench"),
    ],
)
def test_printed_commands_name_the_program_as_it_was_called(monkeypatch, argv, orig_argv, named):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", orig_argv)

    said = as_called("next: `glm5bench resubmit DIR`, or glm5bench counts /opt/glm5bench tables, `glm5bench images pull`")
    assert said == f"next: `{named} resubmit DIR`, or glm5bench counts /opt/glm5bench tables, `{named} images pull`"
