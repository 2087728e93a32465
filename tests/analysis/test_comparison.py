"""Frontiers compared at the same interactivity, and the steps that a ratio of costs consists of."""

import csv
import dataclasses
import math

import pytest

from glm5bench.analysis.comparison import by_series, frontiers, iso_table
from glm5bench.analysis.cost import Economy
from glm5bench.analysis.rows import Row, Series
from glm5bench.archive.summary import row_of
from glm5bench.archive.writer import PUBLISHED
from glm5bench.exchange.published import published
from glm5bench.settings.prices import power_table, price_table

CHEAP = Series("measured", "h200", "sglang", "zai-org/GLM-5-FP8", "fp8", "mtp", 8192, 1024)
FAST = dataclasses.replace(CHEAP, hardware="b200")
FINE = dataclasses.replace(FAST, precision="nvfp4", checkpoint="nvidia/GLM-5-NVFP4")
ECONOMY = Economy({"h200": 1.8, "b200": 3.6}, {"h200": 1.0, "b200": 2.0})


def row(series, interactivity, throughput, *, tp=8, validity="valid", concurrency=None):
    users = concurrency or round(10_000 / interactivity)
    return Row(
        series, "k", "d", tp, tp, 8, users, 0, 0, "arm", 4, throughput, math.nan, math.nan, interactivity, 1 / interactivity,
        math.nan, math.nan, 10, validity, (), "o",
    )  # fmt: skip


def table(*rows, **how):
    return {(r.series, r.interactivity_tok_s_user): r for r in iso_table(frontiers(by_series(rows)), ECONOMY, **how)}


TWO_SERIES = (row(CHEAP, 20, 1000), row(CHEAP, 60, 500), row(FAST, 20, 4000), row(FAST, 40, 2000))


def published_iso(**how):
    of_that_day = [row_of(m, m.digest(), "published") for m in published()[0] if m.provenance["source"] == "inferencex-2026-05-25"]
    economy = Economy(price_table("hyperscaler").usd_per_gpu_h, power_table())
    made = iso_table(frontiers(by_series(of_that_day)), economy, **how)
    return {(r.series.hardware, r.series.precision, r.interactivity_tok_s_user): r for r in made}


def test_a_row_costs_its_hardwares_price():
    assert ECONOMY.cost(row(CHEAP, 20, 1000)) == pytest.approx(0.5)
    assert ECONOMY.node_cost(row(CHEAP, 20, 1000, tp=4)) == pytest.approx(1.0)
    assert ECONOMY.per_mw(row(FAST, 20, 1000)) == pytest.approx(500_000)


def test_hardware_without_a_price_has_no_cost():
    unknown = row(dataclasses.replace(CHEAP, hardware="b300"), 20, 1000)

    assert math.isnan(ECONOMY.cost(unknown))
    assert math.isnan(ECONOMY.node_cost(unknown))
    assert math.isnan(ECONOMY.per_mw(unknown))


def test_the_tps_of_a_series_form_one_frontier():
    wide, narrow, beaten = row(CHEAP, 60, 300, tp=8), row(CHEAP, 20, 1000, tp=4), row(CHEAP, 20, 500, tp=8)

    assert frontiers(by_series([wide, narrow, beaten])) == {CHEAP: [narrow, wide]}


def test_invalid_points_stay_off_the_frontier_and_flagged_ones_do_not():
    invalid, flagged = row(CHEAP, 60, 900, validity="invalid"), row(CHEAP, 20, 500, validity="flagged")

    assert frontiers(by_series([invalid, flagged])) == {CHEAP: [flagged]}


def test_a_series_without_a_usable_point_has_no_frontier():
    assert frontiers(by_series([row(CHEAP, 20, math.nan)])) == {}


def test_a_measured_interactivity_is_told_from_an_interpolated_and_an_unreachable_one():
    made = table(*TWO_SERIES, at=(20, 30, 50, 70))

    assert [made[CHEAP, x].status for x in (20, 30, 70)] == ["measured", "interpolated", "not measured"]
    assert (made[FAST, 50].status, made[FAST, 50].beyond) == ("not measured", "below concurrency 250")


def test_nothing_is_said_outside_the_measured_range():
    made = table(*TWO_SERIES, at=(50,))[FAST, 50]

    assert all(math.isnan(v) for v in (made.cost_usd_per_mtok, made.total_tput_per_gpu_tok_s, made.tput_per_mw_tok_s, made.concurrency))
    assert math.isnan(made.perf_per_dollar_vs_baseline)


