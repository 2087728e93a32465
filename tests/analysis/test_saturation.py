"""Saturation of arms, gains from speculation, bands of ratios, and the limits of the hardware."""

import dataclasses
import math

import pytest
from rows import CURVE, ECONOMY, FAST, SERIES, row

from glm5bench.analysis.comparison import bands, by_series, compared
from glm5bench.analysis.limits import AXES, bounds, limit_curve, specifications
from glm5bench.analysis.saturation import saturations
from glm5bench.analysis.speculation import engines_with_acceptance, gains
from glm5bench.archive.summary import row_of
from glm5bench.exchange.published import published
from glm5bench.settings.overrides import compose
from glm5bench.settings.validated import group_values

OFF = dataclasses.replace(SERIES, speculative="off")


def arm(*throughputs, **more):
    return [dataclasses.replace(row(100 / c, y, c), **more) for c, y in zip((1, 2, 4, 8, 16), throughputs, strict=False)]


def test_the_published_vllm_points_saturate_at_128_where_itl_p99_gave_at_64():
    rows = [row_of(m, m.digest(), "published") for m in published()[0] if m.point["engine"] == "vllm"]
    (found,) = saturations(by_series(rows))

    assert (found.knee.concurrency, round(found.knee.output_tput_per_gpu_tok_s * 8)) == (128, 2132)
    assert (found.gives.name, found.gives.at_concurrency, round(found.gives.to_s * 1e3, 2)) == ("ITL p99", 64, 474.93)
    assert found.why == ""


def test_throughput_that_still_rises_is_not_saturated():
    (found,) = saturations(by_series(arm(100, 200, 390, 700, 1200)))

    assert (found.knee, found.best.concurrency) == (None, 16)


def test_the_knee_is_the_first_concurrency_that_no_higher_one_beats_by_a_twentieth():
    (found,) = saturations(by_series(arm(100, 200, 300, 310, 290)))

    assert found.knee.concurrency == 4


@pytest.mark.parametrize(("code", "why"), [("admission_capped", "admission limit"), ("kv_limited", "KV capacity"), ("client_lag", "")])
def test_why_is_what_a_point_past_the_knee_knows(code, why):
    rows = arm(100, 200, 300, 300, 300)
    rows[-1] = dataclasses.replace(rows[-1], reasons=(code,), validity="flagged")

    assert saturations(by_series(rows))[0].why == why


def test_what_gives_past_the_knee_is_told_before_what_gave_on_the_way():
    slow = {2: 0.01, 4: 0.05, 8: 0.05, 16: 0.1}
    rows = [dataclasses.replace(r, tpot_median_s=slow.get(r.concurrency, 0.01)) for r in arm(100, 200, 390, 400, 400)]
    (found,) = saturations(by_series(rows))

    assert (found.knee.concurrency, found.gives.name, found.gives.at_concurrency) == (4, "TPOT", 16)


def test_seeds_of_one_concurrency_are_no_growth():
    rows = [dataclasses.replace(r, seed=s, key=f"{r.key}{s}", ttft_median_s=0.5 + 9 * s) for r in arm(100, 200, 300, 300) for s in (0, 1)]
    (found,) = saturations(by_series(rows))

    assert found.gives is None or found.gives.name == "TPOT"


def test_points_that_serve_nothing_or_of_no_known_tp_say_nothing():
    assert saturations(by_series(arm(0, 0, 0, 0))) == []
    assert saturations(by_series([dataclasses.replace(r, tp=-1) for r in arm(100, 200, 300)])) == []


def test_two_concurrencies_say_nothing():
    assert saturations(by_series(arm(100, 100))) == []


def test_speculation_is_held_against_none_at_the_same_interactivity():
    rows = [row(x, 2 * y, c, acceptance_length=2.5) for x, y, c in CURVE] + [row(x, y, c, series=OFF) for x, y, c in CURVE]
    made = compared(rows, ECONOMY, at=(20.0, 40.0, 90.0), method="steffen")
    found = gains(made.iso, made.fronts)

    assert [(g.interactivity_tok_s_user, g.throughput_ratio, g.acceptance_low) for g in found] == [(20, 2, 2.5), (40, 2, 2.5)]


def test_acceptance_lengths_of_two_engines_are_told_apart():
    vllm = dataclasses.replace(SERIES, engine="vllm")
    made = compared(
        [row(20, 900, acceptance_length=2.5), row(20, 900, series=vllm, acceptance_length=2.9)], ECONOMY, at=(20.0,), method="steffen"
    )

    assert engines_with_acceptance(made.fronts) == ["sglang", "vllm"]


