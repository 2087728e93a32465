"""GuideLLM's JSON report: one entry per benchmark.

Source: guidellm/schemas and guidellm/benchmark/schemas of 0.8. GuideLLM stores its requests unless it samples them. If they are stored,
figures are computed again from each request's start, first token and last token. Gaps between chunks are not stored.

Its own figures are kept under separate names, because they are defined differently:

- its TPOT counts the first token;
- its ITL weighs the mean of each request by its tokens;
- its latency ends with the HTTP answer;
- its percentiles are observed values, without interpolation.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from .imported import Results, Told, defined, each, facts_in, figures_in
from .reading import Entry, ForeignFile, Read, entries
from .timed import Timed, contradiction, requests_of

CLIENT = "GuideLLM"
OWN = {
    "time_to_first_token_ms": ("ttft_of_occurred", 1e-3), "time_per_output_token_ms": ("tpot_with_first_token", 1e-3),
    "inter_token_latency_ms": ("tpot_token_weighted", 1e-3), "request_latency": ("e2el_of_http", 1.0),
}  # fmt: skip
TTFT = {"mean": "ttft_mean_s", "std_dev": "ttft_std_s", "count": "ttft_n"}  # only its percentiles are defined differently
RATES = {
    "requests_per_second": "request_rate_rps", "output_tokens_per_second": "output_tput_tok_s", "tokens_per_second": "total_tput_tok_s",
    "prompt_tokens_per_second": "input_tput_tok_s", "request_concurrency": "mean_concurrency",
}  # fmt: skip
TOKENS = {"prompt_token_count": ("prompt_tokens", "mean_isl_tokens"), "output_token_count": ("output_tokens", "mean_osl_tokens")}
STATISTICS = {"mean": "mean", "median": "median", "std_dev": "std", "min": "min", "max": "max"}
ENDPOINTS = {"/v1/completions": "completions", "/v1/chat/completions": "chat"}
CLOSED = ("concurrent", "synchronous")
DEFINITIONS = {
    "ttft_of_occurred": "TTFT, its percentiles values that occurred",
    "tpot_with_first_token": "(time to the last token)/(output tokens): the first token counts, and with it TTFT; weighed by tokens",
    "tpot_token_weighted": "each request's TPOT, weighed by its tokens; the tool calls it inter-token latency",
    "n_incomplete": "requests that the end of the run cut short: neither answered nor failed",
    "e2el_of_http": "from a request's start to the end of its HTTP answer",
}


def told(file: ForeignFile) -> Results:
    """One entry per benchmark. Raises FileError for a file of another kind."""
    read = entries(file, "guidellm")
    report: dict[int, Entry] = {}  # number of a benchmark in the file -> the entry that contains it
    benchmarks: list[Entry] = []
    for entry in read.entries:
        for value in entry.listed("benchmarks"):
            if not isinstance(value, dict):
                read.bad.append(entry.wrong("benchmarks", "a list of objects"))
                continue
            report[len(benchmarks)] = entry
            benchmarks.append(Entry(value, file, len(benchmarks), f"benchmarks[{len(benchmarks)}]."))
    if not benchmarks:
        raise read.bad[0] if read.bad else read.entries[0].error("The report contains no benchmark")

    def told_of(benchmark: Entry) -> Told:
        entry = report[benchmark.index]
        return _told(benchmark, benchmark.index, _lengths(entry), entry.child("metadata").text("guidellm_version") or "")

    return each(Read(benchmarks, read.bad), told_of)


def _lengths(entry: Entry) -> dict[str, Any]:
    """Nominal lengths, if the prompts are synthetic and all have the same length."""
    data = list(entry.child("config").child("spec").children("data"))
    if len(data) != 1 or data[0].values.get("kind") != "synthetic_text":
        return {}
    names = {"prompt_tokens": "isl_tokens", "output_tokens": "osl_tokens"}
    return facts_in(data[0], {key: name for key, name in names.items() if not data[0].values.get(f"{key}_stdev")})


def _told(b: Entry, index: int, facts: dict[str, Any], version: str) -> Told:
    metrics = b.child("metrics")
    stated = _stated(b, metrics)
    config = b.child("config")
    backend = config.child("backend")
    model = backend.text("model")
    kind = backend.text("request_format")
    return Told(
        client=CLIENT,
        entry=index,
        point=facts | _point(config) | ({"endpoint": ENDPOINTS.get(kind, kind)} if kind else {}),
        guessed={"model": model, "checkpoint": model} if model else {},
        stated=stated,
        definitions=defined(stated, DEFINITIONS, CLIENT),
        workload=_workload(config.child("strategy")),
        provenance={"client_version": version, "start_utc": _utc(b.number("start_time"))},
        requests=_requests(b),
    )


def _utc(epoch_s: float | None) -> str:
    return datetime.fromtimestamp(epoch_s, timezone.utc).isoformat(timespec="seconds") if epoch_s and 0 < epoch_s < 1e11 else ""


def _stated(b: Entry, metrics: Entry) -> dict[str, float]:
    found: dict[str, float] = figures_in(b, {"duration": "duration_s"})
    for key, (name, unit) in OWN.items():
        found |= _statistics(metrics.child(key).child("successful"), name, unit)
    ttft = metrics.child("time_to_first_token_ms").child("successful")
    found |= {name: value if name == "ttft_n" else value / 1e3 for name, value in figures_in(ttft, TTFT).items()}
    for key, name in RATES.items():
        found |= figures_in(metrics.child(key).child("successful"), {"mean": name})
    for key, (total, mean) in TOKENS.items():
        found |= figures_in(metrics.child(key).child("successful"), {"total_sum": total, "mean": mean})
    totals = metrics.child("request_totals")
    whole, failed, cut = (totals.count(key) for key in ("successful", "errored", "incomplete"))
    if whole is None:
        return found
    return found | {"n_requests": whole + (failed or 0), "n_failed": failed or 0} | ({"n_incomplete": cut} if cut else {})


def _statistics(metric: Entry, name: str, unit: float) -> dict[str, float]:
    found = {f"{name}_{ours}_s": value * unit for ours, value in figures_in(metric, STATISTICS).items()}
    percentiles = metric.child("percentiles")
    names = {key: f"{name}_{_percentile(key)}_s" for key in percentiles.values if key[:1] == "p" and key[1:].isdigit() and key != "p50"}
    return found | {ours: value * unit for ours, value in figures_in(percentiles, names).items()}


def _percentile(key: str) -> str:
    """p05 -> p5, p999 -> p99.9, p001 -> p0.1: two digits before the point."""
    return f"p{int(key[1:3]) + int(key[3:] or 0) / 10 ** len(key[3:]):g}"


def _point(config: Entry) -> dict[str, Any]:
    strategy = config.child("strategy")
    if strategy.text("type_") not in CLOSED:
        return {}
    return facts_in(strategy, {"streams" if strategy.values.get("streams") else "max_concurrency": "concurrency"})


def _workload(strategy: Entry) -> dict[str, Any]:
    kind = strategy.text("type_") or "concurrent"
    if kind in CLOSED:
        return {}
    rate = strategy.number("rate")
    return {"arrivals": kind} | ({"rate_rps": rate} if rate else {})


def _requests(b: Entry) -> Any:
    """The raw times of all requests that ended; None if some are not in the file. Requests cut off by the end of the run are left out."""
    groups, totals = b.child("requests"), b.child("metrics").child("request_totals")
    timed = [_timed(request, name == "successful") for name in ("successful", "errored") for request in groups.children(name)]
    n = (totals.count("successful") or 0) + (totals.count("errored") or 0)
    if not timed or len(timed) != n or any(t is None for t in timed):
        return None
    started, ttft, latency, prompt, output, errors = zip(*(t for t in timed if t is not None), strict=True)
    return requests_of(b, Timed(started, ttft, latency, [None] * len(timed), prompt, output, errors))


def _timed(request: Entry, is_whole: bool) -> tuple[float, float, float, int, int, str] | None:
    """Start, TTFT, latency, prompt and output tokens, and error of a request; None if a value is not in the file."""
    times = request.child("info").child("timings")
    start, first, last = (times.number(key) for key in ("request_start", "first_token_iteration", "last_token_iteration"))
    prompt, output = request.count("prompt_tokens"), request.count("output_tokens")
    if not is_whole:
        error = request.child("info").text("error") or "unstated"
        return (start, 0.0, 0.0, prompt or 0, output or 0, error) if start is not None else None
    if start is None or first is None or last is None or prompt is None or output is None:
        return None
    return start, first - start, max(0.0, last - start), prompt, output, contradiction(first - start, last - start)
