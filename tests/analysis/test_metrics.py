"""Figures of a point from its raw times."""

import math

import numpy as np
import pytest
from conftest import raw, three_requests
from hypothesis import given
from hypothesis import strategies as st

from glm5bench.analysis.metrics import figures, statistics, time_per_output_token_s
from glm5bench.errors import AnalysisError


def test_ttft_counts_from_sending_to_the_first_token():
    ttft = figures(three_requests()).ttft

    assert (ttft.mean, ttft.median, ttft.n) == (pytest.approx(4 / 3), 1.0, 3)


def test_tpot_leaves_the_first_token_out():
    tpot = figures(three_requests()).tpot

    assert tpot.median == pytest.approx(0.5)  # (3 - 1)/4
    assert tpot.mean == pytest.approx((0.5 + 1.0 + 0.2) / 3)


def test_a_request_of_one_token_has_no_tpot():
    gaps = time_per_output_token_s(np.array([1.0, 1.0]), np.array([1.0, 3.0]), np.array([1, 3]))

    assert gaps.tolist() == [1.0]


def test_interactivity_is_one_over_the_median_tpot():
    assert figures(three_requests()).interactivity_tok_s_user == pytest.approx(2.0)


def test_interactivity_is_unknown_where_every_answer_has_one_token():
    assert math.isnan(figures(three_requests(out=[1, 1, 1])).interactivity_tok_s_user)


def test_throughput_is_all_tokens_over_the_whole_wall_time():
    f = figures(three_requests())

    assert f.duration_s == 6.0
    assert (f.input_tput_tok_s, f.output_tput_tok_s) == (pytest.approx(60 / 6), pytest.approx(20 / 6))
    assert f.total_tput_tok_s == pytest.approx(80 / 6)


def test_the_reached_concurrency_is_the_sum_of_latencies_over_the_wall_time():
    assert figures(three_requests()).mean_concurrency == pytest.approx((3 + 5 + 3) / 6)


def test_a_gap_is_divided_among_the_tokens_of_the_chunk_that_ends_it():
    f = figures(three_requests())

    assert not f.itl_is_per_chunk
    assert f.itl.n == 4 + 3 + 10
    assert f.itl.mean == pytest.approx((4 * 0.5 + 3 * 1.0 + 10 * 0.2) / 17)


def test_gaps_are_those_of_chunks_where_the_server_gave_no_counts():
    f = figures(three_requests(chunks=[[(1, -1), (2, -1), (3, -1)], [(2, -1), (5, -1)], [(4, -1), (6, -1)]]))

    assert f.itl_is_per_chunk
    assert (f.itl.n, f.itl.mean) == (4, pytest.approx((1 + 1 + 3 + 2) / 4))


def test_no_gap_spans_two_requests():
    f = figures(three_requests(chunks=[[(1, 5)], [(2, 4)], [(4, 11)]]))

    assert f.itl.n == 0


def test_a_chunk_without_tokens_ends_no_gap():
    f = figures(three_requests(chunks=[[(1, 1), (2, 0), (3, 4)], [(2, 4)], [(4, 11)]]))

    assert (f.itl.n, f.itl.mean) == (4, pytest.approx(0.5))


def test_a_failed_request_gives_no_latency_and_no_tokens():
    f = figures(three_requests(error=["", "connection reset", ""]))

    assert (f.n_requests, f.n_failed, f.ttft.n) == (3, 1, 2)
    assert (f.prompt_tokens, f.output_tokens) == (40, 16)


def test_the_wall_time_includes_requests_that_failed():
    last_failed = raw([0, 0], [1, 2], [2, 10], prompt=[1, 1], out=[2, 2], error=["", "reset"])

    assert figures(last_failed).duration_s == 10.0


def test_a_point_of_which_every_request_failed_has_no_figures():
    f = figures(three_requests(error=["reset"] * 3))

    assert (f.n_failed, f.ttft.n) == (3, 0)
    assert math.isnan(f.total_tput_tok_s)
    assert math.isnan(f.interactivity_tok_s_user)


def test_a_point_without_requests_has_no_figures():
    f = figures(raw([], [], [], prompt=[], out=[]))

    assert f.n_requests == 0
    assert math.isnan(f.duration_s)


def test_simulated_times_are_multiplied_by_the_time_scale():
    f = figures(three_requests(), time_scale=20.0)

    assert (f.duration_s, f.ttft.median, f.tpot.median) == (pytest.approx(120.0), pytest.approx(20.0), pytest.approx(10.0))
    assert f.total_tput_tok_s == pytest.approx(80 / 120)
    assert f.mean_concurrency == pytest.approx(11 / 6)  # a ratio of times does not depend on the scale


@pytest.mark.parametrize(("first", "last"), [([1, 2, 2.9], [3, 5, 6]), ([1, 2, 4], [3, 1.9, 6])])
def test_times_that_run_backwards_are_refused(first, last):
    with pytest.raises(AnalysisError, match="ends before it begins"):
        figures(raw([0, 0, 3], first, last, prompt=[1, 1, 1], out=[2, 2, 2]))


def test_percentiles_are_interpolated_linearly():
    s = statistics(np.array([4.0, 1.0, 3.0, 2.0, 5.0]))

    assert (s.median, s.p90, s.p95, s.p99) == (3.0, pytest.approx(4.6), pytest.approx(4.8), pytest.approx(4.96))


def test_a_99th_percentile_needs_a_hundred_samples():
    assert not statistics(np.ones(99)).has_p99
    assert statistics(np.ones(100)).has_p99


def test_statistics_of_nothing_are_nan():
    s = statistics(np.array([]))

    assert s.n == 0
    assert all(math.isnan(v) for v in (s.mean, s.median, s.p90, s.p95, s.p99))


@given(st.integers(2, 400), st.floats(0.001, 10), st.floats(0.0001, 1), st.integers(1, 64))
def test_a_steady_stream_has_its_own_gap_as_tpot_and_itl(n_out, ttft, gap, per_chunk):
    at = [(ttft, 1)] + [(ttft + gap * min(i + per_chunk, n_out - 1), min(per_chunk, n_out - 1 - i)) for i in range(0, n_out - 1, per_chunk)]
    f = figures(raw([0], [ttft], [ttft + gap * (n_out - 1)], prompt=[7], out=[n_out], chunks=[at]))

    assert f.tpot.median == pytest.approx(gap, rel=1e-4)
    assert f.itl.n == n_out - 1
    assert f.itl.mean == pytest.approx(gap, rel=1e-4)
