"""Values between the points of a frontier."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

from glm5bench.analysis.interpolation import METHODS, interpolated
from glm5bench.errors import AnalysisError

X, Y = np.array([0.0, 1.0, 2.0, 4.0]), np.array([0.0, 1.0, 4.0, 5.0])
every_method = pytest.mark.parametrize("method", sorted(METHODS))


@st.composite
def curves(draw, min_size=2):
    gaps = draw(st.lists(st.integers(1, 200), min_size=min_size, max_size=10))
    values = draw(st.lists(st.integers(-500, 500), min_size=len(gaps), max_size=len(gaps)))
    return np.cumsum(gaps) / 10.0, np.array(values) / 10.0


def test_a_straight_line_is_kept_by_every_method():
    at = np.linspace(1, 9, 17)

    for method in METHODS:
        assert interpolated(np.array([1.0, 2.0, 5.0, 9.0]), np.array([2.0, 4.0, 10.0, 18.0]), at, method) == pytest.approx(2 * at)


def test_steffens_slopes_are_those_worked_by_hand():
    # s = 1, 3, 0.5; p = 2, 13/6. Inner slopes 2 min(1, 3, 1) = 2 and 2 min(3, 0.5, 13/12) = 1; ends (3 - 2)/2 = 0.5, (1.5 - 1)/2 = 0.25
    middles = interpolated(X, Y, np.array([0.5, 1.5, 3.0]))

    # the middle of an interval: the mean of its ends and h/8 of the difference of their slopes
    assert middles == pytest.approx([0.5 + (0.5 - 2) / 8, 2.5 + (2 - 1) / 8, 4.5 + 2 * (1 - 0.25) / 8])


def test_linear_interpolation_is_the_chord():
    assert interpolated(X, Y, np.array([0.5, 1.5, 3.0]), "linear") == pytest.approx([0.5, 2.5, 4.5])


@every_method
def test_outside_the_measured_range_there_is_no_value(method):
    below, first, last, above = interpolated(X, Y, np.array([-0.001, 0.0, 4.0, 4.001]), method)

    assert np.isnan([below, above]).all()
    assert (first, last) == (0.0, 5.0)


@every_method
def test_one_point_answers_at_its_own_place_only(method):
    answer = interpolated(np.array([3.0]), np.array([7.0]), np.array([2.9, 3.0, 3.1]), method)

    assert np.isnan(answer[[0, 2]]).all()
    assert answer[1] == 7.0


def test_no_points_give_no_values():
    assert np.isnan(interpolated(np.array([]), np.array([]), np.array([1.0, 2.0]))).all()


def test_interactivity_that_does_not_rise_is_refused():
    with pytest.raises(AnalysisError, match="does not rise"):
        interpolated(np.array([1.0, 1.0]), np.array([1.0, 2.0]), np.array([1.0]))


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(AnalysisError) as refused:
        interpolated(X, Y, X, "spline")

    assert all(name in refused.value.next_step for name in METHODS)


@every_method
@given(curve=curves())
def test_the_curve_passes_through_its_points(method, curve):
    x, y = curve

    assert interpolated(x, y, x, method) == pytest.approx(y, abs=1e-9)


@every_method
@given(curve=curves())
def test_between_two_points_the_curve_is_monotone(method, curve):
    x, y = curve

    for i in range(len(x) - 1):
        steps = np.diff(interpolated(x, y, np.linspace(x[i], x[i + 1], 40), method)) * np.sign(y[i + 1] - y[i])
        assert (steps >= -1e-9).all()


@given(curves())
def test_pchip_is_scipys(curve):
    x, y = curve
    at = np.linspace(x[0], x[-1], 50)

    assert interpolated(x, y, at, "pchip") == pytest.approx(PchipInterpolator(x, y)(at), abs=1e-9)
