"""A run of the load client against a scripted server: what it sends and when, what it keeps, how it ends."""

import dataclasses
import errno
import gzip
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from scripted import End, Scripted, answer, chunk, chunked, head, loaded, nowhere, sessions, sized, tokens

from glm5bench.analysis.metrics import figures
from glm5bench.archive.measurement import Measurement
from glm5bench.archive.pointfile import read_point, write_point
from glm5bench.client.endpoint import Endpoint
from glm5bench.client.protocol import Patience, Protocol
from glm5bench.client.shards import Shard, order_of
from glm5bench.client.traffic import Prepared, Target, Traffic
from glm5bench.errors import ClientError, ServerError
from glm5bench.values.point import Point
from glm5bench.values.workload import Workload

UNCOUNTED = b'data: {"choices": [{"text": "a", "finish_reason": "stop"}]}\n\n'
FIRST = head("transfer-encoding: chunked") + chunk(tokens(9)[0])  # an answer up to its first token
SMALL = Workload("small", 40, 3, 1.0, "completions", 2, None, 1)


def classes(result):
    """The class of each request's error."""
    return [error.partition(":")[0] for error in result.requests.error]


def children():
    """The shards of this process: (pid, command line and environment)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and os.path.exists(entry / "stat"):
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                said = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes() if parent == os.getpid() else b""
            except OSError:
                continue
            if b"glm5bench.client.shard" in said:
                found.append((int(entry.name), said))
    return found


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    """The watch checks often, so that a short stall is also noticed in less than twice the stall timeout."""
    monkeypatch.setattr("glm5bench.client.load.WATCH_S", 0.05)


class Gone(Exception):
    """The error that a check raises."""


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        ([End.RESET], "reset: "),
        ([FIRST, End.CLOSE], "cut short: the connection was closed in the middle of the answer"),
        (chunked(*tokens(9)[:4]), "cut short: no finish reason"),
        (chunked(*tokens(3)), "cut short: finished by length after 3 of 4 tokens"),
        ([sized(b'{"error":\n "queue full"}', status="503 Busy")], 'HTTP 503: {"error": "queue full"}'),
        ([sized(b"slow down", status="429 Too Many Requests")], "HTTP 429: slow down"),
        ([sized(b"", status="500 Oh")], "HTTP 500"),
        (chunked(b'data: {"error": {"message": "out of cache"}}\n\n', b"data: [DONE]\n\n"), "error: out of cache"),
        (chunked(b"data: [DONE]\n\n"), "empty: no token came"),
        ([sized(b"")], "empty: no token came"),
        (chunked(UNCOUNTED, b"data: [DONE]\n\n"), "uncounted: the server gave no token count"),
        (chunked(b"data: {\n\n", *tokens(4)), "unreadable: event '{'"),
        ([sized(b"".join(tokens(4)), "content-encoding: br")], "unreadable: the body is not valid br"),
        ([b"SSH-2.0\r\n"], "protocol: "),
        (answer(4), ""),
    ],
)
def test_what_is_wrong_with_an_answer_stands_in_its_error_and_the_next_is_not_concerned(steps, error):
    with Scripted(lambda request: answer(4) if request.said["session"] else steps) as server:
        result = loaded(server.url, sessions(3, n_out=4))

    first, *others = result.requests.error
    assert first.startswith(error)
    assert bool(first) == bool(error)
    assert others == ["", ""]
    assert [r.said["session"] for r in server.requests] == [0] * result.health.resends + [0, 1, 2]


def test_a_server_that_is_not_there_refuses_every_request_until_the_run_is_ended():
    result = loaded(nowhere(), sessions(100), concurrency=2)

    assert set(classes(result)) == {"refused"}
    assert result.ended_by.failure_class == "server_crash"
    assert "refused" in str(result.ended_by)
    assert 10 < len(result.requests.error) < 40


def test_one_answer_that_never_comes_is_a_hang_while_others_come():
    def play(request):
        return [End.HANG, b""] if request.number == 0 else [head("transfer-encoding: chunked"), 0.02, *map(chunk, [*tokens(2), b""])]

    with Scripted(play) as server:
        result = loaded(server.url, sessions(2000), concurrency=2, stall_s=0.6, duration_s=2.6)

    assert result.ended_by is None
    assert [error for error in result.requests.error if error] == ["hang: no first token for 0.6 s"]


@pytest.mark.parametrize("steps", [[End.HANG], [FIRST, End.HANG]], ids=["before the first byte", "between two chunks"])
def test_a_server_that_falls_silent_ends_the_run_and_what_had_come_is_kept(steps):
    with Scripted(lambda request: steps if request.number >= 2 else answer(2)) as server:
        result = loaded(server.url, sessions(9), concurrency=2, stall_s=0.6)

    assert result.ended_by.failure_class == "server_hung"
    assert "sent no token for 0.6 s, 2 of 9 requests done" in str(result.ended_by)
    assert sorted(classes(result)) == ["", "", "hang", "hang"]
    assert sorted(np.diff(result.requests.chunk_offsets).tolist()) == [*[len(steps) - 1] * 2, 2, 2]
    assert (result.requests.sent_ns >= 0).all()


def test_a_server_that_is_silent_before_the_run_is_not_waited_for_many_times():
    with Scripted(lambda request: [End.HANG], models=[End.HANG]) as server:
        result = loaded(server.url, sessions(130), concurrency=130, stall_s=0.2)

    assert result.ended_by.failure_class == "server_hung"
    assert server.n_connections < 2 * 130


def test_a_server_that_dies_during_a_run_ends_it_and_leaves_what_was_measured():
    with Scripted(lambda request: [FIRST, End.DIE] if request.number == 10 else answer(2)) as server:
        result = loaded(server.url, sessions(5000), concurrency=3)

    assert result.ended_by.failure_class == "server_crash"
    assert 8 <= classes(result).count("") <= 10
    assert set(classes(result)) <= {"", "cut short", "reset", "refused"}
    assert len(result.requests.error) < 60


def test_a_run_that_its_check_ends_keeps_what_is_finished_and_marks_what_was_in_flight():
    def check():
        if server.in_flight == 2:
            raise Gone

    with Scripted(lambda request: [FIRST, 0.05, End.HANG, b""] if request.number >= 3 else answer(2)) as server:
        result = loaded(server.url, sessions(9), concurrency=2, check=check)

    assert isinstance(result.ended_by, Gone)
    assert sorted(result.requests.error) == ["", "", "", *["stopped: the run was ended while it was in flight"] * 2]
    assert sorted(result.requests.output_tokens.tolist()) == [1, 1, 2, 2, 2]
    assert (result.requests.first_token_ns >= result.requests.sent_ns).all()


def test_a_closed_loop_keeps_as_many_in_flight_as_it_has_users_and_never_more():
    together = threading.Barrier(3)

    def play(request):
        if request.number < 3:
            together.wait(20)
        return answer(2)

    with Scripted(play) as server:
        result = loaded(server.url, sessions(60), concurrency=3)

    assert server.peak == 3
    assert result.requests.error == ("",) * 60
    assert sorted(r.said["session"] for r in server.requests) == list(range(60))
    assert server.n_connections == 3


def test_users_begin_one_after_another_over_the_ramp():
    together = threading.Barrier(4)

    def play(request):
        together.wait(20)
        return answer(2)

    with Scripted(play) as server:
        sent = loaded(server.url, sessions(4), concurrency=4, ramp_s=0.4).requests.sent_ns / 1e9

    assert (np.sort(sent) >= np.array([0, 0.1, 0.2, 0.3]) - 0.002).all()


def test_after_its_duration_a_run_sends_nothing_and_waits_for_what_it_has_sent():
    with Scripted(lambda request: [head("transfer-encoding: chunked"), 0.05, *map(chunk, [*tokens(2), b""])]) as server:
        r = loaded(server.url, sessions(50), duration_s=0.12).requests

    assert 1 <= len(server.requests) <= 3
    assert r.error == ("",) * len(server.requests)
    assert (r.sent_ns < 120_000_000).all()


def test_what_was_due_within_the_duration_is_sent_however_late_and_nothing_else():
    with Scripted(lambda request: [head("transfer-encoding: chunked"), 0.05, *map(chunk, [*tokens(2), b""])]) as server:
        r = loaded(server.url, sessions(9), due_s=[0.0] * 6 + [0.12, 0.2, 9.0], duration_s=0.12).requests

    assert r.due_ns.tolist() == [0] * 6
    assert r.sent_ns.max() > 120_000_000
    assert r.error == ("",) * len(server.requests) == ("",) * 6


def test_a_request_of_an_open_loop_is_sent_when_it_is_due_and_not_before():
    due = [0.05, 0.01, 0.03, 0.0301, 0.08]
    with Scripted(lambda request: answer(2)) as server:
        result = loaded(server.url, sessions(5), concurrency=5, due_s=due)

    assert result.requests.due_ns.tolist() == [round(s * 1e9) for s in due]
    assert (result.requests.sent_ns >= result.requests.due_ns).all()
    assert [r.said["session"] for r in server.requests][:1] == [1]


def test_a_request_that_had_to_wait_for_a_connection_was_late_and_its_clock_ran_since_it_was_due():
    slow = [head("transfer-encoding: chunked"), 0.03, *map(chunk, [*tokens(2), b""])]
    with Scripted(lambda request: slow) as server:
        result = loaded(server.url, sessions(4), concurrency=1, due_s=[0.0, 0.001, 0.002, 0.003])

    assert server.peak == 1
    assert result.health.late_sends == 3
    assert result.health.late_send_max_s > 0.08
    assert figures(result.requests, from_due=True).ttft.mean > figures(result.requests).ttft.mean + 0.03


def test_the_turns_of_a_conversation_come_one_after_another_each_after_the_answer_and_its_pause():
    with Scripted(lambda request: answer(2)) as server:
        r = loaded(server.url, sessions(4, turns=3, pause_s=0.0104), concurrency=2).requests

    sent, end = r.sent_ns.reshape(4, 3), r.end_ns.reshape(4, 3)
    assert (sent[:, 1:] - end[:, :-1] >= 10_400_000).all()
    assert (r.sent_ns >= r.due_ns).all()
    for session in range(4):
        assert [q.said["turn"] for q in server.requests if q.said["session"] == session] == [0, 1, 2]


@pytest.mark.parametrize("steps", [[sized(b"busy", status="503 Busy")], [FIRST, End.CLOSE]], ids=["503", "cut short"])
def test_a_turn_that_failed_ends_its_conversation(steps):
    with Scripted(lambda request: steps if request.number == 1 else answer(2)) as server:
        result = loaded(server.url, sessions(2, turns=3))

    assert result.requests.error[0] == ""
    assert result.requests.error[1].startswith(("HTTP 503: busy", "cut short: "))
    assert result.requests.error[2:] == ("not sent: the turn before it failed", "", "", "")
    assert len(server.requests) == 5


def test_a_disk_that_is_full_changes_nothing_but_where_answers_are_kept(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Scripted(lambda request: answer(3)) as server:
        with_disk = loaded(server.url, sessions(4, n_out=3))
        monkeypatch.setattr(os, "pwrite", full)
        without = loaded(server.url, sessions(4, n_out=3))

    assert (with_disk.health.is_spool_full, without.health.is_spool_full) == (False, True)
    assert without.requests.error == ("",) * 4
    assert without.requests.chunk_tokens.tolist() == with_disk.requests.chunk_tokens.tolist() == [1] * 12
    assert server.requests[0].body == server.requests[4].body


def test_a_disk_that_fills_up_in_the_middle_loses_nothing(monkeypatch):
    write, left = os.pwrite, [9]

    def filling(fd, data, offset):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[: max(1, len(data) // 2)], offset)

    monkeypatch.setattr(os, "pwrite", filling)
    with Scripted(lambda request: answer(3)) as server:
        result = loaded(server.url, sessions(6, n_out=3))

    assert result.requests.error == ("",) * 6
    assert [r.said["session"] for r in server.requests] == list(range(6))


def test_a_server_that_compresses_without_being_asked_is_read():
    body = gzip.compress(b"".join(tokens(3)))
    with Scripted(lambda request: [sized(body, "content-encoding: gzip")]) as server:
        result = loaded(server.url, sessions(2, n_out=3))

    assert result.requests.error == ("", "")
    assert result.requests.output_tokens.tolist() == [3, 3]
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_progress_counts_every_request_that_has_ended_however_it_did():
    told = []
    loaded(nowhere(), sessions(4), due_s=[0.0, 0.0, 0.0, 0.2], progress=lambda done, of: told.append((done, of)))

    assert (3, 4) in told


def protocol(server, **changes):
    """The protocol of a small point of two users against a scripted server."""
    workload = dataclasses.replace(SMALL, **changes)
    endpoint = Endpoint(server.url, "s3cret")
    return Protocol(endpoint, "model", workload, Point("k", "a", 2, 0, 0, 2), Patience(30), lambda done, of: None, processes=1)


def test_a_protocol_warms_up_and_measures_other_prompts_of_the_lengths_asked_for():
    with Scripted(lambda request: answer(3)) as server:
        client = protocol(server)
        warm = client.warm_up()
        client.encode()
        done = client.measure()

    prompts = [tuple(r.said["prompt"]) for r in server.requests]
    assert (client.has_warmups, warm.n_failed, done.n_failed) == (True, 0, 0)
    assert (len(warm.requests.error), len(done.requests.error)) == (2, 4)
    assert {len(p) for p in prompts} == {40}
    assert len(set(prompts)) == 6
    assert {r.headers["authorization"] for r in server.requests} == {"Bearer s3cret"}


def test_every_turn_is_sent_with_all_that_was_said_before():
    with Scripted(lambda request: answer(3)) as server:
        client = protocol(server, turns=3, think_time_s=0.002)
        client.encode()
        done = client.measure()

    prompts = [tuple(r.said["prompt"]) for r in server.requests]
    firsts = [p for p in prompts if len(p) == 40]
    assert sorted(map(len, prompts)) == [40] * 4 + [83] * 4 + [126] * 4
    assert all(sum(p[:40] == first for p in prompts) == 3 for first in firsts)
    assert done.requests.asked_prompt_tokens.tolist() == [40, 83, 126] * 4


def test_a_constant_rate_is_due_at_equal_distances():
    with Scripted(lambda request: answer(3)) as server:
        client = protocol(server, arrivals="constant", rate_rps=100.0)
        client.encode()
        r = client.measure().requests

    assert r.due_ns.tolist() == [10_000_000, 20_000_000, 30_000_000, 40_000_000]
    assert (r.sent_ns >= r.due_ns).all()


# several processes


def growing(request):
    """An answer whose length identifies its session."""
    return answer(1 + request.said["session"] % 3)


@pytest.fixture(scope="module")
def shared():
    """The same sessions over one, two and three processes: (result, requests at the server, children)."""

    def run(processes, **traffic):
        seen = {}
        with Scripted(lambda request: seen.update(children()) or growing(request)) as server:
            result = loaded(server.url, sessions(12, turns=2, n_out=1), concurrency=3, processes=processes, **traffic)
        return result, server, seen

    return {1: run(1), 2: run(2, due_s=[0.005 * i for i in range(12)]), 3: run(3)}


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_run_over_several_processes_is_the_run_of_one(shared, processes):
    result, server, seen = shared[processes]
    r = result.requests

    assert len(seen) == (processes if processes > 1 else 0)
    assert (result.health.processes, result.ended_by, r.error) == (processes, None, ("",) * 24)
    assert r.output_tokens.tolist() == [1 + i // 2 % 3 for i in range(24)]
    assert np.diff(r.chunk_offsets).tolist() == r.output_tokens.tolist()
    assert sorted((q.said["session"], q.said["turn"]) for q in server.requests) == [(i // 2, i % 2) for i in range(24)]
    assert server.peak <= 3


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_times_of_several_processes_are_those_of_one_clock(shared, processes):
    result, server, _ = shared[processes]
    r = result.requests
    at = {(q.said["session"], q.said["turn"]): q.at_ns - result.start_ns for q in server.requests}
    received = np.array([at[i // 2, i % 2] for i in range(24)])

    assert ((r.sent_ns < received) & (received < r.first_token_ns)).all()
    assert (
        (r.chunk_ns >= np.repeat(r.sent_ns, np.diff(r.chunk_offsets))) & (r.chunk_ns <= np.repeat(r.end_ns, np.diff(r.chunk_offsets)))
    ).all()
    assert result.health.kernel_stamp_share == 1.0


def test_an_open_loop_over_several_processes_keeps_the_due_times(shared):
    r = shared[2][0].requests

    assert r.due_ns[::2].tolist() == [round(0.005 * i * 1e9) for i in range(12)]
    assert (r.sent_ns >= r.due_ns).all()


def test_no_process_outlives_its_run_and_none_had_the_key_where_others_can_read_it(shared):
    seen = {pid: said for _, _, children_ in shared.values() for pid, said in children_.items()}

    assert len(seen) == 5
    assert not any(b"s3cret" in said for said in seen.values())
    assert children() == []
    assert {q.headers["authorization"] for q in shared[3][1].requests} == {"Bearer s3cret"}


def test_a_process_that_is_killed_is_an_error_of_the_client_and_takes_the_others_with_it():
    def play(request):
        if request.number == 0:
            os.kill(children()[0][0], signal.SIGKILL)
        return [End.HANG]

    with Scripted(play) as server, pytest.raises(ClientError, match="ended unexpectedly"):
        loaded(server.url, sessions(4), concurrency=2, processes=2)

    assert children() == []


def test_a_check_ends_the_run_of_every_process_and_what_was_measured_is_kept():
    def check():
        if server.in_flight == 2:
            raise Gone

    with Scripted(lambda request: [FIRST, 0.05, End.HANG, b""] if request.number >= 3 else answer(2)) as server:
        result = loaded(server.url, sessions(9), concurrency=2, processes=2, check=check)

    assert isinstance(result.ended_by, Gone)
    assert sorted(classes(result)) == ["", "", "", "stopped", "stopped"]
    assert sorted(result.requests.output_tokens.tolist()) == [1, 1, 2, 2, 2]
    assert (result.requests.end_ns < 20e9).all()  # long before the stall timeout


def test_a_server_that_dies_ends_the_run_of_every_process():
    with Scripted(lambda request: [End.DIE] if request.number == 9 else answer(2)) as server:
        result = loaded(server.url, sessions(5000), concurrency=2, processes=2)

    assert isinstance(result.ended_by, ServerError)
    assert result.ended_by.failure_class == "server_crash"
    assert 5 <= classes(result).count("") <= 9
    assert len(result.requests.error) < 200


def test_a_process_that_is_told_to_stop_as_it_starts_stops(tmp_path):
    prepared = Prepared.of(sessions(3))
    with Scripted(lambda request: [End.HANG]) as server, (tmp_path / "order").open("wb+") as order:
        order.write(np.arange(3).astype("<i8").tobytes())
        order.seek(0)
        told = order_of(Target(server.url, "/", {}, 2.0), prepared, Traffic(1), tmp_path, order.fileno())
        with Shard(told, 0, 1) as shard:
            heard(shard, "ready")
            shard.tell(f"{time.monotonic_ns()}\nstop")
            heard(shard, "ended")
    prepared.spool.close()

    assert shard.failed == ""
    assert len(shard.columns()["number"]) <= 1


def heard(shard, word):
    """Waits until the shard has sent this word."""
    while word not in shard.words:
        shard.hear()


def test_what_no_file_and_no_terminal_can_hold_of_an_error_is_replaced(tmp_path):
    said = b'data: {"error": {"message": "a\\u0000b\\ud800c\\u001b"}}\n\n'
    with Scripted(lambda request: chunked(said)) as server:
        result = loaded(server.url, sessions(1))
    m = Measurement("k", "measured", {"concurrency": 1}, {}, result.requests)

    write_point(tmp_path / "p.h5", m)
    assert read_point(tmp_path / "p.h5")[0].requests.error == ("error: a?b?c?",)


def test_a_key_that_a_gateway_repeats_is_in_no_error():
    refusal = b"HTTP/1.1 401 No\r\ncontent-length: 14\r\n\r\nwrong: s3cret!"
    with Scripted(lambda request: [refusal]) as server:
        client = protocol(server)
        client.encode()
        done = client.measure()

    assert set(done.requests.error) == {"HTTP 401: wrong: <redacted>!"}


def test_a_server_that_is_gone_from_a_slow_open_loop_is_given_up_after_seconds(monkeypatch):
    monkeypatch.setattr("glm5bench.client.load.GONE_S", 0.05)
    result = loaded(nowhere(), sessions(400), concurrency=200, due_s=[i / 100 for i in range(400)])

    assert result.ended_by.failure_class == "server_crash"
    assert len(result.requests.error) < 100


def test_a_run_is_ended_while_its_connections_open():
    def check():
        raise ServerError("over", failure_class="server_crash")

    with Scripted(lambda request: answer(2), models=[End.HANG]) as server:
        result = loaded(server.url, sessions(3), concurrency=3, check=check)

    assert result.ended_by.message == "over"
    assert result.requests.error == ()


def test_a_body_that_ends_with_its_connection_needs_its_done():
    whole = [b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(tokens(2)), End.CLOSE]
    cut = [b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(tokens(2)[:-1]), End.CLOSE]
    with Scripted(lambda request: cut if request.number else whole) as server:
        result = loaded(server.url, sessions(2), concurrency=1)

    assert result.requests.error == ("", "cut short: no [DONE]")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_client_that_has_read_nothing_knows_no_lateness_of_its_reads(processes):
    result = loaded(nowhere(), sessions(100), concurrency=2, processes=processes)

    assert (result.health.read_lag_p50_s, result.health.read_lag_p99_s) == (None, None)
