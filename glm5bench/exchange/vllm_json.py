"""A measurement in the format of `vllm bench serve --save-result`, with its definitions: ITL is the gap between chunks.

Source: vllm/benchmarks/serve.py of vLLM 0.33. Values that glm5bench does not know (texts, the tokenizer) are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..analysis.metrics import P99_NEEDS, Floats, Requests, started_ns, time_per_output_token_s
from ..analysis.windows import goodput_rps, peak_concurrency, peak_output_tput_tok_s
from ..archive.measurement import Measurement
from ..errors import UsageError
from ..values.workload import objectives

METRICS = ("ttft", "tpot", "itl", "e2el")


def vllm_result(m: Measurement, *, detailed: bool = False) -> dict[str, Any]:
    """The result of one run. `detailed`: with the times of each request, in seconds.

    Raises UsageError for a point without times.
    """
    f, r = m.figures(), m.requests
    if f is None or r is None:
        raise UsageError("A published point has no request times.", next_step="measure the point")
    w, scale, nan = m.workload, m.time_scale, float("nan")
    limits: dict[str, float] = {o.metric: o.limit_s for o in objectives(str(w.get("goodput", "")))}
    made = {
        "date": str(m.provenance.get("start_utc", "")).replace("-", "").replace(":", "").replace("T", "-")[:15],
        "endpoint_type": m.point["endpoint"],
        "backend": m.point["engine"],
        "label": "simulated" if m.source == "simulated" else None,
        "model_id": m.point["model"],
        "tokenizer_id": None,
        "num_prompts": f.n_requests,
        "request_rate": w.get("rate_rps") or "inf",
        "burstiness": w.get("burstiness", 1.0),
        "max_concurrency": m.point["concurrency"],
        "duration": f.duration_s,
        "completed": f.n_requests - f.n_failed,
        "failed": f.n_failed,
        "total_input_tokens": f.prompt_tokens if r.has_prompt_tokens else None,
        "total_output_tokens": f.output_tokens,
        "request_throughput": (f.n_requests - f.n_failed) / f.duration_s if f.duration_s else nan,
        "request_goodput": goodput_rps(r, f, limits, time_scale=scale, from_due=m.is_open_loop) if limits else None,
        "output_throughput": f.output_tput_tok_s,
        "total_token_throughput": f.total_tput_tok_s,
        "max_output_tokens_per_s": peak_output_tput_tok_s(r, time_scale=scale),
        "max_concurrent_requests": peak_concurrency(r),
    }
    values, none = times_s(m, r), np.array([], dtype=float)
    withheld = {"tpot": r.streaming.is_tpot_withheld, "itl": r.streaming.is_itl_withheld}
    for name in METRICS:
        of = np.concatenate(values[name]) if name == "itl" and values[name] else np.array(values[name], dtype=float)
        made |= _statistics(name, none if withheld.get(name) else of)
    few = [f"p99_{name}_ms" for name in METRICS if 0 < _n(values[name]) < P99_NEEDS and np.isfinite(made[f"p99_{name}_ms"])]
    made |= {"few_samples": " ".join(few)} if few else {}
    return {k: _json(v) for k, v in (made | (details(m) if detailed else {})).items()}


def _n(values: Any) -> int:
    """Number of samples. For ITL: all gaps of all requests."""
    return sum(map(len, values)) if isinstance(values, list) else len(values)


def times_s(m: Measurement, r: Requests) -> dict[str, Any]:
    """Times of the requests with a complete answer, in order, in seconds.

    ttft, tpot and e2el are arrays; itl is a list with the gaps between the chunks of each request.
    """
    whole, scale = r.is_whole, m.time_scale / 1e9
    start = started_ns(r, from_due=m.is_open_loop)
    ttft, e2el = ((at - start)[whole].astype(np.float64) * np.float64(scale) for at in (r.first_token_ns, r.last_token_ns))
    gaps = [np.diff(r.chunk_ns[r.chunk_offsets[i] : r.chunk_offsets[i + 1]]) * scale for i in np.flatnonzero(whole)]
    return {"ttft": ttft, "e2el": e2el, "itl": gaps, "tpot": time_per_output_token_s(ttft, e2el, r.output_tokens[whole])}


def _statistics(name: str, values_s: Floats) -> dict[str, float]:
    if not len(values_s):
        return {f"{kind}_{name}_ms": float("nan") for kind in ("mean", "median", "std", "p99")}
    kinds = {"mean": values_s.mean(), "median": np.median(values_s), "std": values_s.std(), "p99": np.percentile(values_s, 99)}
    return {f"{kind}_{name}_ms": float(value) * 1e3 for kind, value in kinds.items()}


def details(m: Measurement) -> dict[str, Any]:
    """Every request in order, in seconds of the run. A failed request has zeros, empty lists and its error, as in vLLM.

    Raises UsageError for a point without times.
    """
    r, scale = m.requests, m.time_scale
    if r is None:
        raise UsageError("A point without request times has no details.", next_step="export it without --detailed")
    values, n, whole = times_s(m, r), len(r.error), r.is_whole
    place = np.cumsum(whole) - 1
    return {
        "input_lens": r.prompt_tokens.tolist(),
        "output_lens": np.where(whole, r.output_tokens, 0).tolist(),
        "ttfts": [float(values["ttft"][place[i]]) if whole[i] else 0.0 for i in range(n)],
        "itls": [values["itl"][place[i]].tolist() if whole[i] else [] for i in range(n)],
        "latencies": [float(values["e2el"][place[i]]) if whole[i] else 0.0 for i in range(n)],
        "start_times": (np.maximum(started_ns(r, from_due=m.is_open_loop), 0) * (scale / 1e9)).tolist(),
        "errors": list(r.error),
    }


def _json(value: Any) -> Any:
    """The value, with NaN as null, because the file is strict JSON."""
    return None if isinstance(value, float) and not np.isfinite(value) else value
