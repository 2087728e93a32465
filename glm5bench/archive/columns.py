"""The columns of a point's summary: their names, kinds, units and definitions, and how their values are read.

The name of a figure is its definition. Means and medians, gaps between chunks and between tokens, total and output tokens have separate
columns. A value that the source does not state is absent: NaN for a figure, -1 for a count, an empty text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

DEFINITIONS = 3  # version of the figures' definitions; increase it when a definition changes, so that readers compute the figures again
Kind = Literal["text", "count", "figure"]
Summaries = dict[str, Any]  # column -> P values: a list, or an array (texts as bytes) if there may be many
MAX_TEXT = 4096  # bytes: in an archive, each text takes as many bytes as the longest one
ABSENT: dict[Kind, Any] = {"text": "", "count": -1, "figure": math.nan}


@dataclass(frozen=True)
class Column:
    """A column of the summary: its name, kind, unit and definition."""

    name: str
    kind: Kind
    unit: str
    what: str


def _texts(**what: str) -> list[Column]:
    return [Column(name, "text", "", text) for name, text in what.items()]


def _counts(unit: str, **what: str) -> list[Column]:
    return [Column(name, "count", unit, text) for name, text in what.items()]


def _figures(unit: str, **what: str) -> list[Column]:
    return [Column(name, "figure", unit, text) for name, text in what.items()]


LATENCIES = {
    "ttft": "time to the first chunk that carries a token",
    "tpot": "a request's (E2EL - TTFT)/(output tokens - 1), requests of one token left out",
    "itl_token": "gaps between tokens, where the server counts those of each chunk",
    "itl_chunk": "gaps between chunks, however many tokens each has",
    "e2el": "time to the last token",
}
STATISTICS = ("mean", "median", "std", "p90", "p95", "p99")

COLUMNS: tuple[Column, ...] = (
    *_texts(
        key="the point's key",
        digest="SHA-256 of all that was measured",
        source="measured, simulated or published",
        client="the program that measured; empty for glm5bench",
        validity="valid, flagged or invalid",
        reasons="reason codes, with commas",
        hardware="GPU",
        engine="inference engine",
        engine_version="the one asked for",
        server_version="the one that the server said, if it is another",
        image="container image",
        image_digest="of the image that the server was started from, if it is known",
        checkpoint="model repository",
        model="model",
        precision="of the weights",
        speculative="speculative setting",
        endpoint="of the server",
        variant="what else tells its curve from others",
        server_scope="whether a server start measured the arm or the point",
        node="host that measured",
        job_id="job that measured",
        started_utc="when the measurement began",
        server_start="which start of a server it was measured on",
        protocol="how many requests were sent",
        few_samples="percentiles of too few samples to have one beyond them, with spaces",
    ),
    *_counts(
        "tokens",
        isl_tokens="nominal input length",
        osl_tokens="nominal output length",
        prompt_tokens="of the whole answers, as the server counted them",
        output_tokens="of the whole answers, as the server counted them",
    ),
    *_counts(
        "GPU",
        tp="tensor parallel size; with prefill and decode workers, that of a decode worker",
        gpus="that the server uses",
        gpus_per_node="that are paid for: its share of one node, or all GPUs of its nodes",
        prefill_gpus="of all prefill workers, if there are several roles",
        decode_gpus="of all decode workers, if there are several roles",
    ),
    *_counts(
        "",
        nodes="that the server uses, if there are several",
        dp="data-parallel size of the attention of one server, if above 1",
        ep="expert-parallel size of one server, if above 1",
    ),
    *_counts(
        "request",
        concurrency="requests in flight that were asked for",
        binding="what $C was bound to",
        n_requests="sent",
        n_failed="without a whole answer",
        peak_concurrency="most requests in flight",
    ),
    *_counts("", repeat="number of the repetition", seed="of prompts and lengths", definitions="version of the figures' definitions"),
    *_counts("sample", **{f"{m}_n": f"of {m}" for m in LATENCIES}),
    *_figures("", range_ratio="lowest over highest length drawn", time_scale="of the simulator: how much faster than life"),
    *_figures("request/s", rate_rps="requests due a second, of an open loop"),
    *_figures("", burstiness="of the gaps between them: 1 is Poisson"),
    *_figures("s", duration_s="from the first request sent to the last end"),
    *_figures(
        "token/s",
        total_tput_tok_s="input and output tokens over the duration",
        input_tput_tok_s="input tokens over the duration",
        output_tput_tok_s="output tokens over the duration",
        peak_output_tput_tok_s="output tokens of the best full second",
        steady_tput_tok_s="input and output tokens between the first wave and the last, spread over each request's time in flight",
    ),
    *_figures(
        "token/s/GPU",
        total_tput_per_gpu_tok_s="total_tput_tok_s over the server's GPUs",
        input_tput_per_gpu_tok_s="input_tput_tok_s over the server's GPUs",
        output_tput_per_gpu_tok_s="output_tput_tok_s over the server's GPUs",
        input_tput_per_prefill_gpu_tok_s="input_tput_tok_s over the GPUs that prefill, if these are not all",
        output_tput_per_decode_gpu_tok_s="output_tput_tok_s over the GPUs that decode, if these are not all",
    ),
    *_figures("request/s", request_rate_rps="whole answers over the duration", goodput_rps="answers within the workload's bounds"),
    *_figures("request", mean_concurrency="sum of the answers' times over the duration"),
    *_figures("token", mean_isl_tokens="prompt tokens of a whole answer", mean_osl_tokens="output tokens of a whole answer"),
    *_figures("token/s", interactivity_tok_s_user="1 / median TPOT, or as a source states it"),
    *_figures(
        "token/s/GPU",
        total_tput_per_gpu_se_tok_s="standard error of total_tput_per_gpu_tok_s within a closed loop, by batch means (level: requests)",
    ),
    *_figures(
        "token/s", interactivity_se_tok_s_user="standard error of interactivity_tok_s_user within the run, by batch means (level: requests)"
    ),
    *_figures("", acceptance_length="output tokens of a verify step of speculative decoding, without the first token of an answer"),
    *_figures(
        "",
        accuracy_strict="lowest share of right answers of the accuracy gate's runs, strict match",
        accuracy_flexible="the same, flexible match",
    ),
    *_figures("", **{f"acceptance_{p}": f"{p} of the same over the run's answers" for p in ("p10", "median", "p90")}),
    *_figures(
        "s",
        start_s="from the server's start to its first token",
        image_s="until its first known line: container, program, imports",
        load_s="loading weights",
        compile_s="compiling and preparing kernels, profiling",
        graphs_s="capturing graphs",
    ),
    *_figures(
        "GiB/GPU",
        weights_gib="weights of target and draft, by the engine's log",
        kv_gib="KV cache of target and draft, by the engine's log",
        graphs_gib="graphs, by the engine's log",
    ),
    *_figures("token", kv_tokens="that the KV cache holds, as the server says", kv_tokens_predicted="the same, as planned"),
    *_figures("J", energy_j="of the server's GPUs over the duration, as they say themselves"),
    *_figures("J/token", **{f"energy_per_{kind}_token_j": f"energy_j over the {kind} tokens" for kind in ("total", "input", "output")}),
    *_figures("J/request", energy_per_request_j="energy_j over whole answers"),
    *_figures("W/GPU", gpu_power_w="energy_j over the duration and the server's GPUs: of the boards, not all-in"),
    *_figures("token/s/MW", total_tput_per_gpu_mw_tok_s="total_tput_tok_s over the measured power of the GPUs' boards"),
    *_figures("MHz", sm_clock_mean_mhz="of the server's GPUs"),
    *_figures("degrees Celsius", temperature_max_c="of the server's hottest GPU"),
    *_figures(
        "",
        utilisation_mean="share of the time in which a kernel ran, of the server's GPUs",
        power_capped_share="of the readings, of the GPU that its power limit held back most",
        slowed_down_share="the same, by heat or power brake",
    ),
    *_figures("MHz", memory_clock_mean_mhz="of the server's GPUs"),
    *_figures("error", ecc_uncorrected_errors="uncorrected memory errors of the server's GPUs in the window"),
    *_figures("GiB", gpu_memory_max_gib="most memory in use on one of the server's GPUs"),
    *_figures("request", running_mean="that the server ran", running_max="most that the server ran", queued_max="most that waited in it"),
    *_figures("", kv_usage_max="most of the KV cache in use", cache_hit_share="prompt tokens that the prefix cache had"),
    *_figures(
        "token/s/GPU",
        fresh_tput_per_gpu_tok_s="of agent sessions: prompt tokens that were computed, over the window",
        cached_tput_per_gpu_tok_s="prompt tokens from the prefix cache, over the window",
        window_output_tput_per_gpu_tok_s="output tokens, over the window",
    ),
    *_figures("request/h", window_requests_per_h="of agent sessions, over the window"),
    *_figures("session/h", sessions_per_h="over the window; a request counts as its share of its session"),
    *_figures(
        "",
        hit_share="of agent sessions: prompt tokens from the prefix cache",
        device_hit_share="of them, from GPU memory, over prompt tokens",
        host_hit_share="of them, from host memory, over prompt tokens",
        storage_hit_share="of them, from storage, over prompt tokens",
        ideal_hit_share="prompt tokens that an infinite prefix cache would have had",
        hit_loss="ideal_hit_share - hit_share",
    ),
    *_figures(
        "token/s",
        normalised_median_tok_s="1 / median of the time of a whole request over its output tokens",
        normalised_p90_tok_s="1 / 90th percentile of the same",
    ),
    *_figures("s/token", **{"ttft_per_fresh_token_s": "slope of TTFT against the computed tokens of a prompt"}),
    *_figures("s", ttft_base_s="TTFT of a prompt that is cached, on the same line", lateness_p99_s="p99 of sending after the due time"),
    *_figures("J/session", energy_per_session_j="power of the server's GPUs over sessions a second"),
    *_figures("J/token", **{"energy_per_fresh_token_j": "power of the server's GPUs over computed prompt tokens a second"}),
    *_figures("s", **{f"{m}_{s}_s": f"{s} of {m}: {what}" for m, what in LATENCIES.items() for s in STATISTICS}),
)
STARTED = ("weights_gib", "kv_gib", "graphs_gib", "kv_tokens", "kv_tokens_predicted")
BY_NAME = {c.name: c for c in COLUMNS}
FIGURES = tuple(c.name for c in COLUMNS if c.kind == "figure")


def listed(column: Any) -> list[Any]:
    """A column's values as plain Python values. `column` is a list, or an array with texts as bytes."""
    if isinstance(column, list):
        return column
    values: list[Any] = column.tolist()
    return [text.decode("utf-8") for text in values] if column.dtype.kind == "S" else values


def plain(value: Any) -> Any:
    """One value of a column as a plain Python value."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return value.item() if isinstance(value, np.generic) else value
