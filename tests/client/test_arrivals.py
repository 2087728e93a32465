"""When the requests of an open loop are due."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm5bench.client.recorded import Traced
from glm5bench.client.workload import Encoder, ramped
from glm5bench.values.point import Point
from glm5bench.values.workload import Workload

OPEN = Workload(
    "open",
    100,
    50,
    0.8,
    "completions",
    prompts_per_concurrency=10,
    prompts=2000,
    warmups_per_concurrency=2,
    arrivals="poisson",
    rate_rps=4.0,
)
THREE = [Traced(0.0, 10, 5), Traced(0.5, 10, 5), Traced(2.0, 10, 5)]


def due(trace=None, *, seed=0, repeat=0, **changes):
    encoder = Encoder(dataclasses.replace(OPEN, **changes), Point("k", "a", 4, repeat, seed, 4), "glm")
    return encoder.due_s(trace)


def variation(due_s):
    gaps = np.diff(due_s)
    return float(gaps.std() / gaps.mean())


def test_nothing_is_due_in_a_closed_loop():
    assert due(arrivals="closed", rate_rps=None) is None
    assert due(THREE, arrivals="closed", rate_rps=None, content="trace") is None


def test_a_constant_rate_is_due_every_so_many_seconds():
    assert due(arrivals="constant", rate_rps=2.0, prompts=4) == [0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize(
    "arrivals", [{"arrivals": "poisson"}, {"arrivals": "gamma", "burstiness": 0.5}, {"arrivals": "gamma", "burstiness": 4.0}]
)
def test_as_many_are_due_a_second_as_the_rate_says(arrivals):
    due_s = due(**arrivals)

    assert len(due_s) == 2000
    assert due_s == sorted(due_s)
    assert due_s[0] > 0
    assert 2000 / due_s[-1] == pytest.approx(4.0, rel=0.08)


def test_gaps_vary_as_the_burstiness_says_and_those_of_poisson_as_much_as_their_mean():
    bursts, poisson, regular = (variation(due(**{"arrivals": "gamma", "burstiness": b})) for b in (0.25, 1.0, 4.0))

    assert (bursts, poisson, regular) == (pytest.approx(2, rel=0.15), pytest.approx(1, rel=0.1), pytest.approx(0.5, rel=0.1))
    assert variation(due(arrivals="constant")) == pytest.approx(0, abs=1e-9)


def test_gamma_of_burstiness_1_is_poisson():
    assert due(arrivals="gamma") == due(arrivals="poisson")


def test_another_rate_is_the_same_pattern_at_another_pace():
    assert due(rate_rps=8.0) == pytest.approx([t / 2 for t in due()])


def test_the_same_point_is_due_at_the_same_times_and_another_repeat_at_others():
    assert due() == due()
    assert due() != due(repeat=1)
    assert due() != due(seed=1)


def test_a_trace_is_due_as_it_was():
    assert due(THREE, arrivals="trace", rate_rps=None, content="trace") == [0.0, 0.5, 2.0]


@pytest.mark.parametrize("prompts", [None, 3, 100])
def test_every_request_of_a_trace_is_due_at_a_rate_of_ones_own(prompts):
    assert len(due(THREE * 30, arrivals="constant", content="trace", prompts=prompts)) == 90


def test_a_ramp_grows_to_the_whole_rate():
    due_s = ramped(np.arange(1, 9) / 2.0, 2.0, 4.0)  # 2 a second, 4 s of ramp: 4 are due in it

    assert due_s[:4].tolist() == [2.0, pytest.approx(8**0.5), pytest.approx(12**0.5), 4.0]  # t**2/4 are due after t
    assert due_s[4:].tolist() == [4.5, 5.0, 5.5, 6.0]


def test_without_a_ramp_the_whole_rate_is_there_at_once():
    assert ramped(np.array([0.5, 1.0]), 2.0, 0.0).tolist() == [0.5, 1.0]
    assert due(ramp_s=30.0)[-1] == pytest.approx(due()[-1] + 15.0)


@given(st.floats(0.1, 500), st.floats(0.01, 600), st.lists(st.floats(0, 100), min_size=2, max_size=30))
def test_a_ramp_keeps_the_order_delays_by_at_most_half_of_itself_and_has_no_jump(rate_rps, ramp_s, gaps):
    at_once = np.cumsum(gaps) / rate_rps
    due_s = ramped(at_once, rate_rps, ramp_s)
    both_sides = ramped(np.array([1 - 1e-9, 1 + 1e-9]) * ramp_s / 2, rate_rps, ramp_s)

    assert (np.diff(due_s) >= 0).all()
    assert (due_s >= at_once * (1 - 1e-9)).all()
    assert (due_s <= at_once + ramp_s / 2 * (1 + 1e-9)).all()
    assert both_sides == pytest.approx([ramp_s, ramp_s])
