"""Repeats are combined into their mean with an interval, and intervals have the stated coverage."""

import dataclasses
import json
import math

import numpy as np
import pytest
from conftest import measured, raw
from program import bench
from rows import CURVE, ECONOMY, FAST, SERIES, row
from scipy import stats

from glm5bench.analysis.batches import n_batches, relative_standard_errors
from glm5bench.analysis.comparison import by_series, compared, iso_table
from glm5bench.analysis.repeats import configurations, interval, level, quantile, student
from glm5bench.analysis.resampling import bounds
from glm5bench.archive.pointfile import write_point


def measured_curve(rng, repeats, *, noise=0.03, series=SERIES, factor=1.0):
    """Every configuration of the curve, `repeats` times; each run as a whole is a little fast or slow."""
    return [
        row(x * f, y * factor * f * (1 + noise / 3 * rng.standard_normal()), c, i, series=series)
        for x, y, c in CURVE
        for i, f in enumerate(1 + noise * rng.standard_normal(repeats))
    ]


def test_repeats_of_a_configuration_are_one_row_with_their_mean():
    (mean,) = configurations([row(20, 1000, repeat=0), row(22, 1100, repeat=1), row(24, 1200, repeat=2)])

    assert (mean.interactivity_tok_s_user, mean.total_tput_per_gpu_tok_s, mean.n_repeats, mean.n_requests) == (22, 1100, 3, 30)


def test_the_interval_over_starts_is_students_widened_for_skewed_noise():
    (mean,) = configurations([row(20, 900, repeat=0), row(20, 1000, repeat=1), row(20, 1100, repeat=2)])
    found = interval(mean, "total_tput_per_gpu_tok_s")

    half = 1.2 * 4.3027 * 100 / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((1000 - half, 1000 + half), rel=1e-4)
    assert found.level == "starts"


@pytest.mark.parametrize(("degrees", "widened"), [(1, 1.2), (4, 1.2), (5, 1.1), (5000, 1.1)])
def test_quantiles_are_students_widened(degrees, widened):
    assert quantile(degrees) == pytest.approx(widened * stats.t.ppf(0.975, degrees))
    assert student(degrees, 0.005) == pytest.approx(stats.t.ppf(0.995, degrees))


def test_runs_of_one_start_are_one_value_beside_other_starts():
    rows = [row(20, y, repeat=i, server_start=start) for i, (y, start) in enumerate([(900, "a"), (1100, "a"), (1400, "b")])]
    (mean,) = configurations(rows)

    assert (mean.total_tput_per_gpu_tok_s, level(mean), len(mean.starts)) == (1200, "starts", 2)
    assert level(configurations(rows[:2])[0]) == "runs"
    assert level(rows[0]) == "requests"


def test_runs_whose_starts_are_unknown_count_as_runs_of_one_start():
    (mean,) = configurations([row(20, 1000 + i, repeat=i, server_start="") for i in range(3)])

    assert (level(mean), interval(mean, "total_tput_per_gpu_tok_s").level) == ("runs", "runs")


def test_the_same_key_of_two_campaigns_is_one_point_of_two_starts_and_both_are_named():
    (mean,) = configurations([row(20, 1000, origin="one", server_start="a"), row(22, 1100, origin="other", server_start="b")])

    assert (mean.total_tput_per_gpu_tok_s, level(mean), mean.origin) == (1050, "starts", "one, other")


def test_points_of_other_keys_that_look_the_same_are_not_averaged():
    one, other = row(20, 1000, server_start="a"), row(22, 1400, key="of another recipe", server_start="b")

    assert [r.total_tput_per_gpu_tok_s for r in configurations([one, other])] == [1000, 1400]
    again = dataclasses.replace(one, total_tput_per_gpu_tok_s=1100, digest="again", server_start="c")
    assert [r.total_tput_per_gpu_tok_s for r in configurations([one, other, again])] == [1050, 1400]


