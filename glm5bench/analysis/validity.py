"""Whether a point's figures hold: valid, flagged or invalid, each with stable reason codes.

An invalid point stays in archives and out of tables. The codes are part of the format: they are added to, never renamed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .held import in_words
from .metrics import Figures, Requests
from .windows import peak_concurrency

Validity = Literal["valid", "flagged", "invalid"]

INVALID_CODES = ("no_requests", "failed_requests", "short_outputs", "zero_tokens", "concurrency_not_reached", "incomplete",
                 "server_settings")  # fmt: skip
FLAGGED_CODES = (
    "admission_capped", "kv_limited", "engine_version", "token_counters", "no_container", "packed_alone",
    "client_lag", "late_sends", "prompt_lengths", "clock_step", "simulator_lag", "not_recomputable",
    "power_gpu_missing", "power_gap", "power_disagrees", "gpu_slowed_down", "gpu_memory_errors",
    "acceptance_disagrees", "accuracy_failed", "accuracy_unknown",
)  # fmt: skip

CONCURRENCY_REACHED = 0.9  # share of the requests in flight, while enough were left to send
CLIENT_LAG_S = 0.05  # p99 lateness of the client's event loop
LATE_SHARE = 0.01  # of the requests of an open loop
PROMPT_LENGTH_SHARE = 0.01  # by which the prompts' tokens, as the server counts them, may miss the nominal ones
CLOCK_STEP_S = 0.05  # wall clock against monotonic clock over the run
SIMULATOR_LATE_STEPS = 0.25  # share of simulated steps that ended behind schedule


@dataclass(frozen=True)
class Circumstances:
    """What the node job knows beside the requests. None where it was not observed."""

    concurrency: int
    server_max_running: int | None
    server_capacity_tokens: int | None
    server_peak_running: int | None
    client_lag_p99_s: float | None
    clock_step_s: float | None
    simulator_late_share: float | None
    engine_version: tuple[str, str] | None  # the recipe's, and what the server says
    has_no_container: bool  # a real engine from the node's PATH, not from the recipe's image
    neighbours: tuple[int, int] = (0, 0)  # servers that were to be under load beside this one, and that were, at the least
    counted_tokens: tuple[int, int] | None = None  # prompt and output tokens by the server's own counters, over the run
    keeps_concurrency: bool = True  # a closed loop without pauses does
    ramp_s: float = 0.0  # over which its users came, of the client's clock
    late_sends: int = 0  # requests of an open loop that were sent some time after they were due
    late_send_max_s: float = 0.0
    is_complete: bool = True  # the run was not ended early
    settings_changed: tuple[tuple[str, str, str], ...] = ()  # a flag, what it asked for, and what the server says that it runs with
    telemetry: tuple[tuple[str, str], ...] = ()  # what was read beside the load says against the point: reason code and sentence
    accuracy: tuple[tuple[str, str], ...] = ()  # the same of the accuracy gate


@dataclass(frozen=True)
class Reason:
    """A stable code and a sentence with its numbers."""

    code: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """What became of the point."""

    validity: Validity
    reasons: tuple[Reason, ...]

    @property
    def codes(self) -> tuple[str, ...]:
        """The reason codes."""
        return tuple(reason.code for reason in self.reasons)


def verdict(r: Requests, f: Figures, c: Circumstances) -> Verdict:
    """The verdict over one whole measurement."""
    reasons = [*_completeness(c), *_requests(r, f), *_concurrency(r, c), *_lengths(r), *_server(r, f, c), *_clocks(r, c)]
    reasons += [Reason(*told) for told in (*c.telemetry, *c.accuracy)]
    if any(reason.code in INVALID_CODES for reason in reasons):
        return Verdict("invalid", tuple(reasons))
    return Verdict("flagged" if reasons else "valid", tuple(reasons))


def published_verdict(n_failed: int = 0, stated: Sequence[str] = ()) -> Verdict:
    """Of figures without raw times: they are taken at their word, and say so. `stated`: reason codes that the source gives itself."""
    reasons = [Reason("not_recomputable", "the source gives figures, not times")]
    if n_failed:
        reasons.append(Reason("failed_requests", f"{n_failed} requests failed, as the source states"))
    return with_stated(Verdict("invalid" if n_failed else "flagged", tuple(reasons)), stated)


def with_stated(v: Verdict, stated: Sequence[str]) -> Verdict:
    """The verdict and the reasons that an imported point's source gives beside it."""
    more = [code for code in dict.fromkeys(stated) if code in (*INVALID_CODES, *FLAGGED_CODES) and code not in v.codes]
    reasons = (*v.reasons, *(Reason(code, "as the source states") for code in more))
    if any(reason.code in INVALID_CODES for reason in reasons):
        return Verdict("invalid", reasons)
    return Verdict("flagged" if reasons else "valid", reasons)


def _completeness(c: Circumstances) -> list[Reason]:
    return [] if c.is_complete else [Reason("incomplete", "the run was ended before all requests were answered")]


