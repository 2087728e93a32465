"""Repeats become their mean with an interval, and intervals hold what they promise."""

import dataclasses
import math

import numpy as np
import pytest
from conftest import raw, three_requests
from rows import CURVE, ECONOMY, FAST, SERIES, row
from scipy import stats

from glm5bench.analysis.comparison import by_series, compared, iso_table
from glm5bench.analysis.repeats import configurations, interval, student_975
from glm5bench.analysis.resampling import draws, relative_standard_errors


def measured_curve(rng, repeats, *, noise=0.03, series=SERIES, factor=1.0):
    """Every configuration of the curve `repeats` times: each run is somewhat quick or slow as a whole."""
    return [
        row(x * f, y * factor * f * (1 + noise / 3 * rng.standard_normal()), c, i, series=series)
        for x, y, c in CURVE
        for i, f in enumerate(1 + noise * rng.standard_normal(repeats))
    ]


def test_repeats_of_a_configuration_are_one_row_with_their_mean():
    (mean,) = configurations([row(20, 1000, repeat=0), row(22, 1100, repeat=1), row(24, 1200, repeat=2)])

    assert (mean.interactivity_tok_s_user, mean.total_tput_per_gpu_tok_s, mean.n_repeats, mean.n_requests) == (22, 1100, 3, 30)


def test_the_interval_of_repeats_is_students():
    (mean,) = configurations([row(20, 900, repeat=0), row(20, 1000, repeat=1), row(20, 1100, repeat=2)])
    found = interval(mean, "total_tput_per_gpu_tok_s")

    assert (found.low, found.high) == pytest.approx((1000 - 4.3027 * 100 / math.sqrt(3), 1000 + 4.3027 * 100 / math.sqrt(3)))
    assert found.kind == "repeats"


@pytest.mark.parametrize("degrees", [*range(1, 31), 31, 40, 100, 5000])
def test_students_quantiles_are_right(degrees):
    assert student_975(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=2e-4)


@pytest.mark.parametrize(
    "other",
    [{"concurrency": 8}, {"tp": 4}, {"seed": 1}, {"series": FAST}, {"image": "lmsysorg/sglang:v0.5.12"}, {"engine_version": "0.5.12"}],
    ids=str,
)
def test_runs_that_differ_in_more_than_the_repeat_are_not_averaged(other):
    assert len(configurations([row(20, 1000), dataclasses.replace(row(22, 1100, repeat=1), **other)])) == 2


def test_two_measurements_of_one_key_are_never_averaged():
    found = configurations([row(20, 1000, repeat=0), row(22, 1100, repeat=0), row(24, 1200, repeat=1)])

    assert [r.n_repeats for r in found] == [1, 1, 1]


def test_a_mean_of_fewer_runs_than_there_were_says_so():
    (mean,) = configurations([row(20, 1000), row(22, 1100, repeat=1), row(1, 1, repeat=2, validity="invalid")])

    assert (mean.n_repeats, mean.validity, mean.reasons) == (2, "flagged", ("repeats_left_out",))


def test_an_invalid_attempt_that_was_retried_takes_nothing_from_its_repeats():
    (mean,) = configurations([row(1, 1, validity="invalid"), row(20, 1000), row(22, 1100, repeat=1)])

    assert (mean.n_repeats, mean.validity, mean.reasons) == (2, "valid", ())


@pytest.mark.parametrize("other", [{"validity": "invalid"}, {"interactivity_tok_s_user": math.nan}], ids=str)
def test_the_one_run_that_is_left_of_several_is_flagged(other):
    (left,) = configurations([row(20, 1000), dataclasses.replace(row(22, 1100, repeat=1), **other)])

    assert (left.n_repeats, left.validity, left.reasons) == (1, "flagged", ("repeats_left_out",))


def test_a_single_run_of_which_only_a_summary_is_known_has_no_interval():
    assert interval(row(20, 1000), "total_tput_per_gpu_tok_s") is None
    iso = compared([row(x, y, c) for x, y, c in CURVE], ECONOMY, at=(30.0,), method="steffen").iso
    assert (iso[0].cost_interval, iso[0].throughput_interval) == (None, None)


def test_a_single_run_has_the_interval_of_its_requests():
    known = {"total_tput_per_gpu_se_tok_s": 10.0, "interactivity_se_tok_s_user": 0.2}
    (at_30,) = compared([row(x, y, c, **known) for x, y, c in CURVE], ECONOMY, at=(30.0,), method="steffen").iso

    assert interval(row(20, 1000, **known), "total_tput_per_gpu_tok_s").high == pytest.approx(1019.6, abs=0.01)
    assert at_30.throughput_interval.kind == "requests"
    assert at_30.throughput_interval.low < at_30.total_tput_per_gpu_tok_s < at_30.throughput_interval.high


