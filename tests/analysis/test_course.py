"""Events during a run: each provoked problem with its reason code, and the most similar harmless case."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import raw
from program import BUSY, environment, until
from provoked import Behaviour, Provoked, measured_at, provoked

from glm5bench.analysis import course
from glm5bench.archive.pointfile import read_point
from glm5bench.client import load as client_load


def codes(m):
    """The reason codes of a measurement, without what a busy machine adds."""
    return set(m.verdict().codes) - BUSY


def of_run(r, concurrency=4, **how):
    return {why.code: why.text for why in course.of_run(r, concurrency, keeps_concurrency=True, **how)}


def closed_loop(concurrency, n_waves, *, tokens=40, step_s=0.05, prefill_s=0.2, pauses=(), slow_from=10**6, slow=1.0, jitter=0.3):
    """A batch in virtual time: every step gives each stream a token, and a prefill delays all streams. `pauses`: (time, seconds)."""
    rng = np.random.default_rng(3)
    now, sent, first, last, chunks, left = 0.0, [], [], [], [], []
    running, waiting, n = [], [], concurrency * n_waves
    lengths = rng.integers(round(tokens * (1 - jitter)), tokens + 1, n)
    pauses = list(pauses)

    def arrive():
        if len(sent) < n:
            waiting.append(len(sent))
            sent.append(now), first.append(0.0), last.append(0.0), chunks.append([])
            left.append(int(lengths[len(sent) - 1]))

    for _ in range(concurrency):
        arrive()
    while running or waiting:
        if waiting:
            now += prefill_s
            running.append(waiting.pop(0))
            first[running[-1]] = now
            given = running[-1:]
        else:
            now += step_s * (slow if min(running) >= slow_from else 1.0) * rng.uniform(0.99, 1.01)
            if pauses and now >= pauses[0][0]:
                now += pauses.pop(0)[1]
            given = list(running)
        for i in given:
            chunks[i].append((now, 1))
            left[i] -= 1
            if not left[i]:
                last[i] = now
                running.remove(i)
                arrive()
    return raw(sent, first, last, prompt=[100] * n, out=lengths.tolist(), chunks=chunks)


def test_a_steady_run_has_no_reason():
    assert of_run(closed_loop(4, 10)) == {}
    assert of_run(closed_loop(1, 12), 1) == {}


def test_a_slow_server_with_long_prefills_is_no_stall():
    assert of_run(closed_loop(8, 6, step_s=0.5, prefill_s=4.0), 8) == {}


def test_a_pause_of_all_streams_is_a_stall_with_the_seconds_lost():
    found = of_run(closed_loop(4, 10, pauses=[(10.0, 6.0)]))

    assert set(found) == {"stalled"}
    assert found["stalled"].startswith("all streams were silent once, 6 s of 30.8 s")
    assert "the longest gap is 6.0" in found["stalled"]


def test_a_pause_that_costs_less_than_a_hundredth_is_none():
    assert "stalled" not in of_run(closed_loop(4, 10, pauses=[(10.0, 0.22)]))


@pytest.mark.parametrize(("slow", "found"), [(1.0, set()), (1.02, set()), (1.3, {"drift"})])
def test_a_speed_that_changes_within_the_run_is_drift_and_noise_is_none(slow, found):
    assert set(of_run(closed_loop(4, 12, slow_from=20, slow=slow))) == found


def test_drift_states_the_speed_in_each_third():
    text = of_run(closed_loop(4, 12, slow_from=20, slow=1.5))["drift"]

    first, _, last = (float(word) for word in text.partition(" tok/s/user")[0].split(", "))
    assert first > 1.2 * last


def test_a_run_of_few_waves_is_not_judged_for_drift():
    assert "drift" not in of_run(closed_loop(4, 5, slow_from=10, slow=2.0))


def shared(share, *, at_end=False):
    """Twenty answers of twenty chunks. This share of the chunks, the first or the last ones, has the time of the chunk before."""
    n = round(share * 20)
    chunks = [[(i + 1 + 0.04 * (min(k, 19 - n) if at_end else max(0, k - n)), 1) for k in range(20)] for i in range(20)]
    return raw(range(20), [i + 1 for i in range(20)], [c[-1][0] for c in chunks], prompt=[9] * 20, out=[20] * 20, chunks=chunks)


def test_chunks_that_share_a_read_withhold_what_they_make_wrong():
    r = shared(0.5)

    assert {"shared_reads", "buffered_answers"} <= set(of_run(r, 1))
    assert "left out: TPOT, interactivity, ITL" in of_run(r, 1)["shared_reads"]
    assert r.streaming.bias == pytest.approx(10 / 19)
    assert (r.streaming.is_tpot_withheld, r.streaming.is_itl_withheld) == (True, True)


def test_a_chunk_now_and_then_in_one_read_is_harmless():
    r = shared(0.05, at_end=True)

    assert of_run(r, 1) == {}
    assert (r.streaming.is_tpot_withheld, r.streaming.is_itl_withheld) == (False, False)


def test_chunks_that_share_the_last_read_make_only_their_gaps_wrong():
    r = shared(0.15, at_end=True)

    assert "left out: ITL" in of_run(r, 1)["shared_reads"]
    assert (r.streaming.is_tpot_withheld, r.streaming.is_itl_withheld) == (False, True)


def test_a_client_that_was_held_up_is_not_taken_for_a_proxy_that_buffers():
    assert "buffered_answers" not in of_run(shared(0.5), 1, client_lag_p99_s=0.2)


def test_a_server_that_admits_a_fixed_number_is_a_queue_that_the_client_sees_alone():
    m = provoked(8, behaviour=Behaviour(cap=3, prefill_s=0.0), osl_tokens=16)

    assert "server_queue" in codes(m)
    assert any("never more than 3 requests streamed at once, 8 were in flight" in why.text for why in m.verdict().reasons)


def test_a_server_that_admits_all_is_none():
    assert codes(provoked(8, osl_tokens=16)) == set()


def test_a_server_that_prefills_one_prompt_after_another_is_no_fixed_number():
    assert "server_queue" not in of_run(closed_loop(16, 6, prefill_s=0.4), 16)


@pytest.mark.parametrize(("share", "found"), [(0.6, True), (1.0, True), (0.0, False)])
def test_an_answer_that_a_proxy_holds_back_is_buffered(share, found):
    m = provoked(2, behaviour=Behaviour(buffered=share))

    assert ("buffered_answers" in m.verdict().codes) == found
    assert np.isnan(m.figures().tpot.median) == found


def test_a_stall_of_a_real_server_is_noticed_and_slow_steps_are_not():
    stalled = provoked(behaviour=Behaviour(stalls=(0.4, 1.0)))
    slow = provoked(2, behaviour=Behaviour(step_s=0.02), osl_tokens=10)

    assert "stalled" in codes(stalled)
    assert codes(slow) <= {"few_waves"}


@pytest.mark.parametrize(("cached", "found"), [(None, set()), (0, set()), (20, {"prefix_cache"})])
def test_new_prompts_that_come_from_the_prefix_cache_are_noticed_by_the_answers(cached, found):
    m = provoked(behaviour=Behaviour(cached=cached))

    assert codes(m) == found
    assert (m.requests.cached_tokens is None) == (cached is None)


def test_a_prefix_that_was_meant_to_be_shared_may_be_cached():
    assert codes(provoked(behaviour=Behaviour(cached=20), prefix_tokens=20)) == set()


@pytest.mark.parametrize(("prompts", "found"), [(19, {"few_waves"}), (20, set())])
def test_fewer_than_five_requests_a_user_are_too_few_and_the_bias_is_stated(prompts, found):
    m = provoked(prompts=prompts)

    assert codes(m) == found
    assert all("interactivity is too high, by 1 to 5 %" in why.text for why in m.verdict().reasons if why.code == "few_waves")


def run_of_load(folder, url):
    """`glm5bench load` in its own process group, under load for one minute."""
    words = ["-c", "2", "--prompts", "60", "--warmups", "0", "--input-tokens", "40", "--output-tokens", "24", "--vocabulary", "4000"]
    command = [sys.executable, "-m", "glm5bench", "load", url, *words, "-o", "p.h5"]
    return subprocess.Popen(
        command, cwd=folder, env=environment(folder), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )


def test_a_job_that_was_suspended_is_paused_and_its_point_is_not_valid(tmp_path):
    with Provoked(Behaviour()) as server, run_of_load(tmp_path, server.url) as process:
        until(lambda: len(server.sent) > 6, "the load runs")
        os.killpg(process.pid, signal.SIGSTOP)
        until(lambda: _state(process.pid) == "T", "the job is stopped")
        stopped = time.monotonic()
        until(lambda: time.monotonic() - stopped > 0.7, "the stop has lasted")
        os.killpg(process.pid, signal.SIGCONT)
        assert process.wait(60) == 1
    m, _ = read_point(tmp_path / "p.h5")

    assert m.provenance["client"]["paused_s"] > 0.5
    assert "paused" in m.verdict().codes
    assert m.verdict().validity == "invalid"


def _state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_a_client_that_waits_for_a_core_is_late_and_not_paused():
    assert client_load.stopped_s(0.5, 10.0, 10.45) == 0
    assert client_load.stopped_s(3.0, 10.0, 10.02) == pytest.approx(2.98)
    assert client_load.stopped_s(0.5, None, None) == 0
    assert client_load.stopped_s(3.0, None, None) == 3.0


def test_a_pause_below_a_hundredth_of_the_window_is_no_reason():
    m = provoked()
    window_s = (m.window_ns[1] - m.window_ns[0]) / 1e9
    for share, found in ((0.009, False), (0.02, True)):
        client = {**m.provenance["client"], "paused_s": share * window_s}
        told = dataclasses.replace(m, provenance={**m.provenance, "client": client})
        assert ("paused" in told.verdict().codes) == found


@pytest.mark.parametrize(
    ("slow_from", "slow"), [(20, 2.0), (32, 2.0), (20, 1.5), (32, 1.5)], ids=["half x2", "last fifth x2", "half x1.5", "last fifth x1.5"]
)
def test_a_change_anywhere_in_ten_waves_is_drift(slow_from, slow):
    assert set(of_run(closed_loop(4, 10, slow_from=slow_from, slow=slow))) == {"drift"}


def test_stalls_that_come_again_and_again_are_no_yardstick_for_themselves():
    pauses = [(4.0 + 3 * i, 1.5) for i in range(6)]

    assert "6 times, 9 s of 33.8 s" in of_run(closed_loop(4, 10, pauses=pauses))["stalled"]


def test_a_stall_in_the_first_prefill_is_one():
    r = closed_loop(4, 10)
    names = ("first_token_ns", "last_token_ns", "end_ns", "chunk_ns")
    moved = {name: getattr(r, name) + 4 * 10**9 for name in names}
    late = dataclasses.replace(r, **moved, sent_ns=np.where(r.sent_ns > 0, r.sent_ns + 4 * 10**9, r.sent_ns))

    assert "stalled" in of_run(late)


def test_a_long_prompt_explains_a_long_gap():
    r = closed_loop(4, 10)
    long = int(np.argsort(r.first_token_ns)[20])
    gap = 4 * 10**9
    after = r.first_token_ns[long]

    def later(at):
        return np.where(at >= after, at + gap, at)

    moved = dataclasses.replace(
        r, **{n: later(getattr(r, n)) for n in ("sent_ns", "first_token_ns", "last_token_ns", "end_ns", "chunk_ns")}
    )
    sent = moved.sent_ns.copy()
    sent[long] = r.sent_ns[long]
    prompts = np.full(40, 100)
    same = dataclasses.replace(moved, sent_ns=sent)
    explained = dataclasses.replace(same, prompt_tokens=np.where(np.arange(40) == long, 3000, prompts))

    assert "stalled" in of_run(same)
    assert "stalled" not in of_run(explained)


def test_answers_of_one_token_are_no_queue():
    r = raw(
        [i // 4 for i in range(40)], [i // 4 + 0.9 for i in range(40)], [i // 4 + 0.9 for i in range(40)], prompt=[100] * 40, out=[1] * 40
    )

    assert "server_queue" not in of_run(r)


@pytest.mark.parametrize("spacing_s", [0.0003, 0.001])
def test_a_proxy_that_writes_held_back_chunks_one_by_one_is_noticed(spacing_s):
    at = [0.24 + spacing_s * k if k < 24 else 0.25 + 0.01 * (k - 24) for k in range(48)]
    chunks = [[(i + t, 1) for t in at] for i in range(20)]
    r = raw(range(20), [c[0][0] for c in chunks], [c[-1][0] for c in chunks], prompt=[9] * 20, out=[48] * 20, chunks=chunks)

    assert "buffered_answers" in of_run(r, 1)


def test_chunks_that_always_come_in_pairs_are_not_held_back():
    chunks = [[(i + 0.1 + 0.02 * (k // 2) + 0.0002 * (k % 2), 1) for k in range(40)] for i in range(20)]
    r = raw(range(20), [c[0][0] for c in chunks], [c[-1][0] for c in chunks], prompt=[9] * 20, out=[40] * 20, chunks=chunks)

    assert "buffered_answers" not in of_run(r, 1)


def test_an_admission_limit_that_the_server_states_is_read():
    info = {"tp_size": 8, "internal_states": [{"effective_max_running_requests_per_dp": 3}]}
    with Provoked(Behaviour(step_s=0.0, info=json.dumps(info).encode())) as server:
        assert "admission_capped" in measured_at(server.url, 4).verdict().codes
        assert "admission_capped" not in measured_at(server.url, 3).verdict().codes
