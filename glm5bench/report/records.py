"""The rows of the tables as records, with numbers and None for what is not known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..analysis.comparison import Band, IsoRow
from ..analysis.cost import Economy, usd_per_mtok
from ..analysis.repeats import Interval, interval
from ..analysis.rows import Row, Series, split_gpus
from ..analysis.saturation import Saturation
from ..analysis.speculation import Gain
from ..analysis.startups import Startup
from ..analysis.steps import STEP_ORDER
from ..values.plain import finite

ENERGY = (
    "gpu_power_w", "energy_j", "energy_per_total_token_j", "energy_per_input_token_j", "energy_per_output_token_j", "energy_per_request_j",
    "total_tput_per_gpu_mw_tok_s", "sm_clock_mean_mhz", "memory_clock_mean_mhz", "temperature_max_c", "utilisation_mean",
    "power_capped_share", "slowed_down_share", "ecc_uncorrected_errors", "gpu_memory_max_gib",
)  # fmt: skip


BESIDE = (  # of points, beside the table of energy
    "accuracy_strict", "accuracy_flexible", "acceptance_p10", "acceptance_p90", "running_mean", "running_max", "queued_max",
    "cache_hit_share", "kv_usage_max", "gpu_power_w", "energy_per_output_token_j",
)  # fmt: skip


FAILED = " (accuracy failed)"  # after the label of a series


Names = Mapping[Series, str]


NONE: Names = {}


def series_row(s: Series, named: Names = NONE) -> dict[str, Any]:
    """What tells a series from others, flat. `series`: its name, which no other series of its workload has."""
    return {
        "series": named.get(s, s.label),
        "source": s.source,
        "hardware": s.hardware,
        "engine": s.engine,
        "checkpoint": s.checkpoint,
        "precision": s.precision,
        "speculative": s.speculative,
        "isl_tokens": known(s.isl_tokens),
        "osl_tokens": known(s.osl_tokens),
        "range_ratio": known(s.range_ratio),
        "endpoint": s.endpoint,
        "model": s.model,
        "variant": s.variant,
        "time_scale": s.time_scale,
        "engine_version": s.engine_version,
        "image": s.image,
        "protocol": s.protocol,
    }


def point_row(r: Row, economy: Economy, named: Names = NONE) -> dict[str, Any]:
    """One point, flat."""
    price = economy.usd_per_gpu_h.get(r.series.hardware)
    return {
        **series_row(r.series, named),
        "tp": known(r.tp),
        "gpus": r.gpus or None,
        "concurrency": known(r.concurrency),
        "repeat": r.repeat,
        "seed": known(r.seed),
        "server_scope": r.server_scope,
        "binding": r.binding,
        "total_tput_per_gpu_tok_s": finite(r.total_tput_per_gpu_tok_s),
        "input_tput_per_gpu_tok_s": finite(r.input_tput_per_gpu_tok_s),
        "output_tput_per_gpu_tok_s": finite(r.output_tput_per_gpu_tok_s),
        **_split(r),
        "steady_tput_per_gpu_tok_s": finite(r.steady_tput_per_gpu_tok_s),
        "peak_output_tput_per_gpu_tok_s": finite(r.peak_output_tput_per_gpu_tok_s),
        "goodput_rps": finite(r.goodput_rps),
        "mean_isl_tokens": finite(r.mean_isl_tokens),
        "mean_osl_tokens": finite(r.mean_osl_tokens),
        "interactivity_tok_s_user": finite(r.interactivity_tok_s_user),
        "tpot_ms": finite(r.tpot_median_s * 1e3),
        "ttft_median_ms": finite(r.ttft_median_s * 1e3),
        "ttft_p99_ms": finite(r.ttft_p99_s * 1e3),
        "cost_usd_per_mtok": finite(economy.cost(r)),
        "input_cost_usd_per_mtok": _cost(price, r.input_tput_per_gpu_tok_s),
        "output_cost_usd_per_mtok": _cost(price, r.output_tput_per_gpu_tok_s),
        "node_cost_usd_per_mtok": finite(economy.node_cost(r)),
        "tput_per_mw_tok_s": finite(economy.per_mw(r)),
        "itl_chunk_p99_ms": finite(r.itl_chunk_p99_s * 1e3),
        "mean_concurrency": finite(r.mean_concurrency),
        "acceptance_length": finite(r.acceptance_length),
        **{name: r.beside.get(name) for name in BESIDE},
        "n_requests": r.n_requests,
        "validity": r.validity,
        "reasons": ",".join(r.reasons),
        "key": r.key,
        "digest": r.digest[:16],
    }


def _split(r: Row) -> dict[str, float | None]:
    """Input tokens by the GPUs that prefill and output tokens by those that decode, as InferenceX counts; None if both are the same."""
    gpus = split_gpus(r.series.variant)
    if gpus is None:
        return {"input_tput_per_prefill_gpu_tok_s": None, "output_tput_per_decode_gpu_tok_s": None}
    prefill, decode = gpus
    return {
        "input_tput_per_prefill_gpu_tok_s": finite(r.input_tput_per_gpu_tok_s * r.gpus / prefill),
        "output_tput_per_decode_gpu_tok_s": finite(r.output_tput_per_gpu_tok_s * r.gpus / decode),
    }


def frontier_row(r: Row, economy: Economy, named: Names = NONE) -> dict[str, Any]:
    """One configuration, flat: the mean of its repeats, with the interval in which it lies."""
    row = point_row(r, economy, named)
    speed, rate = interval(r, "interactivity_tok_s_user"), interval(r, "total_tput_per_gpu_tok_s")
    row |= {"n_repeats": r.n_repeats, "n_starts": len(r.starts), "repeat": r.repeat if r.n_repeats == 1 else None}
    row |= _between("interactivity_tok_s_user", speed) | _between("total_tput_per_gpu_tok_s", rate)
    return row | {"interval": rate.level if rate else None}


SESSIONS = ("sessions_per_h", "window_requests_per_h", "fresh_tput_per_gpu_tok_s", "cached_tput_per_gpu_tok_s",
            "window_output_tput_per_gpu_tok_s", "hit_share", "ideal_hit_share", "hit_loss", "device_hit_share", "host_hit_share",
            "storage_hit_share", "normalised_median_tok_s", "normalised_p90_tok_s", "kv_usage_max", "running_mean", "queued_max",
            "energy_per_session_j", "energy_per_request_j", "energy_per_fresh_token_j", "energy_per_output_token_j")  # fmt: skip
IN_MS = ("ttft_per_fresh_token_s", "ttft_base_s", "lateness_p99_s")


def session_row(r: Row, economy: Economy, named: Names = NONE) -> dict[str, Any]:
    """One configuration of agent sessions, flat."""
    where = {"tp": known(r.tp), "gpus": r.gpus or None, "concurrency": known(r.concurrency), "n_repeats": r.n_repeats}
    cached, output = economy.weights or (None, None)
    return {
        **series_row(r.series, named),
        **where,
        "n_requests": r.n_requests,
        **{name: finite(r.of(name)) for name in SESSIONS},
        **{f"{name[:-2]}_ms": finite(r.of(name) * 1e3) for name in IN_MS},
        "ttft_median_ms": finite(r.ttft_median_s * 1e3),
        "ttft_p99_ms": finite(r.ttft_p99_s * 1e3),
        "cost_usd_per_session": finite(economy.cost_of(r, r.of("sessions_per_h"))),
        "cost_usd_per_request": finite(economy.cost_of(r, r.of("window_requests_per_h"))),
        "weighted_cost_usd_per_mtok": finite(economy.weighted_cost(r)),
        "cached_weight": cached,
        "output_weight": output,
        "acceptance_length": finite(r.acceptance_length),
        "validity": r.validity,
        "reasons": ",".join(r.reasons),
        "digest": r.digest[:16],
    }


def _between(name: str, i: Interval | None) -> dict[str, float | None]:
    """The bounds of an interval; one that is infinite is None, and the interval still has a level."""
    return {f"{name}_low": finite(i.low) if i else None, f"{name}_high": finite(i.high) if i else None}


def _cost(price: float | None, tput_per_gpu_tok_s: float) -> float | None:
    """$ for a million of these tokens, if they bore the whole cost."""
    return finite(usd_per_mtok(price, tput_per_gpu_tok_s)) if price is not None else None


def energy_row(r: Row, economy: Economy, named: Names = NONE) -> dict[str, Any]:
    """What a configuration took of power as its GPUs measured it, flat; beside it the assumed all-in power."""
    of = {name: finite(r.of(name)) for name in ENERGY}
    where = {"tp": known(r.tp), "concurrency": known(r.concurrency), "n_repeats": r.n_repeats}
    return {**series_row(r.series, named), **where, **of, "assumed_tput_per_mw_tok_s": finite(economy.per_mw(r))}


def startup_row(s: Startup, economy: Economy, named: Names = NONE) -> dict[str, Any]:
    """What a server start of an arm takes, flat; its node is paid for meanwhile."""
    price = economy.usd_per_gpu_h.get(s.series.hardware)
    usd = s.figures["start_s"] / 3600 * s.gpus_per_node * price if price is not None else math.nan
    figures = {name: finite(value) for name, value in s.figures.items()}
    return {**series_row(s.series, named), "tp": known(s.tp), "n_starts": s.n_starts, **figures, "start_cost_usd": finite(usd)}


def band_row(b: Band, named: Names = NONE) -> dict[str, Any]:
    """The ratio of a series to its baseline as a whole, flat."""
    return {
        **series_row(b.series, named),
        "baseline": named.get(b.baseline, b.baseline.label),
        "baseline_hardware": b.baseline.hardware,
        "peak": b.peak,
        "peak_at_tok_s_user": b.peak_at_tok_s_user,
        "low": b.low,
        "high": b.high,
        "from_tok_s_user": b.from_tok_s_user,
        "to_tok_s_user": b.to_tok_s_user,
    }


def saturation_row(s: Saturation, named: Names = NONE) -> dict[str, Any]:
    """Where an arm stops getting faster, flat."""
    at = s.knee or s.best
    return {
        **series_row(s.series, named),
        "tp": known(s.tp),
        "is_saturated": s.knee is not None,
        "concurrency": at.concurrency,
        "total_tput_per_gpu_tok_s": at.total_tput_per_gpu_tok_s,
        "output_tput_per_gpu_tok_s": finite(at.output_tput_per_gpu_tok_s),
        "gives": s.gives.name if s.gives else None,
        "gives_at_concurrency": s.gives.at_concurrency if s.gives else None,
        "gives_from_ms": s.gives.from_s * 1e3 if s.gives else None,
        "gives_to_ms": s.gives.to_s * 1e3 if s.gives else None,
        "why": s.why or None,
        "planned_limit": s.planned or None,
    }


def gain_row(g: Gain, named: Names = NONE) -> dict[str, Any]:
    """What speculation brings at one interactivity, flat."""
    return {
        **series_row(g.series, named),
        "interactivity_tok_s_user": g.interactivity_tok_s_user,
        "off_tput_per_gpu_tok_s": g.off_tput_per_gpu_tok_s,
        "total_tput_per_gpu_tok_s": g.tput_per_gpu_tok_s,
        "throughput_ratio": g.throughput_ratio,
        "off_cost_usd_per_mtok": finite(g.off_cost_usd_per_mtok),
        "cost_usd_per_mtok": finite(g.cost_usd_per_mtok),
        "acceptance_length_low": finite(g.acceptance_low),
        "acceptance_length_high": finite(g.acceptance_high),
    }


def iso_row(r: IsoRow, named: Names = NONE) -> dict[str, Any]:
    """One series at one interactivity, flat; `*_step` columns multiply to the whole ratio."""
    steps = {step.setting: step for step in r.steps}
    near = r.nearest
    return {
        **series_row(r.series, named),
        "interactivity_tok_s_user": r.interactivity_tok_s_user,
        "status": r.status,
        "beyond": r.beyond or None,
        "cost_usd_per_mtok": finite(r.cost_usd_per_mtok),
        "node_cost_usd_per_mtok": finite(r.node_cost_usd_per_mtok),
        "total_tput_per_gpu_tok_s": finite(r.total_tput_per_gpu_tok_s),
        "tput_per_mw_tok_s": finite(r.tput_per_mw_tok_s),
        "concurrency": finite(r.concurrency),
        "perf_per_dollar_vs_baseline": finite(r.perf_per_dollar_vs_baseline),
        "node_perf_per_dollar_vs_baseline": finite(r.node_perf_per_dollar_vs_baseline),
        "baseline": named.get(r.baseline, r.baseline.label) if r.baseline else "",
        "is_baseline": r.is_baseline,
        **{f"{name}_step": finite(steps[name].ratio) if name in steps else None for name in STEP_ORDER},
        **{f"{name}_step_also": ",".join(steps[name].also) if name in steps else None for name in STEP_ORDER},
        **_between("cost_usd_per_mtok", r.cost_interval),
        **_between("total_tput_per_gpu_tok_s", r.throughput_interval),
        **_between("perf_per_dollar_vs_baseline", r.ratio_interval),
        "interval": r.throughput_interval.level if r.throughput_interval else None,
        "ratio_interval": r.ratio_interval.level if r.ratio_interval else None,
        "break_even_usd_per_gpu_h": finite(r.break_even_usd_per_gpu_h),
        "nearest_measured_tok_s_user": near.interactivity_tok_s_user if near else None,
        "nearest_measured_concurrency": known(near.concurrency) if near else None,
        "nearest_measured_tp": known(near.tp) if near else None,
    }


def known(x: float) -> float | None:
    """None for what an import does not say."""
    return x if x >= 0 else None
