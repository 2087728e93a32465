"""Parts of a run: its steady window, its best second, its good requests."""

import dataclasses
import math

import numpy as np
import pytest
from conftest import raw, three_requests, waves
from hypothesis import given
from hypothesis import strategies as st

from glm5bench.analysis.metrics import figures
from glm5bench.analysis.windows import goodput_rps, n_good, peak_concurrency, peak_output_tput_tok_s, steady
from glm5bench.values.workload import objectives


def open_loop():
    """Due at 0, 1, 2 s and sent at 0, 2, 2 s."""
    r = raw([0, 2, 2], [1, 3, 3], [2, 4, 5], prompt=[1] * 3, out=[2, 2, 4])
    return dataclasses.replace(r, due_ns=np.array([0, 1, 2]) * 10**9)


@st.composite
def closed_loops(draw):
    """Up to four users, each with one request after another and one token per chunk."""
    sent, first, last, chunks = [], [], [], []
    for _ in range(draw(st.integers(1, 4))):
        now = draw(st.floats(0, 1))
        for gap in draw(st.lists(st.floats(0.05, 2), min_size=1, max_size=5)):
            sent.append(now)
            chunks.append([(now + gap, 1), (now + 2 * gap, 1), (now + 3 * gap, 1)])
            first.append(now + gap)
            last.append(now := now + 3 * gap)
            now += 0.001
    return raw(sent, first, last, prompt=[5] * len(sent), out=[3] * len(sent), chunks=chunks)


def test_the_steady_window_is_from_the_end_of_the_first_wave_to_the_first_send_of_the_last():
    s = steady(waves(), 2)

    assert (s.start_s, s.duration_s) == (3.0, 2.0)


def test_the_steady_window_spreads_the_tokens_of_a_request_over_its_time_in_flight():
    s = steady(waves(), 2)

    assert s.output_tput_tok_s == pytest.approx((2 / 3 * 6 + 2 / 3 * 3) / 2)
    assert s.total_tput_tok_s == pytest.approx((2 / 3 * 36 + 2 / 3 * 63) / 2)


def test_the_steady_window_takes_latencies_of_what_was_sent_in_it():
    s = steady(waves(), 2)

    assert (s.ttft.n, s.ttft.mean) == (1, pytest.approx(1))
    assert (s.tpot.n, s.tpot.mean) == (1, pytest.approx((6 - 4) / 2))


def test_a_failed_request_is_in_flight_and_gives_no_figure_to_the_steady_window():
    s = steady(waves(error=["", "", "", "reset", "", ""]), 2)

    assert (s.duration_s, s.ttft.n, s.tpot.n) == (2.0, 0, 0)
    assert s.total_tput_tok_s == pytest.approx(2 / 3 * 36 / 2)


def test_the_steady_window_needs_no_count_of_each_chunk_and_no_prompt_that_was_not_counted():
    uncounted = steady(waves(chunks=[[(1, -1), (2, -1)], *[[]] * 5]), 2)

    assert uncounted.total_tput_tok_s == steady(waves(), 2).total_tput_tok_s
    assert math.isnan(steady(waves(prompt=[0] * 6), 2).total_tput_tok_s)
    assert steady(waves(prompt=[0] * 6), 2).output_tput_tok_s == pytest.approx(3)


def test_there_is_no_steady_window_where_not_all_users_were_there_at_once():
    assert steady(waves(), 5) is None
    assert steady(raw([], [], [], prompt=[], out=[]), 1) is None
    assert steady(raw([0, 2], [1, 3], [None, None], prompt=[1] * 2, out=[2] * 2), 2) is None
    assert steady(raw([None, None], [None] * 2, [None] * 2, prompt=[0] * 2, out=[0] * 2), 1) is None


def test_the_steady_window_of_a_simulated_run_is_in_simulated_seconds():
    s, life = steady(waves(), 2, time_scale=20.0), steady(waves(), 2)

    assert (s.start_s, s.duration_s) == (pytest.approx(60), pytest.approx(40))
    assert s.total_tput_tok_s == pytest.approx(life.total_tput_tok_s / 20)
    assert (s.ttft.mean, s.tpot.mean) == (pytest.approx(20 * life.ttft.mean), pytest.approx(20 * life.tpot.mean))


def test_the_steady_window_begins_when_the_ramp_is_over():
    assert steady(waves(), 2, ramp_s=4.5).start_s == 4.5
    assert steady(waves(), 2, ramp_s=0.5).start_s == 3.0
    assert steady(waves(), 2, ramp_s=90.0, time_scale=20.0).start_s == pytest.approx(90)
    assert steady(waves(), 2, ramp_s=6.0) is None


@given(closed_loops(), st.integers(1, 4), st.floats(0, 3))
def test_a_steady_window_lies_in_the_run_and_its_latencies_are_of_the_run(r, concurrency, ramp_s):
    s, f = steady(r, concurrency, ramp_s=ramp_s), figures(r)

    if s is not None:
        assert 0 < s.duration_s <= f.duration_s + 1e-9
        assert r.sent_ns.min() / 1e9 <= s.start_s <= s.start_s + s.duration_s <= r.end_ns.max() / 1e9 + 1e-9
        assert s.output_tput_tok_s * s.duration_s <= f.output_tokens + 1e-6
        assert s.tpot.n == s.ttft.n <= f.ttft.n


