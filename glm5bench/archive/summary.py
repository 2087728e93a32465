"""The summary of a point: one row of typed columns. It is stored with the raw times, so that tables do not need to read them.

Enters: a measurement. Leaves: a mapping with every column of archive.columns.COLUMNS, and the `Row` from which tables are made.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..analysis.batches import relative_standard_errors
from ..analysis.metrics import NEEDED, P99_NEEDS, Figures, Requests, Statistics, chunk_latencies_s, statistics
from ..analysis.rows import Row, Series, split_gpus, spread_of
from ..analysis.windows import goodput_rps, peak_concurrency, peak_output_tput_tok_s, steady
from ..errors import AnalysisError, FileError
from ..values.workload import objectives
from .beside import beside_load
from .columns import ABSENT, BY_NAME, COLUMNS, DEFINITIONS, LATENCIES, STARTED, STATISTICS, listed
from .measurement import Measurement


def summary(m: Measurement, digest: str, *, where: str = "") -> dict[str, Any]:
    """Every column of the point. Raises FileError if a required field is missing or invalid."""
    try:
        values = _told(m, digest) | _measured(m)
        values["few_samples"] = " ".join(few_samples(values))
        return {c.name: values.get(c.name, ABSENT[c.kind]) for c in COLUMNS}
    except AnalysisError as error:
        raise FileError(error.message, path=where) from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        raise FileError(f"A field of point {m.key} is missing or invalid: {error}.", path=where) from error


def few_samples(values: Mapping[str, Any]) -> list[str]:
    """The percentile columns with too few samples: p99 needs 100, p95 needs 20, p90 needs 10."""
    found = []
    for metric, percentile in itertools.product(LATENCIES, NEEDED):
        name, n = f"{metric}_{percentile}_s", values.get(f"{metric}_n", -1)
        if n < 0 and not metric.startswith("itl") and values.get("n_requests", -1) >= 0:
            n = values["n_requests"] - max(0, values.get("n_failed", 0))
        if math.isfinite(values.get(name, math.nan)) and 0 <= n < NEEDED[percentile]:
            found.append(name)
    return found


def _of_nodes(p: Mapping[str, Any]) -> int:
    """The GPUs of all nodes of the job, or its share of a node with `pack`."""
    return int(p["gpus_per_node"]) * int(p.get("nodes", 1)) // int(p.get("packed", 1))


def _told(m: Measurement, digest: str) -> dict[str, Any]:
    """The columns from the point and its provenance."""
    p, v, from_ = m.point, m.verdict(), m.provenance
    gpus = int(p["gpus"]) if p["gpus"] is not None else 0  # 0: the number of GPUs is unknown
    if p["gpus"] is not None and (gpus < 1 or int(p["gpus_per_node"] or 1) < 1):
        raise ValueError("a number of GPUs below 1")
    texts = ("hardware", "engine", "checkpoint", "model", "precision", "speculative", "endpoint", "server_scope")
    counts = ("isl_tokens", "osl_tokens", "tp", "concurrency", "repeat", "seed")
    return {
        "key": m.key,
        "digest": digest,
        "source": m.source,
        "client": str(from_.get("client_program") or ""),
        "validity": v.validity,
        "reasons": ",".join(v.codes),
        **{name: str(p[name]) for name in texts},
        **{name: int(p[name]) if p[name] is not None else -1 for name in counts},
        "engine_version": str(p.get("engine_version") or ""),
        "server_version": str(m.server["version"]) if "engine_version" in v.codes else "",
        "image": str(p.get("image") or ""),
        "image_digest": _image_digest(m),
        "variant": str(p.get("variant", "")),
        "node": str(from_.get("host") or ""),
        "job_id": str(from_.get("job_id") or ""),
        "started_utc": str(from_.get("start_utc") or from_.get("measured_on") or ""),
        "server_start": _server_start(m),
        "protocol": "" if str(p.get("variant", "")).split()[:1] == ["load"] else protocol(m.workload),
        "gpus": gpus,
        "gpus_per_node": max(gpus, _of_nodes(p)) if p["gpus_per_node"] else 0,
        **_parallelism(m),
        "binding": int(p["binding"]) if p.get("binding") is not None else -1,
        "range_ratio": float(p["range_ratio"]) if p["range_ratio"] is not None else math.nan,
        "time_scale": float(p["time_scale"]) if p.get("time_scale") else math.nan,
        "definitions": DEFINITIONS,
        "rate_rps": _figure(m.workload.get("rate_rps")),
        "burstiness": _figure(m.workload.get("burstiness")) if m.is_open_loop else math.nan,
        "acceptance_length": m.acceptance_length(),
        **_started(m),
        **_scores(m),
    }


def _parallelism(m: Measurement) -> dict[str, int]:
    """How many nodes and data-parallel and expert-parallel ranks there are, if above 1; for several roles the GPUs of each."""
    variant = str(m.point.get("variant", ""))
    split, nodes = split_gpus(variant), int(m.point.get("nodes", 1))
    found = dict(zip(("prefill_gpus", "decode_gpus"), split, strict=True)) if split else spread_of(variant)
    return found | ({"nodes": nodes} if nodes > 1 else {})


def _image_digest(m: Measurement) -> str:
    """Digest of the OCI image from which the image file was made; of the file itself if that is unknown. `none`: no container."""
    told = m.provenance.get("image") or {}
    if not isinstance(told, dict):
        return ""
    if m.provenance.get("container") == "none" and m.point.get("image") and m.source == "measured":
        return "none"
    return str(told.get("oci_digest") or told.get("sif_sha256") or "")


def _server_start(m: Measurement) -> str:
    """Identifies one start of a server. Points of earlier versions record only the job."""
    told, job = m.provenance.get("server_start"), m.provenance.get("job_id")
    if told:
        return str(told)
    if not job:
        return ""
    return f"{m.provenance.get('host')} {job}" + (f" {m.point.get('binding')}" if m.point.get("server_scope") == "point" else "")


def protocol(workload: Mapping[str, Any]) -> str:
    """Number of requests, or the window, and the number of warm-up requests at a concurrency of C; empty if unknown."""
    if workload.get("content") == "sessions":
        return f"window={float(workload['duration_s']):g}s warmups={workload.get('warmups_per_concurrency') or 0}xC"
    prompts, each = workload.get("prompts"), workload.get("prompts_per_concurrency")
    if not prompts and not each:
        return ""
    warmups = workload.get("warmups_per_concurrency") or 0
    return (f"requests={prompts}" if prompts else f"requests={each}xC") + (f" warmups={warmups}xC" if warmups else "")


def _scores(m: Measurement) -> dict[str, float]:
    runs = (m.server.get("accuracy") or {}).get("runs") or []
    return {f"accuracy_{kind}": min(float(run[kind]) for run in runs) for kind in ("strict", "flexible")} if runs else {}


def _started(m: Measurement) -> dict[str, float]:
    """What is known about the server's start; for a simulated server, in simulated seconds."""
    told = m.server.get("startup") or {}
    seconds = {name: _figure(told.get(name)) * m.time_scale for name in ("start_s", "image_s", "load_s", "compile_s", "graphs_s")}
    return {**{name: _figure(told.get(name)) for name in STARTED}, **seconds}


