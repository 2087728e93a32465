"""Searches on this machine: from conf/ to an answer, through kills, and with records that do not fit."""

import json
import os
import shutil
import signal

import pytest
from program import SMALL, beats, bench, kill_everything, point_files, servers_of, status, sweep, until

from glm5bench.campaign.opening import planned_jobs
from glm5bench.directory import Campaign
from glm5bench.errors import UsageError
from glm5bench.node.searching import known, verified

# a band and a spread that also hold on a machine so busy that the simulated server is several times too slow
BAND = ("hardware=h200", "search=frontier", "search.band=[15,100]", "search.candidates=[1,16]", "search.spread=0.05")
FIVE = (*BAND, "search.tolerance=0.01", "search.most_points=5")  # never reached: planned points, then chosen ones


def decisions(tmp_path):
    """The decisions of every arm."""
    files = sorted((tmp_path / "outputs" / "c" / "search").glob("*.jsonl"))
    return [json.loads(line) for f in files for line in f.read_text().splitlines()]


def searches(tmp_path):
    campaign = Campaign(tmp_path / "outputs" / "c")
    return campaign, [job.search for job in planned_jobs(campaign.read_plan(), "") if job.search]


def assert_decisions_repeat(tmp_path):
    campaign, found = searches(tmp_path)
    for search in found:
        now = known(campaign, search)
        for line in now.lines[search.own]:
            verified(search, now, line)


