"""How a server ended, in words; the client's own cores; a measurement that is on disk before any further request to its server."""

import os
import resource
import subprocess
import sys

import pytest
from conftest import measured
from program import bench, point_files, status, sweep
from provoked import workload
from scripted import Scripted, answer, sized

from glm5bench.archive.pointfile import read_point, write_point
from glm5bench.client.endpoint import Endpoint
from glm5bench.directory import Campaign
from glm5bench.machine import cores
from glm5bench.node.ending import ended
from glm5bench.node.standalone import Asked, load

A, B = "a" * 20, "b" * 20


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "ended by itself with exit code 1"),
        (127, "ended by itself with exit code 127"),
        (255, "ended by itself with exit code 255"),
        (-24, "was ended by SIGXCPU: its CPU time limit is used up (ulimit -t)"),
        (128 + 24, "was ended by SIGXCPU: its CPU time limit is used up (ulimit -t)"),
        (-25, "was ended by SIGXFSZ: a file reached its size limit (ulimit -f)"),
        (137, "was ended by SIGKILL: usually the kernel or the job's cgroup, because memory ran out, or the scheduler"),
        (-10, "was ended by SIGUSR1"),
    ],
)
def test_an_exit_code_is_told_with_its_signal_and_what_usually_sends_it(code, words):
    assert ended(code) == words


def test_a_process_that_used_up_its_cpu_time_is_told_so():
    limit = lambda: resource.setrlimit(resource.RLIMIT_CPU, (1, 2))  # noqa: E731
    done = subprocess.run([sys.executable, "-c", "while True: pass"], preexec_fn=limit, check=False)

    assert ended(done.returncode).startswith("was ended by SIGXCPU: its CPU time limit")


@pytest.mark.parametrize(
    ("n", "first", "reserved"),
    [(2, 0, ()), (31, 0, ()), (32, 0, (30, 31)), (128, 64, (188, 189, 190, 191)), (512, 0, tuple(range(504, 512)))],
)
def test_the_client_gets_the_last_cores_of_a_large_node_and_none_of_a_small_one(n, first, reserved):
    assert cores.reserved(range(first, first + n)) == reserved


def test_cores_and_priority_are_given_back_after_the_measurement():
    before = os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)
    own = sorted(before[0])[-1:]
    with cores.measuring(own):
        during = os.sched_getaffinity(0)

    assert during == set(own)
    assert (os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)) == before


@pytest.fixture
def campaign(tmp_path):
    return Campaign(tmp_path / "c")


def test_an_unread_measurement_of_a_job_that_has_ended_becomes_an_attempt(campaign):
    write_point(campaign.unread("12", A), measured(A, provenance={"is_server_unread": True}))
    write_point(campaign.unread("13", B), measured(B, provenance={"is_server_unread": True}))

    assert campaign.adopt([A, B], lambda job_id: job_id == "13") == [A]
    (attempt,) = campaign.attempts([A])[A]
    assert (attempt.status, attempt.validity, attempt.is_done) == ("whole", "flagged", True)
    assert "server_unread" in attempt.message
    assert not campaign.unread("12", A).exists()
    assert campaign.unread("13", B).exists()


def test_an_unread_measurement_takes_no_other_attempts_place_and_a_damaged_one_is_left(campaign):
    write_point(campaign.point_file(A, 1), measured(A))
    write_point(campaign.unread("12", A), measured(A, provenance={"is_server_unread": True, "job_id": "12"}))
    campaign.unread("12", B).write_bytes(b"cut")

    assert campaign.adopt([A, B], lambda job_id: False) == [A]
    assert [a.attempt for a in campaign.attempts([A])[A]] == [1, 2]
    assert campaign.unread("12", B).exists()


def test_an_unread_measurement_whose_whole_one_was_written_is_removed(campaign):
    run = {"job_id": "12", "start_utc": "2026-11-30T08:00:00.000+00:00", "start_monotonic_ns": 5}
    write_point(campaign.point_file(A, 1), measured(A, provenance=run))
    write_point(campaign.unread("12", A), measured(A, provenance={**run, "is_server_unread": True}))

    assert campaign.adopt([A], lambda job_id: False) == []
    assert not campaign.unread("12", A).exists()
    assert len(campaign.attempts([A])[A]) == 1


def test_a_measurement_is_kept_before_the_server_is_asked_anything_else():
    asked, kept = [], []

    def play(request):
        asked.append(request.path)
        if request.path.endswith("completions"):
            return answer(2)
        counters = b"vllm:prompt_tokens_total 0\nvllm:generation_tokens_total 0\n"
        return [sized(counters) if request.path == "/metrics" else sized(b"", status="404 Not Found")]

    with Scripted(play) as server:
        wanted = Asked(Endpoint(server.url, ""), "m", workload(prompts=3, osl_tokens=2), 1, 7, {}, 20.0, vocabulary=4000, processes=1)
        done = load(wanted, lambda: None, lambda done, of: None, lambda m: kept.append((m, len(asked))))
    (unread, n_asked), last_answer = kept[0], max(i for i, path in enumerate(asked) if path.endswith("completions"))

    assert n_asked == last_answer + 1
    assert "server_unread" in unread.verdict().codes
    assert "server_unread" not in done.measurement.verdict().codes
    assert unread.requests is done.measurement.requests


def test_what_a_killed_job_left_unread_is_taken_by_the_next_sweep_and_not_measured_again(tmp_path):
    sweep(tmp_path, "concurrency=4")
    root = tmp_path / "outputs" / "c"
    (name,) = point_files(tmp_path)
    m, _ = read_point(root / "points" / name)
    key = m.key
    campaign = Campaign(root)
    for left in (root / "points").iterdir():
        left.unlink()
    write_point(campaign.unread("4711", key), measured(key, provenance={**m.provenance, "is_server_unread": True}))
    again = bench(tmp_path, "resubmit", "outputs/c")

    assert again.returncode in (0, 1)
    assert f"{key}: measured by a job that was killed before it read the server's facts" in again.stderr
    assert status(tmp_path)["points"][0]["state"] == "done"