def test_the_peak_is_the_best_full_second_after_the_first_send():
    r = raw([10], [10.5], [12.5], prompt=[1], out=[16], chunks=[[(10.5, 1), (10.9, 2), (11.0, 4), (12.5, 9)]])

    assert peak_output_tput_tok_s(r) == 4.0  # seconds of 3 and 4 tokens; the third is not full


def test_the_peak_of_a_simulated_run_is_of_simulated_seconds():
    assert peak_output_tput_tok_s(three_requests(), time_scale=0.5) == 5.0  # three seconds: of 0, 3 + 2, and 3 + 1 tokens, and then 10


@pytest.mark.parametrize(
    "r",
    [
        raw([], [], [], prompt=[], out=[]),
        raw([0], [1], [2], prompt=[1], out=[2]),
        raw([0], [0.2], [0.9], prompt=[1], out=[2], chunks=[[(0.2, 1), (0.9, 1)]]),
        raw([0], [1], [3], prompt=[1], out=[2], chunks=[[(1, 1), (3, -1)]]),
    ],
    ids=["no request", "no chunk", "no full second", "unknown tokens"],
)
def test_there_is_no_peak_without_a_full_second_of_counted_tokens(r):
    assert math.isnan(peak_output_tput_tok_s(r))


@given(closed_loops())
def test_the_peak_is_no_less_than_the_mean_over_the_full_seconds(r):
    peak, begin = peak_output_tput_tok_s(r), r.sent_ns.min()
    n_full = int((r.chunk_ns.max() - begin) // 10**9)

    if n_full:
        assert peak >= int(r.chunk_tokens[r.chunk_ns < begin + n_full * 10**9].sum()) / n_full - 1e-9
        assert peak <= r.chunk_tokens.sum()


def test_the_peak_concurrency_is_what_was_in_flight_at_one_instant():
    assert peak_concurrency(three_requests()) == 2  # the third is sent as the first ends
    assert peak_concurrency(raw([0, 1, 2], [3, 3, 3], [4, 5, 6], prompt=[1] * 3, out=[1] * 3)) == 3
    assert peak_concurrency(raw([], [], [], prompt=[], out=[])) == 0
    assert peak_concurrency(raw([0, None], [1, None], [2, None], prompt=[1] * 2, out=[1] * 2)) == 1


@given(closed_loops())
def test_the_peak_concurrency_is_that_of_the_busiest_send(r):
    assert peak_concurrency(r) == max(int(((r.sent_ns <= t) & (r.end_ns > t)).sum()) for t in r.sent_ns)


@pytest.mark.parametrize(
    ("goodput", "n"),
    [
        ("ttft<=1s", 2), ("ttft<=999ms", 0), ("ttft<=2s", 3), ("tpot<=500ms", 2), ("tpot<=.2s", 1), ("e2el<=3s", 2), ("e2el<=2.9s", 0),
        ("itl<=0.2s", 1), ("itl<=500ms", 2), ("itl<=1s", 3), ("ttft<=2s, tpot<=500ms", 2), ("ttft<=1s,tpot<=200ms,e2el<=3s", 1),
    ],
)  # fmt: skip
def test_a_good_request_keeps_every_bound(goodput, n):
    limits = {o.metric: o.limit_s for o in objectives(goodput)}

    assert n_good(three_requests(), limits) == n
    assert goodput_rps(three_requests(), figures(three_requests()), limits) == pytest.approx(n / 6)


def test_a_failed_request_is_not_good_and_without_bounds_there_is_no_goodput():
    failed = three_requests(error=["", "", "reset"])

    assert n_good(failed, {"ttft": 2.0}) == 2
    assert math.isnan(goodput_rps(three_requests(), figures(three_requests()), {}))
    assert math.isnan(goodput_rps(raw([], [], [], prompt=[], out=[]), figures(raw([], [], [], prompt=[], out=[])), {"ttft": 1.0}))


def test_what_a_failed_request_left_uncounted_does_not_change_the_gaps_of_others():
    r = three_requests(chunks=[[(1, 1), (3, 4)], [(2, 1), (5, -1)], [(4, 1), (6, 10)]], error=["", "reset", ""])

    assert n_good(r, {"itl": 0.5}) == 2  # 2 s for 4 tokens, and 2 s for 10


def test_a_request_of_one_token_keeps_every_bound_on_gaps():
    r = raw([0], [1], [1], prompt=[1], out=[1], chunks=[[(1, 1)]])

    assert n_good(r, {"tpot": 0.001, "itl": 0.001}) == 1


def test_bounds_hold_in_simulated_seconds_and_from_when_a_request_was_due():
    assert [n_good(three_requests(), {"ttft": 19.9 + more}, time_scale=20.0) for more in (0, 0.2, 20.2)] == [0, 2, 3]
    assert [n_good(open_loop(), {"ttft": 1.0}, from_due=due) for due in (False, True)] == [3, 2]
    assert [n_good(open_loop(), {"e2el": 2.0}, from_due=due) for due in (False, True)] == [2, 1]


@given(closed_loops(), st.sampled_from(["ttft", "tpot", "itl", "e2el"]), st.floats(0, 8), st.floats(0, 8))
def test_fewer_requests_are_good_where_a_bound_is_tighter(r, metric, one, other):
    tight, loose = sorted((one, other))

    assert n_good(r, {metric: tight}) <= n_good(r, {metric: loose}) <= n_good(r, {})
    assert n_good(r, {"ttft": 1.0, metric: tight}) <= n_good(r, {metric: tight})
