"""Every reason code, its meaning, and its effect on a point. The codes are part of the format: codes can be added, but never renamed.

An invalid point is kept in archives but not shown in tables. Tables show a flagged point with a mark.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Validity = Literal["valid", "flagged", "invalid"]

INVALID: dict[str, str] = {
    "no_requests": "no request was completed",
    "failed_requests": "requests failed",
    "short_outputs": "answers are shorter than asked",
    "zero_tokens": "answers contain no token",
    "concurrency_not_reached": "fewer requests were in flight than users (closed loops without pauses)",
    "incomplete": "the run ended early",
    "server_settings": "the server reports that it runs with other settings than its flags asked for",
    "latency_below_ttft": "an imported request ends before its first token",
    "paused": "the whole job was stopped for more than 1 % of the window",
}
FLAGGED: dict[str, str] = {
    "admission_capped": "the server admits fewer requests than were sent",
    "kv_limited": "fewer requests ran than were sent, because the KV cache was full",
    "server_queue": "never more than a fixed number of requests streamed at once, although more were in flight",
    "engine_version": "the server has another version than the recipe",
    "token_counters": "the server's own token counters disagree with its answers",
    "machine_unlocked": "the job could not keep other local campaigns of this user from running at the same time",
    "no_container": "the engine ran from the node's PATH, although the recipe names an image",
    "packed_alone": "a packed server's neighbours were not under load",
    "server_unread": "the job ended before the server's counters and settings were read",
    "client_lag": "the client's event loop was late",
    "late_sends": "requests of an open loop were sent after they were due",
    "prompt_lengths": "prompts had other lengths than asked, according to the server",
    "no_prompt_tokens": "the server counted no prompt token; input figures are left out",
    "long_outputs": "answers are longer than asked",
    "ended_early": "answers ended before the length asked for, and the request did not forbid it",
    "zero_tpot": "answers of several tokens took no time after the first",
    "zero_ttft": "first tokens took no time",
    "first_chunk": "the first chunk of answers had several tokens",
    "hidden_tokens": "the server counted tokens that it did not stream",
    "shared_reads": "several chunks of one answer arrived in one read and have the same time",
    "buffered_answers": "a large part of an answer arrived at once",
    "stalled": "all streams were silent at once, for longer than their usual gaps",
    "drift": "the speed changed between the thirds of the run",
    "few_waves": "fewer than five requests a user",
    "prefix_cache": "prompts that should have been new came from the prefix cache",
    "foreign_process": "another process computed on the server's GPUs",
    "clock_step": "the wall clock was set during the run",
    "simulator_lag": "the simulated server fell behind its clock",
    "not_recomputable": "the source gives figures, not times",
    "power_gpu_missing": "not every GPU of the server was read",
    "power_gap": "power was not read for part of the window",
    "power_disagrees": "the energy counter and the power readings disagree",
    "gpu_slowed_down": "a GPU slowed itself down",
    "gpu_memory_errors": "a GPU counted uncorrected memory errors",
    "acceptance_disagrees": "two accounts of the acceptance length disagree",
    "accuracy_failed": "the accuracy gate's score is below its threshold",
    "accuracy_unknown": "the accuracy gate gave no score",
}


@dataclass(frozen=True)
class Reason:
    """A stable code and a sentence with its numbers."""

    code: str
    text: str

    @property
    def is_invalidating(self) -> bool:
        """Whether a point with this reason is invalid."""
        return self.code in INVALID


@dataclass(frozen=True)
class Verdict:
    """The verdict on a point, with its reasons."""

    validity: Validity
    reasons: tuple[Reason, ...]

    @property
    def codes(self) -> tuple[str, ...]:
        """The reason codes."""
        return tuple(reason.code for reason in self.reasons)


def meaning(code: str) -> str:
    """The meaning of a code. Raises KeyError for an unknown code."""
    return INVALID[code] if code in INVALID else FLAGGED[code]


def is_code(text: str) -> bool:
    """Whether the text is a reason code."""
    return text in INVALID or text in FLAGGED


def judged(reasons: Iterable[Reason]) -> Verdict:
    """The verdict that follows from these reasons: the worst one decides."""
    found = tuple(reasons)
    if any(reason.is_invalidating for reason in found):
        return Verdict("invalid", found)
    return Verdict("flagged" if found else "valid", found)
