"""The points that no other point beats in both."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from glm5bench.analysis.comparison import by_series, frontiers
from glm5bench.analysis.frontier import frontier
from glm5bench.archive.summary import row_of
from glm5bench.exchange.published import published

small = st.integers(0, 6).map(float)  # few values, so that ties are common


def on(interactivity, throughput):
    return frontier(np.array(interactivity, dtype=float), np.array(throughput, dtype=float)).tolist()


def test_a_dominated_point_is_not_on_the_frontier():
    assert on([10, 20, 30, 20], [5, 4, 1, 3]) == [0, 1, 2]


def test_the_frontier_is_sorted_by_rising_interactivity():
    assert on([30, 10, 20], [1, 5, 4]) == [1, 2, 0]


def test_of_equal_points_the_first_is_on_the_frontier():
    assert on([10, 20, 20], [5, 4, 4]) == [0, 1]


def test_of_points_with_equal_throughput_the_most_interactive_is_on_the_frontier():
    assert on([10, 20], [5, 5]) == [1]


def test_of_points_with_equal_interactivity_the_fastest_is_on_the_frontier():
    assert on([10, 10, 20], [5, 6, 1]) == [1, 2]


def test_a_point_without_a_figure_is_never_on_the_frontier():
    assert on([10, np.nan, 30], [np.nan, 5, 1]) == [2]


def test_the_frontier_of_nothing_is_empty():
    assert on([], []) == []


@given(st.lists(st.tuples(small, small), max_size=12))
def test_every_point_is_on_the_frontier_or_beaten_by_one_that_is(points):
    x, y = [p[0] for p in points], [p[1] for p in points]
    kept = on(x, y)

    assert all(x[a] < x[b] and y[a] > y[b] for a, b in itertools.pairwise(kept))
    assert all(any(x[k] >= a and y[k] >= b for k in kept) for a, b in points if a > 0 and b > 0)


def test_h200_at_64_and_nvfp4_at_256_are_the_dominated_points_of_2026_05_25():
    rows = [row_of(m, m.digest(), "published") for m in published()[0] if m.provenance["source"] == "inferencex-2026-05-25"]
    kept = {r.key for members in frontiers(by_series(rows)).values() for r in members}

    assert {(r.series.hardware, r.series.precision, r.tp, r.concurrency) for r in rows if r.key not in kept} == {
        ("h200", "fp8", 8, 64),
        ("b200", "nvfp4", 4, 256),
    }


def test_a_point_that_serves_nothing_is_not_on_the_frontier():
    assert frontier(np.array([10.0, 20.0, 0.0]), np.array([5.0, 0.0, 9.0])).tolist() == [0]
