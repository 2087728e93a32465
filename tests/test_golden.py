"""Outputs that refactoring must not change: point keys, plans, batch scripts, digests, exports, and the fields of every `--json`.

Each test recreates one file of golden/. After an intended change, `GLM5BENCH_WRITE_GOLDEN=1 pytest tests/test_golden.py` writes the files.
"""

import hashlib
import json
import os
import re
import sys
from pathlib import Path

import pytest
from conftest import compose, measured, plan, power_of
from foreign import DATA as FOREIGN
from foreign import FILES
from program import ROOT, SMALL, bench
from test_recipe import ARMS

GOLDEN = ROOT / "tests" / "golden"
EXPERIMENTS = sorted(f.stem for f in (ROOT / "conf" / "experiment").glob("*.yaml"))
PUBLISHED = str(ROOT / "glm5bench" / "published" / "published.h5")
OF_THE_MOMENT = ("created_utc", "git", "glm5bench")
OF_THE_TEXT_OF_CONF = (
    "recipe",
    "recipe_exceptions",
    "model_recipe",
    "sets",
    "origin",
)  # rules may move between files of conf/, but their content may not change


def same_as_before(name, text):
    """Compares the text with golden/NAME, or writes the file if GLM5BENCH_WRITE_GOLDEN is set."""
    path = GOLDEN / name
    if os.environ.get("GLM5BENCH_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def as_text(value):
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def steady(value, places):
    """The value without parts that depend on the commit, machine or directory; floats are rounded to nine digits."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in (*OF_THE_MOMENT, *OF_THE_TEXT_OF_CONF)}
        arm = kept.pop("arm_id", None)
        places = {**places, arm: "ARM"} if arm else places
        return {steady(k, places): steady(v, places) for k, v in kept.items()}
    if isinstance(value, list):
        return [steady(v, places) for v in value]
    if isinstance(value, str):
        for place, name in places.items():
            value = value.replace(place, name)
        return re.sub(r"(?<=-)[0-9a-f]{10}\b", "NAME", value)  # the name of an array, which depends on the directory
    return float(f"{value:.9g}") if isinstance(value, float) else value


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def brief(job):
    """A node job with its arm as a digest, and with one line per point."""

    def line(p):
        return f"{p['key']}: concurrency {p['concurrency']}, seed {p['seed']}, repeat {p['repeat']}"

    starts = [{**start, "points": [line(p) for p in start["points"]]} for start in job["starts"]]
    return {**job, "arm": sha256(as_text(job["arm"])), "starts": starts}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_is_planned_and_submitted_as_before(experiment, tmp_path):
    made = bench(tmp_path, "plan", f"experiment={experiment}", "cluster=example", "--json")
    record = steady(json.loads(made.stdout), {str(tmp_path): "HERE", sys.executable: "PYTHON", os.path.realpath(sys.executable): "PYTHON"})

    scripts = record.pop("sbatch")
    jobs = [brief(job) for job in record.pop("jobs")]

    assert made.returncode == 0, made.stderr
    same_as_before(f"plans/{experiment}.json", as_text({**record, "jobs": jobs}))
    same_as_before(f"plans/{experiment}.sbatch", "\n".join(f"== {Path(name).name}\n{text}" for name, text in sorted(scripts.items())))


def test_every_published_arm_keeps_its_keys():
    keys = {}
    for overrides in ARMS:
        jobs = plan([compose(*overrides.split(), f"concurrency={c}", f"repeat={c % 2}") for c in (4, 65)]).jobs
        keys[overrides] = {f"{p.concurrency}, repeat {p.repeat}": p.key for job in jobs for p in job.points}

    same_as_before("keys.json", as_text(keys))


def test_every_kind_of_archive_keeps_its_digest(tmp_path):
    from glm5bench.archive.collection import collect
    from glm5bench.archive.pointfile import write_point
    from glm5bench.archive.union import merge
    from glm5bench.exchange.foreign.formats import imported
    from glm5bench.exchange.foreign.imported import given

    made = {
        "plain": measured(),
        "with log and server": measured("b" * 20, log="a line\n" * 9, server={"version": "0.5.12"}),
        "with telemetry": measured("c" * 20, telemetry=power_of(250.0)),
        "simulated": measured("d" * 20, time_scale=20.0, engine="simulated"),
    }
    digests = {f"point file, {name}": write_point(tmp_path / f"{i}.h5", m) for i, (name, m) in enumerate(made.items())}
    for format_, name in FILES:
        digests[f"import {name}"] = [m.digest() for m in imported(format_, FOREIGN / name, given([]))]
    merge([str(tmp_path / f"{i}.h5") for i in range(len(made))], tmp_path / "merged.h5")
    digests["archive of the point files"] = collect([str(tmp_path / "merged.h5")]).digest()
    digests["published"] = collect([PUBLISHED]).digest()

    same_as_before("digests.json", as_text(digests))


@pytest.mark.parametrize("format_", ["sglang", "inferencex", "csv"])
def test_exports_of_the_published_points_are_the_same_bytes(format_, tmp_path):
    bench(tmp_path, "export", format_, PUBLISHED, "-o", "out")

    same_as_before(f"exports/{format_}.sha256", sha256((tmp_path / "out").read_text(encoding="utf-8")) + "\n")


def fields(values):
    """Names and types of all these values together; a list is described by its members."""
    kinds = {
        "number" if isinstance(v, int | float) and not isinstance(v, bool) else type(v).__name__
        for v in values
        if not isinstance(v, dict | list)
    }
    found = [" or ".join(sorted(kinds))] if kinds else []
    names = sorted({name for v in values if isinstance(v, dict) for name in v})
    if any(isinstance(v, dict) for v in values):
        found.append({name: fields([v[name] for v in values if isinstance(v, dict) and name in v]) for name in names})
    if any(isinstance(v, list) for v in values):
        found.append([fields([member for v in values if isinstance(v, list) for member in v])])
    return found[0] if len(found) == 1 else found


def test_the_json_of_every_command_has_the_fields_that_it_had(tmp_path):
    def told(*arguments):
        done = bench(tmp_path, *arguments)
        assert done.stdout, (arguments, done.stderr)
        return json.loads(done.stdout)

    bench(tmp_path, "sweep", *SMALL, "name=c", "wait=true", "concurrency=2", "speculative=off,mtp")
    (tmp_path / "outputs" / "c" / "points").rename(tmp_path / "outputs" / "c" / "moved")
    found = {
        "status": told("status", "outputs/c", "--json"),
        "resubmit": told("resubmit", "outputs/c", "--dry-run", "--json"),
        "check": told("check", PUBLISHED, "--json"),
        "tables": told("tables", PUBLISHED, "--format", "json"),
        "diff": told("diff", PUBLISHED, PUBLISHED, "--json"),
        "plan": told("plan", *SMALL, "concurrency=2", "--json"),
        "images": told("images", "list", "experiment=glm52", "cluster=example", "--json"),
        "doctor": told("doctor", *SMALL, "concurrency=2", "--json"),
    }

    same_as_before("json_fields.json", as_text({name: fields([steady(value, {})]) for name, value in found.items()}))
