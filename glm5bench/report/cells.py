"""The cells of the tables that people read: a mapping of headings to texts for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis.rows import is_told
from .records import FAILED

STEPS = ("hardware", "precision", "speculative")


def lengths_and_spread(r: Mapping[str, Any]) -> str:
    """The workload of a row in words."""
    ratio = r["range_ratio"]
    lengths = "spread unstated" if ratio is None else "fixed lengths" if ratio == 1 else f"lengths in [{ratio:g} L, L]"
    return f"{_source(r)}, {r['model']}, {_lengths(r)} over {r['endpoint']}, {lengths}"


def _lengths(r: Mapping[str, Any]) -> str:
    return "/".join(rounded(r[name], 0) or "?" for name in ("isl_tokens", "osl_tokens"))


def _source(r: Mapping[str, Any]) -> str:
    return str(r["source"]) if r["time_scale"] is None else f"simulated ×{r['time_scale']:g}"


MAY_LACK = (
    "in/prefill GPU",
    "out/decode GPU",
    "mean",
    "steady",
    "good req/s",
    "in flight",
    "ran",
    "accept",
    "runs",
    "interval",
    "TTFT p99 ms",
    "$/Mtok node",
    "served by",
)


def point_cells(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Points."""
    return [
        {
            "source": _source(r),
            "hardware": r["hardware"],
            "engine": r["engine"],
            "precision": r["precision"],
            "MTP": " ".join([r["speculative"], *filter(is_told, r["variant"].split())]),
            "served by": _beyond_label(r),
            "ISL/OSL": _lengths(r),
            "mean": f"{r['mean_isl_tokens']:.0f}/{r['mean_osl_tokens']:.0f}" if r["mean_isl_tokens"] else "",
            "TP": rounded(r["tp"], 0),
            "conc.": rounded(r["concurrency"], 0),
            "in flight": rounded(r["mean_concurrency"], 1),
            "ran": rounded(r["running_mean"], 1),
            "runs": str(r["n_repeats"]) if r.get("n_repeats", 1) > 1 else "",
            "interval": _level(r),
            "total tok/s/GPU": rounded(r["total_tput_per_gpu_tok_s"], 1) + _plus_minus(r, "total_tput_per_gpu_tok_s", 1),
            "in/prefill GPU": rounded(r["input_tput_per_prefill_gpu_tok_s"], 1),
            "out/decode GPU": rounded(r["output_tput_per_decode_gpu_tok_s"], 1),
            "steady": rounded(r["steady_tput_per_gpu_tok_s"], 1),
            "good req/s": rounded(r["goodput_rps"], 2),
            "tok/s/user": rounded(r["interactivity_tok_s_user"], 2) + _plus_minus(r, "interactivity_tok_s_user", 2),
            "accept": rounded(r["acceptance_length"], 2),
            "TPOT ms": rounded(r["tpot_ms"], 2),
            "TTFT ms": rounded(r["ttft_median_ms"], 0),
            "TTFT p99 ms": rounded(r["ttft_p99_ms"], 0),
            "$/Mtok": rounded(r["cost_usd_per_mtok"], 2),
            "$/Mtok node": _node_cost(r),
            "validity": r["validity"] + (f" ({r['reasons']})" if r["reasons"] and r["reasons"] != "not_recomputable" else ""),
        }
        for r in rows
    ]


def series_label(r: Mapping[str, Any]) -> str:
    """The series, with its mark."""
    return str(r["series"]) + (FAILED if r["accuracy"] else "")


def _beyond_label(r: Mapping[str, Any]) -> str:
    """What the name of a series has beyond the columns beside it: images, versions or protocols that tell like-named series apart."""
    short = " ".join([r["hardware"], r["engine"], r["precision"], r["speculative"], *filter(is_told, r["variant"].split())])
    return str(r["series"]).removeprefix(short).strip()


def _level(r: Mapping[str, Any]) -> str:
    """Over what the intervals of a row are."""
    count = {"starts": f"{r.get('n_starts')} starts", "runs": f"{r.get('n_repeats')} runs of one start", "requests": "requests of one run"}
    return count.get(r.get("interval") or "", "")


def _node_cost(r: Mapping[str, Any]) -> str:
    """Only if GPUs of the node are idle: otherwise it is the same cost."""
    cost, node = r["cost_usd_per_mtok"], r["node_cost_usd_per_mtok"]
    return "" if node is None or cost is None or abs(node - cost) < 1e-9 * node else rounded(node, 2)