def _lengths(r: Requests) -> list[Reason]:
    """Prompts as the server counted them against the nominal lengths, where both are known."""
    if r.asked_prompt_tokens is None:
        return []
    known = r.is_whole & (r.asked_prompt_tokens > 0) & (r.prompt_tokens > 0)
    asked, were = int(r.asked_prompt_tokens[known].sum()), int(r.prompt_tokens[known].sum())
    if abs(were - asked) <= PROMPT_LENGTH_SHARE * asked:
        return []
    return [Reason("prompt_lengths", f"the server counted {were:,} prompt tokens, {asked:,} were to be sent")]


def _requests(r: Requests, f: Figures) -> list[Reason]:
    if f.n_requests == 0:
        return [Reason("no_requests", "no request was sent")]
    found = []
    if f.n_failed:
        first = next(e for e in r.error if e)
        found.append(Reason("failed_requests", f"{f.n_failed} of {f.n_requests} requests failed, the first with: {first}"))
    whole = r.is_whole
    silent, short = whole & (r.output_tokens <= 0), whole & (r.output_tokens > 0) & (r.output_tokens < r.asked_tokens)
    if silent.any():
        found.append(Reason("zero_tokens", f"{int(silent.sum())} answers hold no token"))
    if short.any():
        found.append(Reason("short_outputs", f"{int(short.sum())} answers are shorter than asked"))
    return found


def _concurrency(r: Requests, c: Circumstances) -> list[Reason]:
    """Requests in flight between the first and the last send: a closed loop keeps them at the concurrency."""
    sent = np.sort(r.sent_ns[r.sent_ns >= 0])
    if not len(sent) or not c.keeps_concurrency or not c.is_complete:
        return []
    if len(sent) < c.concurrency:
        return [Reason("concurrency_not_reached", f"{len(sent)} requests cannot be {c.concurrency} at once")]
    start, stop = max(sent[c.concurrency - 1], sent[0] + round(c.ramp_s * 1e9)), sent[-1]
    if stop <= start and not c.ramp_s:
        return []
    inside = np.clip(r.end_ns, start, stop) - np.clip(r.sent_ns, start, stop)
    in_flight = float(inside[r.sent_ns >= 0].sum()) / float(stop - start) if stop > start else float(peak_concurrency(r))
    if in_flight >= CONCURRENCY_REACHED * c.concurrency:
        return []
    return [Reason("concurrency_not_reached", f"{in_flight:.1f} requests were in flight, {c.concurrency} were to be")]


def _server(r: Requests, f: Figures, c: Circumstances) -> list[Reason]:
    found = []
    if c.has_no_container:
        found.append(Reason("no_container", "the engine ran from the node's PATH, not from the recipe's image"))
    wanted, were = c.neighbours
    if were < wanted:
        found.append(Reason("packed_alone", f"{were} of the {wanted} servers beside it were under load"))
    if c.engine_version is not None and c.engine_version[0] != c.engine_version[1]:
        found.append(Reason("engine_version", f"the server is version {c.engine_version[1]}, the recipe's is {c.engine_version[0]}"))
    if c.settings_changed:
        found.append(Reason("server_settings", f"the server {in_words(c.settings_changed)}"))
    tokens = (int(r.prompt_tokens.sum()), int(r.output_tokens.sum()))
    if c.counted_tokens is not None and not f.n_failed and c.counted_tokens != tokens:
        counts = "{:,} prompt and {:,} output tokens".format
        text = f"the server counted {counts(*c.counted_tokens)}, its answers add up to {counts(*tokens)}"
        found.append(Reason("token_counters", text))
    at_once = c.concurrency if c.keeps_concurrency else peak_concurrency(r)  # elsewhere the concurrency is a bound, which few runs reach
    if c.server_max_running is not None and c.server_max_running < at_once:
        found.append(Reason("admission_capped", f"the server admits {c.server_max_running} requests, {at_once} were sent"))
    ran = c.server_peak_running if c.keeps_concurrency else None
    if ran is not None and not f.n_failed and ran < min(c.concurrency, c.server_max_running or c.concurrency, len(r.sent_ns)):
        found.append(Reason("kv_limited", f"at most {ran} requests ran at once, {c.concurrency} were sent; {_cache(c)}"))
    return found


def _cache(c: Circumstances) -> str:
    return f"the KV cache holds {c.server_capacity_tokens:,} tokens" if c.server_capacity_tokens else "the KV cache is full"


def _clocks(r: Requests, c: Circumstances) -> list[Reason]:
    found = []
    if c.late_sends > LATE_SHARE * len(r.sent_ns):
        worst = f"the latest {c.late_send_max_s:.3g} s"
        found.append(Reason("late_sends", f"{c.late_sends} of {len(r.sent_ns)} requests were sent after they were due, {worst}"))
    if c.client_lag_p99_s is not None and c.client_lag_p99_s > CLIENT_LAG_S:
        found.append(Reason("client_lag", f"the client's event loop was {c.client_lag_p99_s * 1e3:.0f} ms late at p99"))
    if c.clock_step_s is not None and abs(c.clock_step_s) > CLOCK_STEP_S:
        found.append(Reason("clock_step", f"the wall clock moved by {c.clock_step_s:+.3f} s against the monotonic one"))
    if c.simulator_late_share is not None and c.simulator_late_share > SIMULATOR_LATE_STEPS:
        share = f"{c.simulator_late_share:.0%} of the simulated steps ended behind schedule"
        found.append(Reason("simulator_lag", f"{share}: a smaller engine.time_scale is needed on this machine"))
    return found
