"""A campaign's status as text."""

from glm5bench.errors import counted
from glm5bench.report.campaign import resubmission_text, status_text

POINT = {
    "state": "failed",
    "arm": "b200 fp8",
    "concurrency": 4,
    "failure_class": "server_oom",
    "validity": "",
    "attempts": 1,
    "message": "out of memory\nat 3",
}
JOB = {
    "job_id": "7", "state": "running", "slurm": "", "node": "gpu1", "phase": "measuring", "doing": "", "node_job": "b200-1",
    "key": "k",
    "requests_done": 3, "requests": 40, "points_done": 1, "points": 2, "rate_requests_s": 1.0, "left_s": 15.0,
    "beat_age_s": 0.0, "said": "",
}  # fmt: skip


def record(points=(), jobs=(), **more):
    return {
        "campaign": "c",
        "simulated": False,
        "counts": {"failed": len(points)},
        "slurm_answers": None,
        "points": points,
        "jobs": jobs,
        **more,
    }


def test_the_last_lines_of_a_failure_are_printed_once():
    text = status_text(record([POINT, {**POINT, "arm": "h200 fp8"}, {**POINT, "arm": "h200 fp8", "concurrency": 8}]))

    assert text.count("out of memory") == 1
    assert "failed: h200 fp8 concurrency 4, 8 (server_oom, 1 attempt)" in text
    assert "(the same message)" in text


def test_the_time_that_is_left_names_what_it_counts():
    assert "measuring 3/40 requests, 1 of 2 points of b200-1, about 15 s of measuring left" in status_text(record(jobs=[JOB]))


def test_a_job_that_nobody_can_report_on_is_unknown():
    text = status_text(record(jobs=[{**JOB, "state": "unknown"}], slurm_answers=False))

    assert "unknown: no answer from Slurm and no heartbeat from the job" in text
    assert "Slurm does not answer." in text


def test_numbers_and_nouns_agree():
    assert [counted(n, "point") for n in (0, 1, 2, 1000)] == ["0 points", "1 point", "2 points", "1,000 points"]
    sent = {"key": "k", "class": "lost", "is_sent": True, "why": "", "tries": 0, "nodes": []}
    told = resubmission_text({"points": [sent], "jobs": [], "nodes_away": {}}, is_dry=True)
    assert told.startswith("1 point would be sent: lost")