def cost_text(r: Mapping[str, Any]) -> str:
    """The cost and its interval, or why there is none."""
    if r["total_tput_per_gpu_tok_s"] is None:
        return str(r["status"]) + (f" ({r['beyond']})" if r["beyond"] else "")
    if r["cost_usd_per_mtok"] is None:
        return "no price"
    node = f", whole node {rounded(r['node_cost_usd_per_mtok'], 2)}" if r["node_cost_usd_per_mtok"] is not None else ""
    is_between = " (i)" if r["status"] == "interpolated" else ""
    return rounded(r["cost_usd_per_mtok"], 2) + _bracket(r, "cost_usd_per_mtok") + is_between + node


def _bracket(r: Mapping[str, Any], name: str) -> str:
    """An interval and its level. A bound that is absent is infinite."""
    low, high = r[f"{name}_low"], r[f"{name}_high"]
    if low is None and high is None:
        return ""
    level = r["ratio_interval"] if name.startswith("perf_per_dollar") else r["interval"]
    return f" [{'0' if low is None else f'{low:.2f}'}, {'inf' if high is None else f'{high:.2f}'}] {level}"


def nearest_cell(r: Mapping[str, Any]) -> str:
    """The measured points beside an interpolated one."""
    if r["nearest_measured_tok_s_user"] is None:
        return ""
    tp, users = rounded(r["nearest_measured_tp"], 0) or "?", rounded(r["nearest_measured_concurrency"], 0) or "?"
    return f"{r['nearest_measured_tok_s_user']:.1f} tp{tp} c{users}"


def ratio_text(r: Mapping[str, Any]) -> str:
    """Performance per dollar over the baseline's, with its interval."""
    ratio = r["perf_per_dollar_vs_baseline"]
    if ratio is None:
        return ""
    steps = [f"{name} {r[f'{name}_step']:.2f}×" for name in STEPS if r[f"{name}_step"] is not None]
    node = r["node_perf_per_dollar_vs_baseline"]
    return (
        f"{ratio:.2f}×"
        + _bracket(r, "perf_per_dollar_vs_baseline")
        + (f", whole node {node:.2f}×" if node is not None else "")
        + (f" = {' × '.join(steps)}" if len(steps) > 1 else "")
    )


def _plus_minus(r: Mapping[str, Any], name: str, digits: int) -> str:
    low, high = r.get(f"{name}_low"), r.get(f"{name}_high")
    return "" if low is None or high is None else f" +/-{(high - low) / 2:.{digits}f}"


def band_cells(r: Mapping[str, Any]) -> dict[str, str]:
    """The bands of interactivity."""
    return {
        **_arm(r),
        "against": r["baseline"],
        "peak": f"{r['peak']:.2f}× at {r['peak_at_tok_s_user']:g} tok/s/user",
        "band": f"{r['low']:.2f}× to {r['high']:.2f}×",
        "defined": f"{r['from_tok_s_user']:.1f} to {r['to_tok_s_user']:.1f} tok/s/user",
    }


def saturation_cells(r: Mapping[str, Any]) -> dict[str, str]:
    """Where a curve goes flat, and by what."""
    grows = f"{r['gives']} {r['gives_from_ms']:.1f} -> {r['gives_to_ms']:.1f} ms at {r['gives_at_concurrency']}" if r["gives"] else ""
    return {
        **_arm(r),
        "TP": rounded(r["tp"], 0),
        "saturated at": f"{r['concurrency']}" if r["is_saturated"] else f"not up to {r['concurrency']}",
        "total tok/s/GPU": rounded(r["total_tput_per_gpu_tok_s"], 1),
        "output tok/s/GPU": rounded(r["output_tput_per_gpu_tok_s"], 1),
        "grows most": grows,
        "limit": _limit(r),
    }


def _limit(r: Mapping[str, Any]) -> str:
    """What holds an arm back: as a point observed it, else as its plan computes it."""
    if r["why"] or not r["is_saturated"]:
        return str(r["why"] or "")
    return f"{r['planned_limit']} (planned)" if r["planned_limit"] else "unknown"


def gain_cells(r: Mapping[str, Any]) -> dict[str, str]:
    """Speculation against none."""
    low, high = r["acceptance_length_low"], r["acceptance_length_high"]
    return {
        **_arm(r),
        "tok/s/user": f"{r['interactivity_tok_s_user']:g}",
        "tok/s/GPU off": rounded(r["off_tput_per_gpu_tok_s"], 1),
        "with": rounded(r["total_tput_per_gpu_tok_s"], 1),
        "ratio": f"{r['throughput_ratio']:.2f}×",
        "$/Mtok off": rounded(r["off_cost_usd_per_mtok"], 2),
        "$/Mtok with": rounded(r["cost_usd_per_mtok"], 2),
        "acceptance length": "" if low is None else f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}",
    }


