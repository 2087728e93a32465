"""A measurement on the console: the block that users of `vllm bench serve` know, and below it what that does not say."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from ..analysis.metrics import P99_NEEDS, Figures, Ints, Requests, Statistics
from ..analysis.reasons import Verdict
from ..analysis.windows import Steady
from ..errors import printable

WIDTH = 50
HEADERS = {
    "ttft": "Time to First Token",
    "tpot": "Time per Output Token (excl. 1st token)",
    "itl": "Inter-token Latency",
    "e2el": "End-to-end Latency",
}


def result_block(told: dict[str, float | int | str | None]) -> list[str]:
    """The lines of vLLM's block, in its order, from a result in its words."""
    lines = [f"{' Serving Benchmark Result ':=^{WIDTH}}"]
    if told["label"]:
        lines.append(f"{told['label']!s:=^{WIDTH}}")
    rows = [
        ("Successful requests:", told["completed"]),
        ("Failed requests:", told["failed"]),
        ("Maximum request concurrency:", told["max_concurrency"]),
        ("Request rate configured (RPS):", float(told["request_rate"]) if told["request_rate"] != "inf" else None),  # type: ignore[arg-type]
        ("Benchmark duration (s):", told["duration"]),
        ("Total input tokens:", told["total_input_tokens"]),
        ("Total generated tokens:", told["total_output_tokens"]),
        ("Request throughput (req/s):", told["request_throughput"]),
        ("Request goodput (req/s):", told["request_goodput"]),
        ("Output token throughput (tok/s):", told["output_throughput"]),
        ("Peak output token throughput (tok/s):", told["max_output_tokens_per_s"]),
        ("Peak concurrent requests:", told["max_concurrent_requests"]),
        ("Total token throughput (tok/s):", told["total_token_throughput"]),
    ]
    lines += [row(name, value) for name, value in rows if value is not None]
    for metric, header in HEADERS.items():
        lines.append(f"{header:-^{WIDTH}}")
        for kind in ("mean", "median", "p99"):
            is_few = kind == "p99" and metric != "itl" and int(told["completed"] or 0) < P99_NEEDS
            lines.append(row(f"{kind.capitalize()} {metric.upper()} (ms):", told[f"{kind}_{metric}_ms"]) + " *" * is_few)
    few = [f"* of fewer than {P99_NEEDS} requests"] if any(line.endswith(" *") for line in lines) else []
    return [*lines, *few, "=" * WIDTH]


def row(name: str, value: float | int | str | None) -> str:
    """One line of the block."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return f"{name:<40} {'unknown':<10}".rstrip()
    return f"{name:<40} {value:<10.2f}".rstrip() if isinstance(value, float) else f"{name:<40} {value:<10}".rstrip()


def more_lines(
    r: Requests, f: Figures, verdict: Verdict, steady: Steady | None, client: dict[str, Any], acceptance: float = math.nan
) -> list[str]:
    """What stands below the block: the steady window, lengths as they were, failures by class, the client's own error, the verdict."""
    n = max(1, f.n_requests - f.n_failed)
    lines = []
    if steady is not None:
        lines += [
            f"{'Steady window (all users in flight)':-^{WIDTH}}",
            row("Duration (s):", steady.duration_s),
            row("Output token throughput (tok/s):", steady.output_tput_tok_s),
            row("Total token throughput (tok/s):", steady.total_tput_tok_s),
            *_medians(steady.ttft, steady.tpot),
        ]
    lines += [
        f"{'Lengths, asked for and as counted by the server':-^{WIDTH}}",
        row("Mean input tokens asked:", _mean_asked(r, r.asked_prompt_tokens)),
        row("Mean input tokens:", f.prompt_tokens / n),
        row("Mean output tokens asked:", _mean_asked(r, r.asked_tokens)),
        row("Mean output tokens:", f.output_tokens / n),
        row("Interactivity (tok/s/user):", f.interactivity_tok_s_user),
    ]
    if math.isfinite(acceptance):
        lines.append(row("Acceptance length (tokens per step):", acceptance))
    if not f.itl_is_per_chunk:
        lines += [row("Median ITL per token (ms):", f.itl.median * 1e3), row("P99 ITL per token (ms):", f.itl.p99 * 1e3)]
    lines += [f"{'Client':-^{WIDTH}}", *(row(name, value) for name, value in _client(client))]
    classes = Counter(e.partition(":")[0] for e in r.error if e)
    lines += [row(f"Failed, {printable(name)}:", count) for name, count in classes.most_common()]
    lines += [f"{'Verdict: ' + verdict.validity:-^{WIDTH}}", *(printable(f"{r.code}: {r.text}") for r in verdict.reasons)]
    return lines


def _mean_asked(r: Requests, asked: Ints | None) -> float:
    """Of the whole requests; NaN where nobody knew what was asked."""
    known = r.is_whole & (asked > 0) if asked is not None else r.is_whole
    return float(asked[known].mean()) if asked is not None and known.any() else math.nan


def _medians(ttft: Statistics, tpot: Statistics) -> list[str]:
    return [row("Median TTFT (ms):", ttft.median * 1e3), row("Median TPOT (ms):", tpot.median * 1e3)]


def _client(told: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        ("Event loop:", told["event_loop"]),
        ("Processes:", told["processes"]),
        ("CPU, of one core (%):", float(told["cpu_share"]) * 100),
        ("Arrivals stamped by the kernel (%):", float(told["kernel_stamp_share"]) * 100),
        ("P99 lateness of reads (ms):", None if told["read_lag_p99_s"] is None else float(told["read_lag_p99_s"]) * 1e3),
        ("Chunks that shared a read (%):", float(told["shared_read_share"]) * 100),
        ("Late sends:", told["late_sends"]),
        ("Sent again on a new connection:", told.get("resends", 0)),
    ]