def test_cost_is_interpolated_and_the_rest_of_the_row_follows_from_it():
    made = table(*TWO_SERIES, at=(40,), method="linear")[CHEAP, 40]

    assert made.cost_usd_per_mtok == pytest.approx((0.5 + 1.0) / 2)
    assert made.total_tput_per_gpu_tok_s == pytest.approx(1.8 / (3600 * 0.75 / 1e6))
    assert made.tput_per_mw_tok_s == pytest.approx(made.total_tput_per_gpu_tok_s * 1000)
    assert made.concurrency / made.total_tput_per_gpu_tok_s == pytest.approx((500 / 1000 + 167 / 500) / 2)  # users per tok/s/GPU


@pytest.mark.parametrize("method", ["steffen", "pchip", "linear"])
def test_every_published_iso_row_agrees_with_itself(method):
    for cell in published_iso(method=method).values():
        price = {"h200": 1.41, "b200": 1.95, "mi355x": 1.48}[cell.series.hardware]
        if math.isfinite(cell.cost_usd_per_mtok):
            assert cell.cost_usd_per_mtok * cell.total_tput_per_gpu_tok_s * 3600 / 1e6 == pytest.approx(price)


def test_an_interactivity_that_one_user_alone_does_not_get_is_not_reached():
    made = table(row(CHEAP, 20, 1000, concurrency=64), row(CHEAP, 60, 500, concurrency=1), at=(10, 70))

    assert [(made[CHEAP, x].status, made[CHEAP, x].beyond) for x in (10, 70)] == [
        ("not measured", "above concurrency 64"), ("not reached", ""),
    ]  # fmt: skip


def test_what_was_measured_and_is_beaten_is_no_gain_and_not_called_unmeasured():
    rows = [row(CHEAP, 25, 1000, concurrency=32), row(CHEAP, 60, 500, concurrency=4), row(CHEAP, 20, 990, concurrency=64)]
    grouped = by_series(rows)
    made = {r.interactivity_tok_s_user: r for r in iso_table(frontiers(grouped), ECONOMY, at=(10, 22, 30), grouped=grouped)}

    assert [(made[x].status, made[x].beyond) for x in (10, 22)] == [
        ("not measured", "above concurrency 64"), ("no gain", "below 25.0 tok/s/user"),
    ]  # fmt: skip


def test_an_arm_on_half_a_node_costs_twice_as_much_with_the_whole_node_paid():
    half = published_iso(at=(40.0,))

    cell = half["b200", "nvfp4", 40.0]
    assert (round(cell.perf_per_dollar_vs_baseline, 2), round(cell.node_perf_per_dollar_vs_baseline, 2)) == (3.44, 1.72)
    assert cell.node_cost_usd_per_mtok == pytest.approx(2 * cell.cost_usd_per_mtok)
    assert math.isnan(half["b200", "fp8", 40.0].node_cost_usd_per_mtok)  # it leaves no GPU idle


def test_the_baseline_is_the_series_on_the_cheapest_gpu():
    assert table(*TWO_SERIES, at=(20,))[FAST, 20].baseline == CHEAP


def test_the_baseline_can_be_chosen():
    made = table(*TWO_SERIES, at=(20,), is_baseline=lambda s: s.hardware == "b200")

    assert made[CHEAP, 20].perf_per_dollar_vs_baseline == pytest.approx(0.25 / 0.5)


def test_a_baseline_that_nothing_is_leaves_the_ratios_out():
    made = table(*TWO_SERIES, at=(20,), is_baseline=lambda s: s.hardware == "b300")[FAST, 20]

    assert (made.baseline, made.steps) == (None, ())
    assert math.isnan(made.perf_per_dollar_vs_baseline)


def test_perf_per_dollar_is_the_cost_of_the_baseline_over_that_of_the_row():
    made = table(*TWO_SERIES, at=(20,))

    assert made[FAST, 20].perf_per_dollar_vs_baseline == pytest.approx(0.5 / 0.25)
    assert made[CHEAP, 20].perf_per_dollar_vs_baseline == 1.0


@pytest.mark.parametrize("change", [{"source": "simulated"}, {"isl_tokens": 1024}, {"osl_tokens": 2048}])
def test_different_sources_and_lengths_are_not_compared(change):
    other = dataclasses.replace(FAST, **change)

    assert table(row(CHEAP, 20, 1000), row(other, 20, 4000), at=(20,))[other, 20].baseline == other