def energy_cells(r: Mapping[str, Any]) -> dict[str, str]:
    """Energy."""
    return {
        **_arm(r),
        "TP": rounded(r["tp"], 0),
        "conc.": rounded(r["concurrency"], 0),
        "W/GPU": rounded(r["gpu_power_w"], 0),
        "J/output token": rounded(r["energy_per_output_token_j"], 2),
        "J/input token": rounded(r["energy_per_input_token_j"], 3),
        "J/token": rounded(r["energy_per_total_token_j"], 3),
        "J/request": rounded(r["energy_per_request_j"], 0),
        "tok/s/MW boards": rounded(r["total_tput_per_gpu_mw_tok_s"], 0),
        "tok/s/MW assumed": rounded(r["assumed_tput_per_mw_tok_s"], 0),
        "SM MHz": rounded(r["sm_clock_mean_mhz"], 0),
        "hottest C": rounded(r["temperature_max_c"], 0),
        "used": "" if r["utilisation_mean"] is None else f"{r['utilisation_mean']:.0%}",
        "GiB/GPU": rounded(r["gpu_memory_max_gib"], 1),
        "capped": "" if r["power_capped_share"] is None else f"{r['power_capped_share']:.0%}",
        "ECC errors": rounded(r["ecc_uncorrected_errors"], 0),
    }


def session_cells(r: Mapping[str, Any]) -> dict[str, str]:
    """Agent sessions: what a session costs, and what the prefix cache did."""
    return {
        "system": r["system"],
        "TP": rounded(r["tp"], 0),
        "conc.": rounded(r["concurrency"], 0),
        "sessions/h": rounded(r["sessions_per_h"], 1),
        "$/session": rounded(r["cost_usd_per_session"], 4),
        "P50 tok/s": rounded(r["normalised_median_tok_s"], 1),
        "P90 tok/s": rounded(r["normalised_p90_tok_s"], 1),
        "hit": _percent(r["hit_share"]),
        "ideal": _percent(r["ideal_hit_share"]),
        "fresh tok/s/GPU": rounded(r["fresh_tput_per_gpu_tok_s"], 0),
        "cached tok/s/GPU": rounded(r["cached_tput_per_gpu_tok_s"], 0),
        "output tok/s/GPU": rounded(r["window_output_tput_per_gpu_tok_s"], 0),
        "TTFT ms": rounded(r["ttft_median_ms"], 0),
        "req/h": rounded(r["window_requests_per_h"], 0),
        "$/request": rounded(r["cost_usd_per_request"], 4),
        "$/M weighted": rounded(r["weighted_cost_usd_per_mtok"], 2),
        "J/session": rounded(r["energy_per_session_j"], 0),
        "host hit": _percent(r["host_hit_share"]) if r["host_hit_share"] else "",
        "KV used": _percent(r["kv_usage_max"]),
        "late ms": rounded(r["lateness_p99_ms"], 1),
        "flags": r["reasons"].replace(",", " "),
    }


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def startup_cells(r: Mapping[str, Any]) -> dict[str, str]:
    """Server starts."""
    predicted, has = r["kv_tokens_predicted"], r["kv_tokens"]
    return {
        **_arm(r),
        "TP": rounded(r["tp"], 0),
        "starts": str(r["n_starts"]),
        "start s": rounded(r["start_s"], 0),
        "image": rounded(r["image_s"], 0),
        "load": rounded(r["load_s"], 0),
        "compile": rounded(r["compile_s"], 0),
        "graphs": rounded(r["graphs_s"], 0),
        "$ a start": rounded(r["start_cost_usd"], 2),
        "weights GiB": rounded(r["weights_gib"], 1),
        "KV GiB": rounded(r["kv_gib"], 1),
        "graphs GiB": rounded(r["graphs_gib"], 1),
        "KV tokens": "" if has is None else f"{has:,.0f}",
        "planned": "" if predicted is None else f"{predicted:,.0f}" + (f" ({has / predicted - 1:+.0%})" if has and predicted else ""),
    }


def _arm(r: Mapping[str, Any]) -> dict[str, str]:
    return {
        "source": _source(r),
        "hardware": r["hardware"],
        "engine": r["engine"],
        "precision": r["precision"],
        "MTP": r["speculative"] + (FAILED if r["accuracy"] else ""),
        "ISL/OSL": _lengths(r),
    }


def rounded(value: float | None, digits: int) -> str:
    """The number with so many digits; empty if there is none."""
    return "" if value is None else f"{value:.{digits}f}"
