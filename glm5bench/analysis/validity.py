"""Whether a point is valid, flagged or invalid, with stable reason codes (see `reasons`).

Input: raw times, figures, and other observations of the run. Output: a verdict. This module checks concurrency, the server and clocks;
`plausibility` and `course` contain further checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import course, plausibility
from .held import in_words
from .metrics import Figures, Requests
from .reasons import Reason, Verdict, is_code, judged
from .windows import peak_concurrency

CONCURRENCY_REACHED = 0.9  # least share of the users with a request in flight, while requests were left to send
CLIENT_LAG_S = 0.05  # largest p99 delay of the client's event loop
LATE_SHARE = 0.01  # largest share of late requests in an open loop
PAUSED_SHARE = 0.01  # largest share of the window in which the whole job was stopped
CACHED_SHARE = 0.01  # largest share of cached prompt tokens if all prompts are new
CLOCK_STEP_S = 0.05  # largest change of the wall clock relative to the monotonic clock over the run
SIMULATOR_LATE_STEPS = 0.25  # largest share of simulated steps that ended behind schedule


@dataclass(frozen=True)
class Circumstances:
    """What the node job observed besides the requests. None: not observed."""

    concurrency: int
    server_max_running: int | None
    server_capacity_tokens: int | None
    server_peak_running: int | None
    client_lag_p99_s: float | None
    clock_step_s: float | None
    simulator_late_share: float | None
    engine_version: tuple[str, str] | None  # the recipe's version, and the server's
    has_no_container: bool  # a real engine that ran from the node's PATH, not from the recipe's image
    neighbours: tuple[int, int] = (0, 0)  # other servers that should be under load on the node, and the least number that were
    counted_tokens: tuple[int, int] | None = None  # prompt and output tokens over the run, from the server's own counters
    keeps_concurrency: bool = True  # true for a closed loop without pauses
    ramp_s: float = 0.0  # seconds of the client's clock over which the users started
    late_sends: int = 0  # requests of an open loop that were sent late
    late_send_max_s: float = 0.0
    is_complete: bool = True  # false if the run was ended early
    settings_changed: tuple[tuple[str, str, str], ...] = ()  # a flag, the value asked for, and the value that the server reports
    ends_by_itself: bool = False  # requests did not ask for `ignore_eos`
    paused_s: float = 0.0  # seconds of the client's clock in which the whole job was stopped
    prompts_are_new: bool = False  # no prompt, and no beginning of one, was meant to be repeated
    cached_share: float | None = None  # share of cached prompt tokens, from the server's counters
    foreign_pids: tuple[int, ...] = ()  # other processes on the server's GPUs
    is_server_unread: bool = False  # the job ended before the server's counters and settings were read
    beside: tuple[Reason, ...] = ()  # reasons from telemetry, the server's own averages and the accuracy gate


def verdict(r: Requests, f: Figures, c: Circumstances) -> Verdict:
    """The verdict on one complete measurement."""
    reasons = [*_completeness(c), *plausibility.of_requests(r, f, ends_by_itself=c.ends_by_itself), *_concurrency(r, c)]
    reasons += [*_server(r, f, c), *_clocks(r, c)]
    if f.n_failed < f.n_requests:
        steady = c.keeps_concurrency and c.is_complete and not any(why.code == "concurrency_not_reached" for why in reasons)
        reasons += course.of_run(r, c.concurrency, keeps_concurrency=steady, client_lag_p99_s=c.client_lag_p99_s)
        reasons += plausibility.too_few_waves(f.n_requests, c.concurrency) if steady else []
    return judged([*reasons, *c.beside])


def published_verdict(stated: Mapping[str, float], point: Mapping[str, Any], codes: Sequence[str] = ()) -> Verdict:
    """The verdict on figures without raw times, which are accepted if plausible. `codes`: the codes that the source itself gives."""
    reasons = [Reason("not_recomputable", "the source gives figures, not times"), *plausibility.of_stated(stated, point).reasons]
    n_failed = int(stated.get("n_failed", 0))
    if n_failed:
        reasons.append(Reason("failed_requests", f"{n_failed} requests failed, as the source states"))
    return with_stated(judged(reasons), codes)


def with_stated(v: Verdict, stated: Sequence[str]) -> Verdict:
    """The verdict with the additional reasons that an imported point's source gives."""
    more = [code for code in dict.fromkeys(stated) if is_code(code) and code not in v.codes]
    return judged((*v.reasons, *(Reason(code, "as the source states") for code in more)))


def _completeness(c: Circumstances) -> list[Reason]:
    found = [] if c.is_complete else [Reason("incomplete", "the run was ended before all requests were answered")]
    if c.is_server_unread:
        found.append(Reason("server_unread", "the job ended before the server's counters and settings were read"))
    return found