def test_one_configuration_of_which_nothing_is_known_leaves_its_series_without_intervals():
    rows = [*measured_curve(np.random.default_rng(1), 5), row(50, 500, 8)]

    assert draws(by_series(rows)[SERIES], np.array([30.0]), "steffen") is None


def test_the_same_rows_in_any_order_have_the_same_intervals():
    rows = measured_curve(np.random.default_rng(1), 5)
    forth, back = (compared(given, ECONOMY, at=(30.0,), method="steffen").iso[0].cost_interval for given in (rows, rows[::-1]))

    assert forth == back


def test_nothing_is_said_where_one_draw_in_forty_does_not_reach():
    iso = compared(measured_curve(np.random.default_rng(1), 5), ECONOMY, at=(20.0, 40.0), method="steffen").iso

    assert [r.cost_interval is None for r in iso] == [True, False]


@pytest.mark.parametrize("method", ["steffen", "linear", "pchip"])
def test_draws_without_noise_are_the_curve_itself(method):
    rows = [row(x, y, c, i) for x, y, c in CURVE for i in range(3)]
    (at_30,) = compared(rows, ECONOMY, at=(30.0,), method=method).iso

    assert (at_30.cost_interval.low, at_30.cost_interval.high) == pytest.approx((at_30.cost_usd_per_mtok,) * 2)


def test_a_series_of_very_many_configurations_is_compared_with_one_of_few():
    known = {"total_tput_per_gpu_se_tok_s": 10.0, "interactivity_se_tok_s_user": 0.2}
    many = [row(20 + i / 10, 3000 - i, i, series=FAST, **known) for i in range(400)]
    iso = compared([*many, *(row(x, y, c, **known) for x, y, c in CURVE)], ECONOMY, at=(30.0,), method="steffen").iso

    assert [r.ratio_interval is None for r in iso] == [False, True]


def test_an_interval_narrows_with_more_repeats():
    rng = np.random.default_rng(2)
    widths = [
        np.mean([(i := interval(r, "total_tput_per_gpu_tok_s")).high - i.low for r in configurations(measured_curve(rng, n))])
        for n in (2, 5, 20, 80)
    ]

    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("repeats", [5, 10])
def test_intervals_of_figures_cover_the_truth_in_95_of_100_trials(repeats):
    rng = np.random.default_rng(3)
    hits = []
    for _ in range(700):
        for (x, y, _), mean in zip(CURVE, configurations(measured_curve(rng, repeats)), strict=True):
            for figure, truth in (("interactivity_tok_s_user", x), ("total_tput_per_gpu_tok_s", y)):
                found = interval(mean, figure)
                hits.append(found.low <= truth <= found.high)

    assert 0.93 <= np.mean(hits) <= 0.97


@pytest.mark.parametrize("repeats", [5, 10])
def test_intervals_of_iso_cells_and_ratios_cover_the_truth(repeats):
    rng = np.random.default_rng(4)
    exact = {s: [row(x, y * f, c, series=s) for x, y, c in CURVE] for s, f in ((SERIES, 1.0), (FAST, 2.5))}
    truth = iso_table(exact, ECONOMY, at=(30.0, 50.0))
    cells, ratios = [], []
    for _ in range(300):
        rows = measured_curve(rng, repeats) + measured_curve(rng, repeats, series=FAST, factor=2.5)
        for made, true in zip(
            compared(rows, ECONOMY, at=(30.0, 50.0), method="steffen").iso, sorted(truth, key=lambda r: r.series.hardware), strict=True
        ):
            cells.append(made.cost_interval.low <= true.cost_usd_per_mtok <= made.cost_interval.high)
            if made.ratio_interval is not None:
                ratios.append(made.ratio_interval.low <= true.perf_per_dollar_vs_baseline <= made.ratio_interval.high)

    assert 0.93 <= np.mean(cells) <= 0.98
    assert np.mean(ratios) >= 0.90


def test_standard_errors_of_a_run_are_those_of_its_requests_drawn_anew():
    rng = np.random.default_rng(5)
    n, out = 400, 100
    tpot = rng.normal(0.02, 0.002, n)
    last = 0.5 + tpot * (out - 1)
    run = raw([0.0] * n, [0.5] * n, last.tolist(), prompt=[1000] * n, out=[out] * n)
    rate, speed = relative_standard_errors(run, 1.0)

    assert rate == pytest.approx(last.std() / last.mean() / math.sqrt(n), rel=0.15)  # of a sum of n
    assert speed == pytest.approx(1.2533 * tpot.std() / tpot.mean() / math.sqrt(n), rel=0.2)  # of a median of n normal values


def test_a_run_of_one_request_has_no_standard_error():
    one = raw([0], [1], [2], prompt=[10], out=[5])

    assert all(math.isnan(error) for error in relative_standard_errors(one, 1.0))
    assert all(math.isfinite(error) for error in relative_standard_errors(three_requests(), 1.0))