def test_a_band_has_its_peak_its_ends_and_where_it_is_defined():
    rows = [row(x, y, c) for x, y, c in CURVE] + [row(x + 10, 3 * y, c, series=FAST) for x, y, c in CURVE]
    made = compared(rows, ECONOMY, at=(10.0, 30.0, 50.0, 60.0), method="linear", baseline="h200")
    (band,) = bands(made.iso, made.fronts)
    ratios = {r.interactivity_tok_s_user: r.perf_per_dollar_vs_baseline for r in made.iso if r.series == FAST}

    assert (band.from_tok_s_user, band.to_tok_s_user) == (30, 60)
    assert (band.peak, band.low) == (max(ratios[x] for x in (30.0, 50.0, 60.0)), min(ratios[x] for x in (30.0, 50.0, 60.0)))
    assert ratios[band.peak_at_tok_s_user] == band.peak


def test_a_cell_has_the_price_at_which_both_would_cost_the_same():
    rows = [row(x, y, c) for x, y, c in CURVE] + [row(x, 3 * y, c, series=FAST) for x, y, c in CURVE]
    (fast, *_) = compared(rows, ECONOMY, at=(30.0,), method="steffen", baseline="h200").iso
    dearer = dataclasses.replace(ECONOMY, usd_per_gpu_h={**ECONOMY.usd_per_gpu_h, "b200": fast.break_even_usd_per_gpu_h})
    (again, *_) = compared(rows, dearer, at=(30.0,), method="steffen", baseline="h200").iso

    assert fast.break_even_usd_per_gpu_h == pytest.approx(3 * 1.8)
    assert again.perf_per_dollar_vs_baseline == pytest.approx(1.0)


def test_the_break_even_price_of_a_gpu_without_a_price_is_known():
    rows = [row(x, y, c) for x, y, c in CURVE] + [row(x, 3 * y, c, series=FAST) for x, y, c in CURVE]
    unpriced = dataclasses.replace(ECONOMY, usd_per_gpu_h={"h200": 1.8, "b200": None})
    (fast, *_) = compared(rows, unpriced, at=(30.0,), method="steffen", baseline="h200").iso

    assert math.isnan(fast.cost_usd_per_mtok)
    assert fast.break_even_usd_per_gpu_h == pytest.approx(5.4)


def test_a_step_names_what_served_the_points_beside_its_cell():
    here = [dataclasses.replace(row(x, y, c), tp=8) for x, y, c in CURVE]
    there = [dataclasses.replace(row(x, 3 * y, c, series=FAST), tp=4 if x < 50 else 8) for x, y, c in CURVE]
    made = compared([*here, *there], ECONOMY, at=(30.0, 60.0), method="steffen", baseline="h200").iso

    assert [r.steps[0].also for r in made if r.series == FAST] == [("tp",), ()]


def test_a_cell_names_the_measured_point_that_is_nearest():
    (made,) = compared([row(x, y, c) for x, y, c in CURVE], ECONOMY, at=(42.0,), method="steffen").iso

    assert (made.status, made.nearest.interactivity_tok_s_user, made.nearest.concurrency) == ("interpolated", 40, 16)


def test_no_published_point_is_above_the_limit_of_its_hardware():
    for hardware, checkpoint, tp in (("b200", "glm5_nvfp4", 4), ("b200", "glm5_fp8", 8), ("h200", "glm5_fp8", 8)):
        made = compose(f"hardware={hardware}", f"checkpoint={checkpoint}", f"tp={tp}", "speculative=mtp").arm
        limits = limit_curve(made, 0.9 * 8192, 0.9 * 1024)
        rows = [
            row_of(m, m.digest(), "p")
            for m in published()[0]
            if m.point["hardware"] == hardware and m.point["checkpoint"] == made.checkpoint.repository
        ]
        assert rows
        for r in (r for r in rows if r.tp == tp and r.series.speculative == "mtp"):
            (at,) = [p for p in limits if p.concurrency == r.concurrency]
            assert r.total_tput_per_gpu_tok_s < at.total_tput_per_gpu_tok_s
            assert r.interactivity_tok_s_user < at.interactivity_tok_s_user


def test_a_bound_is_the_ratio_of_a_specification_over_that_of_the_prices():
    b200, h200 = (compose(f"hardware={name}").arm.hardware for name in ("b200", "h200"))
    found = bounds(b200, h200, {"b200": 2.0, "h200": 1.0}, "nvfp4", "fp8")

    assert found["bandwidth"] == pytest.approx(b200.bandwidth_tb_s / h200.bandwidth_tb_s / 2)
    assert found["compute"] == pytest.approx(b200.tflop_s["fp4"] / h200.tflop_s["fp8"] / 2)
    assert set(bounds(b200, h200, {"b200": None, "h200": 1.0}, "fp8", "fp8").values()) == {None}


def test_specifications_are_normalised_over_the_whole_group():
    found = specifications([compose(f"hardware={name}").arm.hardware for name in group_values("hardware")])

    assert {axis: max(values[axis] for values in found.values()) for axis in AXES} == dict.fromkeys(AXES, 1.0)
    assert found["h200"]["fp4_tflop_s"] == 0.0
    assert all(math.isfinite(v) for values in found.values() for v in values.values())