def _figure(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _measured(m: Measurement) -> dict[str, Any]:
    """The figures from the raw times; without raw times, the figures that the source states."""
    f, r, gpus = m.figures(), m.requests, float(m.point["gpus"] or math.nan)
    if f is None or r is None:
        return _stated(m.stated)
    per_gpu = {f"{kind}_tput_per_gpu_tok_s": getattr(f, f"{kind}_tput_tok_s") / gpus for kind in ("total", "input", "output")}
    found = {**_whole(f), **per_gpu, "peak_concurrency": peak_concurrency(r)}
    if split := split_gpus(str(m.point.get("variant", ""))):
        found["input_tput_per_prefill_gpu_tok_s"] = f.input_tput_tok_s / split[0]
        found["output_tput_per_decode_gpu_tok_s"] = f.output_tput_tok_s / split[1]
    if not r.has_prompt_tokens:
        found["prompt_tokens"] = -1
    if f.n_failed == f.n_requests:
        return found
    found |= beside_load(m, f)
    found |= _sessions(m, r, gpus)
    n, scale = f.n_requests - f.n_failed, m.time_scale
    window = steady(r, int(m.point["concurrency"]), time_scale=scale, ramp_s=m.ramp_s) if m.keeps_concurrency else None
    limits: dict[str, float] = {o.metric: o.limit_s for o in objectives(str(m.workload.get("goodput", "")))}
    found |= {
        "mean_isl_tokens": f.prompt_tokens / n if r.has_prompt_tokens else math.nan,
        "mean_osl_tokens": f.output_tokens / n,
        "request_rate_rps": n / f.duration_s if f.duration_s else math.nan,
        "steady_tput_tok_s": window.total_tput_tok_s if window else math.nan,
        "peak_output_tput_tok_s": peak_output_tput_tok_s(r, time_scale=scale),
        "goodput_rps": goodput_rps(r, f, limits, time_scale=scale, from_due=m.is_open_loop),
    }
    found |= _acceptance(r)
    rate, speed = relative_standard_errors(r, scale, int(m.point["concurrency"] or 0))
    found["interactivity_se_tok_s_user"] = speed * f.interactivity_tok_s_user
    found["total_tput_per_gpu_se_tok_s"] = rate * per_gpu["total_tput_per_gpu_tok_s"] if m.keeps_concurrency else math.nan
    if m.has_sessions:  # batches of a run of sessions are not alike
        found["interactivity_se_tok_s_user"] = math.nan
    for name, of in (("ttft", f.ttft), ("tpot", f.tpot), ("e2el", f.e2el)):
        found |= _statistics(name, of)
    is_chunked = f.itl_is_per_chunk or r.streaming.is_itl_withheld
    chunks = f.itl if is_chunked else statistics(chunk_latencies_s(r, time_scale=scale))
    return found | _statistics("itl_chunk", chunks) | ({} if f.itl_is_per_chunk else _statistics("itl_token", f.itl))


NO_SUM = ("total_tput_tok_s", "input_tput_tok_s", "total_tput_per_gpu_tok_s", "input_tput_per_gpu_tok_s",
          "energy_per_total_token_j", "energy_per_input_token_j", "total_tput_per_gpu_mw_tok_s")  # fmt: skip


def _sessions(m: Measurement, r: Requests, gpus: float) -> dict[str, float]:
    """The figures of agent sessions. Sums of cached and computed tokens are left out."""
    s = m.session_figures()
    if s is None:
        return {}
    spent = m.energy(s.window_s)  # the same time as the rates
    found = {
        **dict.fromkeys(NO_SUM, math.nan),
        "fresh_tput_per_gpu_tok_s": s.fresh_tput_tok_s / gpus,
        "cached_tput_per_gpu_tok_s": s.cached_tput_tok_s / gpus,
        "window_output_tput_per_gpu_tok_s": s.output_tput_tok_s / gpus,
        "window_requests_per_h": s.request_rate_rps * 3600,
        "sessions_per_h": s.session_rate_per_s * 3600,
        **{name: getattr(s, name) for name in OF_SESSIONS},
    }
    if spent is not None and spent.joules > 0:
        found["energy_per_session_j"] = spent.power_w / s.session_rate_per_s if s.session_rate_per_s else math.nan
        found["energy_per_fresh_token_j"] = spent.power_w / s.fresh_tput_tok_s if s.fresh_tput_tok_s else math.nan
    return found


OF_SESSIONS = ("hit_share", "device_hit_share", "host_hit_share", "storage_hit_share", "ideal_hit_share", "hit_loss",
               "normalised_median_tok_s", "normalised_p90_tok_s", "ttft_per_fresh_token_s", "ttft_base_s", "lateness_p99_s")  # fmt: skip
SESSION_COLUMNS = ("fresh_tput_per_gpu_tok_s", "cached_tput_per_gpu_tok_s", "window_output_tput_per_gpu_tok_s", "window_requests_per_h",
                   "sessions_per_h", *OF_SESSIONS, "energy_per_session_j", "energy_per_fresh_token_j")  # fmt: skip


def _whole(f: Figures) -> dict[str, Any]:
    names = ("n_requests", "n_failed", "prompt_tokens", "output_tokens", "duration_s", "mean_concurrency",
             "total_tput_tok_s", "input_tput_tok_s", "output_tput_tok_s", "interactivity_tok_s_user")  # fmt: skip
    return {name: getattr(f, name) for name in names}


def _acceptance(r: Requests) -> dict[str, float]:
    """The distribution of the answers' acceptance lengths, if the answers contain their verify steps."""
    if r.verify_steps is None or not (known := r.is_whole & (r.verify_steps > 0)).any():
        return {}
    p10, median, p90 = np.percentile((r.output_tokens[known] - 1) / r.verify_steps[known], (10, 50, 90))
    return {"acceptance_p10": float(p10), "acceptance_median": float(median), "acceptance_p90": float(p90)}


def _statistics(name: str, s: Statistics) -> dict[str, Any]:
    return {f"{name}_n": s.n, **{f"{name}_{kind}_s": getattr(s, kind) for kind in STATISTICS}}


def _stated(stated: Mapping[str, Any]) -> dict[str, Any]:
    """The stated figures of a point without times, for names that are columns. Other names are ignored."""
    found = {name: float(value) for name, value in stated.items() if name in BY_NAME and BY_NAME[name].kind == "figure"}
    found |= {name: int(value) for name, value in stated.items() if name in BY_NAME and BY_NAME[name].kind == "count"}
    if "interactivity_tok_s_user" not in found and found.get("tpot_median_s", 0) > 0:
        found["interactivity_tok_s_user"] = 1.0 / found["tpot_median_s"]
    return found


def row_of(m: Measurement, digest: str, origin: str) -> Row:
    """The measurement as a row of tables, computed from its raw times. Raises FileError as `summary` does."""
    return rows({name: [value] for name, value in summary(m, digest, where=origin).items()}, origin)[0]


OF_SERIES = ("source", "hardware", "engine", "checkpoint", "precision", "speculative", "isl_tokens", "osl_tokens", "range_ratio",
             "endpoint", "model", "variant", "time_scale", "engine_version", "server_version", "image", "image_digest",
             "protocol")  # fmt: skip
OF_ROW = ("key", "digest", "tp", "gpus", "gpus_per_node", "concurrency", "repeat", "seed", "server_scope", "binding",
          "total_tput_per_gpu_tok_s", "input_tput_per_gpu_tok_s", "output_tput_per_gpu_tok_s", "interactivity_tok_s_user",
          "tpot_median_s", "ttft_median_s", "ttft_p99_s", "n_requests", "validity", "reasons", "mean_isl_tokens", "mean_osl_tokens",
          "steady_tput_tok_s", "peak_output_tput_tok_s", "goodput_rps", "ttft_n", "total_tput_per_gpu_se_tok_s",
          "interactivity_se_tok_s_user", "itl_chunk_p99_s", "mean_concurrency", "acceptance_length", "node", "job_id", "started_utc",
          "nodes", "server_start")  # fmt: skip


BESIDE = (
    "energy_j", "energy_per_total_token_j", "energy_per_input_token_j", "energy_per_output_token_j", "energy_per_request_j",
    "gpu_power_w", "total_tput_per_gpu_mw_tok_s", "sm_clock_mean_mhz", "memory_clock_mean_mhz", "temperature_max_c",
    "utilisation_mean", "power_capped_share", "slowed_down_share", "ecc_uncorrected_errors", "gpu_memory_max_gib",
    "running_mean", "running_max", "queued_max", "kv_usage_max", "cache_hit_share", "acceptance_p10", "acceptance_median",
    "acceptance_p90", "accuracy_strict", "accuracy_flexible", "start_s", "image_s", "load_s", "compile_s", "graphs_s", *STARTED,
    *SESSION_COLUMNS,
)  # fmt: skip


def rows(columns: Mapping[str, Any], origin: str) -> list[Row]:
    """The points of the summaries as rows of tables. `columns`: the summaries, column by column."""
    series: dict[tuple[Any, ...], Series] = {}
    of_row = zip(*(listed(columns[name]) for name in OF_ROW), strict=True)
    of_series = zip(*(_hashable(listed(columns[name])) for name in OF_SERIES), strict=True)
    made = []
    for told, values, beside in zip(of_series, of_row, _beside(columns), strict=False):
        if told not in series:
            series[told] = _series(told)
        made.append(_row(series[told], dict(zip(OF_ROW, values, strict=True)), origin, beside))
    return made


def _beside(columns: Mapping[str, Any]) -> Iterator[Mapping[str, float]]:
    """For each point its known values of BESIDE. If all are unknown: empty mappings without end, which is fast."""
    finite = {name: np.isfinite(np.asarray(columns[name], dtype=np.float64)) for name in BESIDE}
    known = [name for name in BESIDE if finite[name].any()]
    if not known:
        return itertools.repeat({})
    each = zip(*(listed(columns[name]) for name in known), strict=True)
    if all(finite[name].all() for name in known):
        return (dict(zip(known, values, strict=True)) for values in each)
    return ({name: value for name, value in zip(known, values, strict=True) if math.isfinite(value)} for values in each)


def _series(told: tuple[Any, ...]) -> Series:
    v = dict(zip(OF_SERIES, told, strict=True))
    ratio, scale = v["range_ratio"], v["time_scale"]
    asked, said, digest = v["image"], v.pop("server_version"), v.pop("image_digest")
    v |= {
        "range_ratio": -1.0 if math.isnan(ratio) else ratio,
        "time_scale": None if math.isnan(scale) else scale,
        "engine_version": said or v["engine_version"],
        "image": "none" if digest == "none" else f"{asked}@{digest}" if digest and "@" not in asked else asked,
    }
    return Series(**v)


def _hashable(values: list[Any]) -> list[Any]:
    """The values with one shared NaN object, because two NaN objects are never equal."""
    return [math.nan if v != v else v for v in values]  # noqa: PLR0124


def _row(series: Series, v: dict[str, Any], origin: str, beside: Mapping[str, float]) -> Row:
    per_gpu = float(v["gpus"] or math.nan)
    few = v.pop("ttft_n") < P99_NEEDS
    steady, peak = v.pop("steady_tput_tok_s"), v.pop("peak_output_tput_tok_s")
    v |= {
        "binding": None if v["binding"] < 0 else v["binding"],
        "ttft_p99_s": math.nan if few else v["ttft_p99_s"],
        "n_requests": max(0, v["n_requests"]),
        "nodes": max(1, v["nodes"]),
        "reasons": tuple(filter(None, v["reasons"].split(","))),
    }
    return Row(
        series, **v, origin=origin, beside=beside, steady_tput_per_gpu_tok_s=steady / per_gpu, peak_output_tput_per_gpu_tok_s=peak / per_gpu
    )
