"""Estimates use the campaign's own times: those of the arm, or else those of arms of the same kind. Keys do not change."""

import json

import pytest
from conftest import plan
from program import SMALL, bench

from glm5bench import plan as planning
from glm5bench.campaign.history import history, learned
from glm5bench.directory import Campaign
from glm5bench.settings.overrides import compose
from glm5bench.values.point import kind_of


def job(*overrides):
    return plan([compose("hardware=h200", "concurrency=[4,8]", *overrides)]).jobs[0]


@pytest.fixture
def campaign(tmp_path):
    return Campaign(tmp_path)


def saw(campaign, job, what, *told, job_id="7"):
    lines = [{"what": what, "arm": job.arm_id, "kind": kind_of(job.arm), "took_s": t, "estimate_s": e} for t, e in told]
    (campaign.jobs / job_id).mkdir(parents=True, exist_ok=True)
    with (campaign.jobs / job_id / "timing.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def test_without_a_history_nothing_changes(campaign):
    assert learned(job(), history(campaign)) is not None
    assert learned(job(), history(campaign)) == job()


def test_starts_and_points_are_estimated_as_they_were_seen(campaign):
    saw(campaign, job(), "start", (1500, 900), (1400, 900), job_id="7")
    saw(campaign, job(), "start", (9000, 900), job_id="8")
    saw(campaign, job(), "point", (30, 20), (60, 20))
    made = learned(job(), history(campaign))
    points = job().estimate_s - 900 - planning.JOB_OVERHEAD_S

    assert (made.arm.engine.start_estimate_s, made.pace) == (1500, 2.25)
    assert made.estimate_s == pytest.approx(planning.JOB_OVERHEAD_S + 1500 + 2.25 * points)
    assert made.estimate_usd / made.estimate_s == pytest.approx(job().estimate_usd / job().estimate_s)
    assert [p.key for p in made.points] == [p.key for p in job().points]


def test_an_arm_that_was_not_seen_learns_from_its_kind_and_from_no_other(campaign):
    saw(campaign, job(), "start", (1500, 900))

    assert learned(job("speculative=off"), history(campaign)).arm.engine.start_estimate_s == 1500
    assert learned(job("hardware=b200"), history(campaign)).arm.engine.start_estimate_s == 900


@pytest.mark.parametrize(("took", "pace"), [(1, 0.2), (20000, 10.0)])
def test_an_accident_is_no_pace(campaign, took, pace):
    saw(campaign, job(), "point", (took, 100))

    assert learned(job(), history(campaign)).pace == pace


def test_lines_that_say_nothing_are_passed_over(campaign):
    saw(campaign, job(), "point", (5, 0))
    with (campaign.jobs / "7" / "timing.jsonl").open("a") as file:
        file.write('{"what": "start"}\n[]\nnull\n{"what": "point", "arm": 1, "kind": 2, "took_s": "x"}\n{"wh')

    assert learned(job(), history(campaign)) == job()


def test_a_sweep_leaves_a_history_and_the_next_one_reads_it(tmp_path):
    asked = [*SMALL, "wait=true", "name=c"]
    assert bench(tmp_path, "sweep", *asked, "concurrency=2,4").returncode == 0
    lines = [json.loads(line) for f in tmp_path.glob("outputs/c/jobs/*/timing.jsonl") for line in f.read_text().splitlines()]
    next(tmp_path.glob("outputs/c/points/*.h5")).unlink()
    assert bench(tmp_path, "sweep", *asked, "concurrency=2,4").returncode == 0
    sent = [json.loads(f.read_text())["job"] for f in tmp_path.glob("outputs/c/jobs/*.json")]

    assert [line["what"] for line in lines] == ["start", "point", "point"]
    assert all(line["took_s"] > 0 for line in lines)
    assert {5.0, lines[0]["took_s"]} == {job["arm"]["engine"]["start_estimate_s"] for job in sent}
