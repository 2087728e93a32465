"""Searches on the cluster: two arms on two kinds of nodes decide for themselves, through killed jobs."""

import json
import os
import signal

from login import LONG

from glm5bench.campaign.opening import planned_jobs
from glm5bench.directory import Campaign
from glm5bench.node.searching import known, verified

# five points for each arm, the last ones chosen; the tolerance is never reached
TWO = (*LONG, "hardware=h200,b200", "search=frontier", "search.band=[15,100]", "search.candidates=[1,16]", "search.spread=0.05",
       "search.tolerance=0.01", "search.most_points=5")  # fmt: skip


def decisions(site):
    """The decisions by arm."""
    return {f.stem: [json.loads(line) for line in f.read_text().splitlines()] for f in site.campaign.glob("search/*.jsonl")}


def assert_decisions_repeat(site):
    campaign = Campaign(site.campaign)
    for job in planned_jobs(campaign.read_plan(), ""):
        now = known(campaign, job.search)
        for line in now.lines[job.search.own]:
            verified(job.search, now, line)


def test_a_search_over_two_arms_goes_through_a_killed_and_a_requeued_job_to_the_same_decisions(site):
    site.sweep(*TWO)
    site.until(lambda: len(decisions(site)) == 2, 90, "a decision of each arm")
    before = decisions(site)
    killed, *others = site.job_pythons()
    os.kill(killed, signal.SIGKILL)
    if others and (beat := site.beat()):
        site.cluster.run("scontrol", "requeue", beat["job_id"], check=False)
    site.over()
    site.resubmit()
    now = site.over()

    assert now["counts"] == {"done": 10}, site.tell()
    site.assert_once(10)
    after = decisions(site)
    assert {arm: lines[: len(before[arm])] for arm, lines in after.items()} == before
    assert {lines[-1]["code"] for lines in after.values()} == {"most_points"}
    assert_decisions_repeat(site)
    assert not now["complete"]
    assert "NOT reached" in site.bench("status", str(site.campaign)).stdout


def test_a_new_tolerance_continues_a_search_that_has_ended(site):
    site.sweep(*TWO, "hardware=h200", "search.tolerance=0.95")
    first = site.over()
    site.sweep(*TWO, "hardware=h200")
    second = site.over()

    assert first["search"]["is_reached"]
    assert first["counts"]["done"] < second["counts"]["done"] == 5
    assert not second["complete"]