def test_a_search_goes_from_conf_to_an_answer_with_its_claim(tmp_path):
    done = sweep(tmp_path, *BAND, "search.tolerance=0.95")
    answer = bench(tmp_path, "answer", "outputs/c", "--json", "--at", "20,30")
    told = json.loads(answer.stdout)
    now = status(tmp_path)

    assert done.returncode == 0, done.stderr
    assert answer.returncode == 0
    assert now["complete"]
    assert now["search"]["is_reached"]
    assert told["source"] == "simulated"
    assert 0 < told["claim"] <= 0.95
    both = [(r["calibrated_cost_usd_per_mtok"], r["through_points_cost_usd_per_mtok"]) for r in told["rows"]]
    assert all(calibrated > 0 for calibrated, _ in both)
    assert all(calibrated == pytest.approx(through, rel=0.6) for calibrated, through in both if through is not None)
    assert "search reached" in done.stdout
    assert [d["action"] for d in decisions(tmp_path)][-1] == "stop"
    assert_decisions_repeat(tmp_path)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A campaign whose search ended without its answer, and the command that ran it."""
    folder = tmp_path_factory.mktemp("ended")
    return folder, sweep(folder, *FIVE)


@pytest.fixture
def copy(ended, tmp_path):
    """A directory of its own with the ended search, which the test may change."""
    shutil.copytree(ended[0] / "outputs", tmp_path / "outputs")
    return tmp_path


def test_a_search_that_is_not_reached_is_no_success_and_says_what_it_knows(ended):
    tmp_path, done = ended
    answer = bench(tmp_path, "answer", "outputs/c")

    assert done.returncode == 1
    assert answer.returncode == 1
    assert "NOT reached" in answer.stdout
    assert "5 points, the most for one arm" in answer.stdout
    assert len(point_files(tmp_path)) == status(tmp_path)["counts"]["done"] == 5
    chosen = [d for d in decisions(tmp_path) if d["code"] == "best"]
    assert chosen
    assert chosen[0]["candidates"][0]["score"] >= chosen[0]["candidates"][-1]["score"]


def test_a_killed_search_continues_with_the_decisions_that_it_had_made(tmp_path):
    bench(tmp_path, "sweep", *SMALL, "name=c", *FIVE, "workload.prompts_per_concurrency=6")
    until(lambda: len(point_files(tmp_path)) >= 2, "two points")
    kill_everything(tmp_path)
    until(lambda: not servers_of(tmp_path), "the end of the server")
    before, points = decisions(tmp_path), dict(point_files(tmp_path))
    again = sweep(tmp_path, *FIVE, "workload.prompts_per_concurrency=6")

    assert "NOT reached" in again.stdout
    assert decisions(tmp_path)[: len(before)] == before
    assert points.items() <= point_files(tmp_path).items()
    assert len(point_files(tmp_path)) == 5
    assert_decisions_repeat(tmp_path)


def test_two_commands_do_not_measure_one_arm_at_the_same_time(tmp_path):
    long = (*FIVE, "workload.prompts_per_concurrency=6", "search.most_points=12")
    first = bench(tmp_path, "sweep", *SMALL, "name=c", *long)
    until(lambda: any(d["code"] == "best" for d in decisions(tmp_path)), "a chosen point, which the job was not sent with")
    second = bench(tmp_path, "sweep", *SMALL, "name=c", *long)
    bench(tmp_path, "cancel", "outputs/c")

    assert "submitted" in first.stderr
    assert "Nothing to submit" in second.stderr


def test_a_decision_that_would_not_be_repeated_is_refused(ended):
    campaign, (search,) = searches(ended[0])
    now = known(campaign, search)
    line = now.lines[search.own][-2]

    verified(search, now, line)
    with pytest.raises(UsageError, match="would choose"):
        verified(search, now, {**line, "concurrency": 15})
    with pytest.raises(UsageError, match="have changed"):
        verified(search, now, {**line, "used": [*line["used"], "0" * 20]})


def test_a_changed_record_is_refused_before_a_job_is_sent(copy):
    tmp_path = copy
    record = next((tmp_path / "outputs" / "c" / "search").glob("*.jsonl"))
    lines = [line for line in decisions(tmp_path) if line["action"] == "point"]
    for file in (tmp_path / "outputs" / "c" / "points").glob(f"{lines[-1]['key']}.*"):
        file.unlink()
    lines[-1]["concurrency"] += 1
    record.write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = bench(tmp_path, "sweep", *SMALL, "name=c", *FIVE)

    assert again.returncode == 2
    assert "cannot be repeated" in again.stderr
    assert len(list((tmp_path / "outputs" / "c" / "jobs").glob("*/heartbeat.json"))) == 1


def test_a_search_for_a_limit_finds_a_concurrency_on_two_server_starts(tmp_path):
    done = sweep(tmp_path, "hardware=h200", "search=slo", "search.slo=tpot_median<=15ms", "search.spread=0.05", "search.candidates=[1,32]",
                 "search.most_points=16", "engine.time_scale=2")  # fmt: skip
    told = json.loads(bench(tmp_path, "answer", "outputs/c", "--json").stdout)
    (arm,) = told["arms"]

    assert done.returncode == 0, done.stdout
    assert arm["code"] == "reached"
    assert arm["crossing"]["passes"] < arm["crossing"]["fails"]
    assert arm["goodput_rps"] > 0
    assert arm["crossing"]["low"] <= arm["crossing"]["estimate"] <= arm["crossing"]["high"]
    assert_decisions_repeat(tmp_path)


def test_a_saturated_grid_skips_what_cannot_be_on_the_frontier_until_it_is_asked_for(tmp_path):
    grid = ("hardware=h200", "concurrency=2,4,8,12,16", "bind_concurrency=4", "engine.extra_args=[--max-running-requests,'4']")
    done = sweep(tmp_path, *grid, "stop_when=saturated")
    skipped = status(tmp_path)
    again = bench(tmp_path, "sweep", *SMALL, "name=c", *grid, "stop_when=saturated")
    all_of_it = sweep(tmp_path, *grid)

    assert done.returncode == 0, done.stderr
    assert "skipped" in skipped["skipped"][0]
    assert len(point_files(tmp_path)) == 5
    assert skipped["complete"]
    assert len(skipped["points"]) < 5
    assert "Nothing to submit" in again.stderr
    assert all_of_it.returncode == 0


def test_the_spread_comes_from_repeats_and_files_without_repeats_are_refused(tmp_path):
    sweep(tmp_path, "hardware=h200", "concurrency=2", "repeat=0,1,2")
    own = bench(tmp_path, "plan", "--json", *SMALL, *BAND[:-1], "search.repeats=outputs/c")
    refused = bench(tmp_path, "plan", *SMALL, *BAND[:-1], "search.repeats=published")

    question = json.loads(own.stdout)["search"]["question"]
    assert question["spread_source"] == "from outputs/c"
    assert 0 < question["spread"] < 0.5
    assert refused.returncode != 0
    assert "two server starts" in refused.stderr


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("repeat=0,1",), "chooses its own repeats"),
        (("server_scope=point",), "one server for each arm"),
        (("workload=8k1k", "workload.arrivals=poisson", "workload.rate_rps=2"), "can be predicted"),
        (("search.band=[90,40]",), "is empty"),
        (("search.candidates=[8,64]", "bind_concurrency=4"), "is left to choose"),
        (("stop_when=saturated",), "decides itself when it stops"),
        (("search.spread=0.01", "search.repeats=published"), "both set the spread"),
    ],
)
def test_settings_that_contradict_a_search_are_refused(tmp_path, overrides, said):
    done = bench(tmp_path, "plan", *SMALL, *BAND[:4], *overrides)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_part_of_a_search_is_refused_and_a_later_prediction_does_not_replace_the_first(tmp_path):
    two = ("hardware=h200,b200", *BAND[1:], "search.tolerance=0.01", "search.most_points=4")
    first = sweep(tmp_path, *two)
    plan = Campaign(tmp_path / "outputs" / "c").read_plan()
    part = bench(tmp_path, "sweep", *SMALL, "name=c", *two, "hardware=h200")
    again = bench(tmp_path, "sweep", *SMALL, "name=c", *two, "engine.start_estimate_s=77")

    assert "NOT reached" in first.stdout
    assert part.returncode == 2
    assert "other arms" in part.stderr
    assert "Nothing to submit" in again.stderr
    assert [job["search"]["arms"] for job in Campaign(tmp_path / "outputs" / "c").read_plan()["jobs"]] == [
        job["search"]["arms"] for job in plan["jobs"]
    ]


def test_an_invalid_chosen_point_is_not_measured_again_on_the_same_server(tmp_path):
    # the planned points have 68 requests, and a new start is so expensive that the chosen point is measured on the same server
    bench(tmp_path, "sweep", *SMALL, "name=c", "wait=true", *FIVE, "engine.fault='short:70'", "engine.start_estimate_s=600")
    now = status(tmp_path)

    assert now["counts"].get("invalid")
    assert {p["attempts"] for p in now["points"]} == {1}


def test_an_invalid_point_ends_the_job_and_is_not_measured_without_end(tmp_path):
    sweep(tmp_path, *FIVE, "engine.fault='short:3'", "search.candidates=[1,4]")
    now = status(tmp_path)

    assert not now["jobs"]
    assert {p["attempts"] for p in now["points"]} <= {0, 1}
    assert now["counts"].get("invalid")


def test_a_setting_of_a_search_without_a_search_is_refused(tmp_path):
    for override in ("search.tolerance=0.05", "+search.tolerance=0.05"):
        done = bench(tmp_path, "plan", override)

        assert done.returncode == 2
        assert "search=frontier" in done.stderr


def test_a_job_that_is_stopped_leaves_its_search_to_the_next_one(tmp_path):
    bench(tmp_path, "sweep", *SMALL, "name=c", *FIVE, "workload.prompts_per_concurrency=6")
    until(lambda: len(point_files(tmp_path)) >= 4, "the planned points")
    for beat in beats(tmp_path):
        os.kill(beat["pid"], signal.SIGTERM)
    until(lambda: not status(tmp_path)["jobs"], "the end of the job")
    made = bench(tmp_path, "resubmit", "outputs/c")
    until(lambda: not status(tmp_path)["jobs"], "the end of the second job")

    assert made.returncode == 0, made.stdout + made.stderr
    assert decisions(tmp_path)[-1]["code"] == "most_points"
    assert len(point_files(tmp_path)) == 5


@pytest.mark.parametrize("line", ["[]", "7", '{"action": "point"}', '{"action": "point", "key": 3, "is_new_start": 0}', "not json"])
def test_a_damaged_record_of_a_search_is_reported_and_not_a_traceback(copy, line):
    tmp_path = copy
    record = next((tmp_path / "outputs" / "c" / "search").glob("*.jsonl"))
    record.write_text(f"{line}\n{record.read_text()}")
    for command in ("status", "answer", "resubmit"):
        done = bench(tmp_path, command, "outputs/c")

        assert "Traceback" not in done.stderr
        assert "damaged" in done.stderr or done.returncode in (0, 1)  # 1: the search has ended without its answer