def test_the_steps_multiply_to_the_whole_ratio():
    made = table(*TWO_SERIES, row(FINE, 20, 9000), row(FINE, 70, 1000), at=(20, 35))

    for x in (20, 35):
        whole = made[FINE, x]
        assert [step.setting for step in whole.steps] == ["hardware", "precision"]
        assert math.prod(step.ratio for step in whole.steps) == pytest.approx(whole.perf_per_dollar_vs_baseline)


def test_there_are_no_steps_over_a_series_that_was_not_measured():
    assert table(row(CHEAP, 20, 1000), row(FINE, 20, 9000), at=(20,))[FINE, 20].steps == ()


def test_there_are_no_steps_where_one_between_is_unreachable():
    assert table(*TWO_SERIES, row(FINE, 20, 9000), row(FINE, 70, 1000), at=(60,))[FINE, 60].steps == ()


@pytest.mark.parametrize("line", list(csv.DictReader((PUBLISHED.parent / "iso_interactivity_2026-05-25.csv").read_text().splitlines())))
def test_the_table_of_2026_05_25_is_reproduced_to_the_cent(line):
    x = float(line["interactivity_tok_s_user"])
    made = published_iso(at=(x,))
    for hardware, precision in (("h200", "fp8"), ("b200", "fp8"), ("b200", "nvfp4")):
        cell, told = made[hardware, precision, x], line[f"{hardware}_{precision}_mtp_usd_per_mtok"]
        if not told:
            assert cell.status in ("not measured", "not reached")
        elif (hardware, precision, x) == ("b200", "fp8", 50.0):
            assert cell.cost_usd_per_mtok == pytest.approx(0.5047, abs=5e-5)  # published as 0.51
        else:
            assert f"{cell.cost_usd_per_mtok:.2f}" == f"{float(told):.2f}"
    if line["b200_nvfp4_vs_h200_perf_per_dollar"]:
        ratio = made["b200", "nvfp4", x].perf_per_dollar_vs_baseline
        assert ratio == pytest.approx(float(line["b200_nvfp4_vs_h200_perf_per_dollar"]), abs=0.012)


def test_at_80_the_hardware_step_is_1_22_and_the_precision_step_2_98():
    steps = published_iso(at=(80.0,))["b200", "nvfp4", 80.0].steps

    assert [(s.setting, round(s.ratio, 2), s.also) for s in steps] == [("hardware", 1.22, ()), ("precision", 2.98, ("checkpoint", "tp"))]


def test_linear_interpolation_does_not_give_the_table_of_2026_05_25():
    assert round(published_iso(at=(100.0,), method="linear")["b200", "fp8", 100.0].cost_usd_per_mtok, 3) != 1.284


def test_a_ratio_splits_in_another_order_where_the_first_one_was_not_measured():
    rows = [row_of(m, m.digest(), "published") for m in published()[0]]
    economy = Economy({"b200": 1.95, "h200": 1.41, "mi355x": 1.48}, {})

    table = iso_table(frontiers(by_series(rows)), economy, at=(25.0,), is_baseline=lambda s: (s.hardware, s.speculative) == ("b200", "off"))

    (nvfp4,) = [r for r in table if r.series.precision == "nvfp4"]
    assert [step.setting for step in nvfp4.steps] == ["speculative", "precision"]  # NVFP4 without MTP is not published
    assert nvfp4.steps[0].ratio * nvfp4.steps[1].ratio == pytest.approx(nvfp4.perf_per_dollar_vs_baseline)


def test_a_whole_node_costs_at_most_its_share_more_and_never_less_at_a_higher_interactivity():
    rows = [row_of(m, m.digest(), "published") for m in published()[0] if m.provenance["source"] == "inferencex-2026-05-25"]
    economy = Economy(price_table("hyperscaler").usd_per_gpu_h, power_table())
    grouped = by_series(rows)
    at = [float(x) for x in range(25, 180)]
    found: dict[Series, list[tuple[float, float]]] = {}
    for r in iso_table(frontiers(grouped), economy, at=at, grouped=grouped, has_intervals=False):
        if math.isfinite(r.node_cost_usd_per_mtok) and math.isfinite(r.cost_usd_per_mtok):
            found.setdefault(r.series, []).append((r.cost_usd_per_mtok, r.node_cost_usd_per_mtok))

    assert found
    for costs in found.values():
        assert all(cost * (1 - 1e-9) <= node <= 2 * cost * (1 + 1e-9) for cost, node in costs)
        assert [node for _, node in costs] == sorted(node for _, node in costs)