def test_two_campaigns_merged_are_one_row_of_two_starts_that_names_both(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        write_point(tmp_path / name / "p.h5", measured(provenance={"host": name, "job_id": "7", "server_start": f"{name} 7"}))
    loose = json.loads(bench(tmp_path, "tables", "one", "other", "--format", "json").stdout)
    assert bench(tmp_path, "merge", "one", "other", "-o", "all.h5").returncode == 0
    merged = json.loads(bench(tmp_path, "tables", "all.h5", "--format", "json").stdout)

    for told in (loose, merged):
        assert [(r["n_repeats"], r["n_starts"], r["interval"]) for r in told["frontier"]] == [(2, 2, "starts")]
        assert len(told["points"]) == 2


def test_a_merged_ratio_lies_between_those_of_its_sources():
    base = [row(x, y, c) for x, y, c in CURVE]
    better = [[row(x * f, y * 2 * f, c, series=FAST, digest=name, server_start=name) for (x, y, c), f in zip(CURVE, noise, strict=True)]
              for name, noise in (("a", (1.04, 0.98, 1.03)), ("b", (0.97, 1.05, 0.99)))]  # fmt: skip

    def ratio(*rows):
        (cell,) = [r for r in compared([*base, *rows], ECONOMY, at=(40.0,), method="steffen").iso if r.series == FAST]
        return cell.perf_per_dollar_vs_baseline

    one, other, both = ratio(*better[0]), ratio(*better[1]), ratio(*better[0], *better[1])
    assert min(one, other) < both < max(one, other)


@pytest.mark.parametrize(
    "other",
    [
        {"concurrency": 8},
        {"tp": 4},
        {"seed": 1},
        {"n_requests": 20},
        {"series": FAST},
        *(
            {"series": dataclasses.replace(SERIES, **told)}
            for told in (
                {"image": "lmsysorg/sglang:v0.5.12"},
                {"engine_version": "0.5.12"},
                {"protocol": "requests=5xC"},
            )
        ),
    ],
    ids=str,
)
def test_runs_that_differ_in_more_than_the_repeat_are_not_averaged(other):
    assert len(configurations([row(20, 1000), dataclasses.replace(row(22, 1100, repeat=1), **other)])) == 2


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
    (at_30,) = compared([row(x, y, c, n_requests=10 * c, **known) for x, y, c in CURVE], ECONOMY, at=(30.0,), method="steffen").iso

    many = row(20, 1000, n_requests=4 * 10, **known)
    assert interval(many, "total_tput_per_gpu_tok_s").high == pytest.approx(1000 + 10 * quantile(15))
    assert at_30.throughput_interval.level == "requests"
    assert at_30.throughput_interval.low < at_30.total_tput_per_gpu_tok_s < at_30.throughput_interval.high


def test_one_configuration_of_which_nothing_is_known_leaves_its_series_without_intervals():
    rows = [*measured_curve(np.random.default_rng(1), 5), row(50, 500, 8)]

    assert bounds(by_series(rows)[SERIES], np.array([30.0]), "steffen") is None


def test_the_same_rows_in_any_order_have_the_same_intervals():
    rows = measured_curve(np.random.default_rng(1), 5)
    forth, back = (compared(given, ECONOMY, at=(30.0,), method="steffen").iso[0].cost_interval for given in (rows, rows[::-1]))

    assert forth == back


def test_what_some_draws_do_not_reach_has_no_upper_bound_of_its_cost():
    rows = measured_curve(np.random.default_rng(1), 5)
    end = max(r.interactivity_tok_s_user for r in by_series(rows)[SERIES])
    near, inside = compared(rows, ECONOMY, at=(end * 0.999, 40.0), method="steffen").iso

    assert (near.cost_interval.high, near.throughput_interval.low) == (math.inf, 0.0)
    assert inside.cost_interval.high < math.inf


@pytest.mark.parametrize("method", ["steffen", "linear", "pchip"])
def test_draws_without_noise_are_the_curve_itself(method):
    rows = [row(x, y, c, i) for x, y, c in CURVE for i in range(3)]
    (at_30,) = compared(rows, ECONOMY, at=(30.0,), method=method).iso

    assert (at_30.cost_interval.low, at_30.cost_interval.high) == pytest.approx((at_30.cost_usd_per_mtok,) * 2)


def test_a_series_of_very_many_configurations_is_compared_with_one_of_few():
    known = {"total_tput_per_gpu_se_tok_s": 10.0, "interactivity_se_tok_s_user": 0.2}
    many = [row(20 + i / 10, 3000 - i, i + 1, series=FAST, n_requests=5000, **known) for i in range(400)]
    iso = compared([*many, *(row(x, y, c, n_requests=10 * c, **known) for x, y, c in CURVE)], ECONOMY, at=(30.0,), method="steffen").iso

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

    assert 0.94 <= np.mean(hits) <= 0.98


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

    assert 0.94 <= np.mean(cells) <= 1.0
    assert 0.93 <= np.mean(ratios) <= 1.0


def test_a_run_of_fewer_than_five_waves_has_no_standard_error():
    run = raw([0, 0, 1, 1], [0.5, 0.5, 1.5, 1.5], [1, 1, 2, 2], prompt=[10] * 4, out=[5] * 4)

    assert all(math.isnan(error) for error in relative_standard_errors(run, 1.0, 2))
    assert [n_batches(n, 4) for n in (19, 20, 40, 4000)] == [0, 6, 16, 18]


def test_the_spread_within_a_run_is_that_of_its_middle_stretches():
    speeds = np.repeat(
        [5.0, 1.0, 1.1, 0.9, 1.0, 1.0, 1.05, 0.95, 1.0, 5.0], 4
    )  # waves of four requests, two stretches each; the first and the last wave do not count
    starts = np.concatenate([[0.0], np.cumsum(10.0 / speeds[::4])[:-1]]).repeat(4)
    run = raw(starts.tolist(), (starts + 1e-6).tolist(), (starts + 10.0 / speeds).tolist(), prompt=[10] * 40, out=[11] * 40)
    rate, speed = relative_standard_errors(run, 1.0, 4)

    middle = np.repeat([1.0, 1.1, 0.9, 1.0, 1.0, 1.05, 0.95, 1.0], 2)
    assert speed == pytest.approx(middle.std(ddof=1) / math.sqrt(16) / middle.mean(), rel=1e-3)
    assert 0 < rate < 0.1