def _concurrency(r: Requests, c: Circumstances) -> list[Reason]:
    """The reason `concurrency_not_reached`, from the mean number of requests in flight until the last send; else none."""
    sent = np.sort(r.sent_ns[r.sent_ns >= 0])
    if not len(sent) or not c.keeps_concurrency or not c.is_complete or (r.end_ns[r.sent_ns >= 0] < 0).any():
        return []  # other tools do not record when a request failed
    if len(sent) < c.concurrency:
        return [Reason("concurrency_not_reached", f"{len(sent)} requests cannot be {c.concurrency} at once")]
    start, stop = max(sent[c.concurrency - 1], sent[0] + round(c.ramp_s * 1e9)), sent[-1]
    if stop <= start and not c.ramp_s:
        return []
    inside = np.clip(r.end_ns, start, stop) - np.clip(r.sent_ns, start, stop)
    in_flight = float(inside[r.sent_ns >= 0].sum()) / float(stop - start) if stop > start else float(peak_concurrency(r))
    if in_flight >= CONCURRENCY_REACHED * c.concurrency:
        return []
    return [Reason("concurrency_not_reached", f"{in_flight:.1f} requests were in flight instead of {c.concurrency}")]


def _server(r: Requests, f: Figures, c: Circumstances) -> list[Reason]:
    found = []
    if c.has_no_container:
        found.append(Reason("no_container", "the engine ran from the node's PATH, not from the recipe's image"))
    wanted, were = c.neighbours
    if were < wanted:
        found.append(Reason("packed_alone", f"only {were} of the {wanted} other servers on the node were under load"))
    if c.engine_version is not None and c.engine_version[0] != c.engine_version[1]:
        found.append(Reason("engine_version", f"the server has version {c.engine_version[1]}, the recipe has {c.engine_version[0]}"))
    if c.settings_changed:
        found.append(Reason("server_settings", f"the server {in_words(c.settings_changed)}"))
    tokens = (int(r.prompt_tokens.sum()), int(r.output_tokens.sum()))
    if c.counted_tokens is not None and not f.n_failed and c.counted_tokens != tokens:
        counts = "{:,} prompt and {:,} output tokens".format
        text = f"the server counted {counts(*c.counted_tokens)}, but its answers add up to {counts(*tokens)}"
        found.append(Reason("token_counters", text))
    found += _cached(r, c)
    if c.foreign_pids:
        pids = ", ".join(map(str, c.foreign_pids[:4]))
        found.append(Reason("foreign_process", f"other processes computed on the server's GPUs: {pids}"))
    at_once = c.concurrency if c.keeps_concurrency else peak_concurrency(r)  # in other runs the concurrency is only an upper bound
    if c.server_max_running is not None and c.server_max_running < at_once:
        found.append(Reason("admission_capped", f"the server admits {c.server_max_running} requests, but {at_once} were sent"))
    ran = c.server_peak_running if c.keeps_concurrency else None
    if ran is not None and not f.n_failed and ran < min(c.concurrency, c.server_max_running or c.concurrency, len(r.sent_ns)):
        found.append(Reason("kv_limited", f"at most {ran} requests ran at once, but {c.concurrency} were sent; {_cache(c)}"))
    return found


def _cached(r: Requests, c: Circumstances) -> list[Reason]:
    """The reason `prefix_cache`, from the answers if they report cached tokens, else from the server's counters; else none."""
    if not c.prompts_are_new:
        return []
    share, who = c.cached_share, "the server's counters"
    if r.cached_tokens is not None and (known := r.is_whole & (r.cached_tokens >= 0) & (r.prompt_tokens > 0)).any():
        share, who = float(r.cached_tokens[known].sum() / r.prompt_tokens[known].sum()), "its answers"
    if share is None or share <= CACHED_SHARE:
        return []
    text = f"{share:.1%} of the prompt tokens came from the prefix cache, according to {who}, although all prompts were new"
    return [Reason("prefix_cache", text)]


def _cache(c: Circumstances) -> str:
    return f"the KV cache holds {c.server_capacity_tokens:,} tokens" if c.server_capacity_tokens else "the KV cache is full"


def _clocks(r: Requests, c: Circumstances) -> list[Reason]:
    found = []
    window_s = float(r.end_ns.max() - r.sent_ns[r.sent_ns >= 0].min()) / 1e9 if (r.sent_ns >= 0).any() else 0.0
    if c.paused_s > PAUSED_SHARE * max(window_s, 0.0):
        text = f"the whole job was stopped for {c.paused_s:.3g} s of {window_s:.3g} s (suspended, frozen, or the machine paused)"
        found.append(Reason("paused", text))
    if c.late_sends > LATE_SHARE * len(r.sent_ns):
        worst = f"by up to {c.late_send_max_s:.3g} s"
        found.append(Reason("late_sends", f"{c.late_sends} of {len(r.sent_ns)} requests were sent late, {worst}"))
    if c.client_lag_p99_s is not None and c.client_lag_p99_s > CLIENT_LAG_S:
        found.append(Reason("client_lag", f"the client's event loop was {c.client_lag_p99_s * 1e3:.0f} ms late at p99"))
    if c.clock_step_s is not None and abs(c.clock_step_s) > CLOCK_STEP_S:
        found.append(Reason("clock_step", f"the wall clock moved by {c.clock_step_s:+.3f} s relative to the monotonic clock"))
    if c.simulator_late_share is not None and c.simulator_late_share > SIMULATOR_LATE_STEPS:
        share = f"{c.simulator_late_share:.0%} of the simulated steps ended behind schedule"
        found.append(Reason("simulator_lag", f"{share}: use a smaller engine.time_scale on this machine"))
    return found
