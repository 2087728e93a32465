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
    "acceptance_unpinned": "the measured acceptance length is not the pinned one",
    "accuracy_failed": "the accuracy gate's score is below its threshold",
    "accuracy_unknown": "the accuracy gate gave no score",
    "cache_unknown": "answers did not report their cached tokens; figures that need them are left out",
    "cache_impossible": "answers report more cached tokens than the prompt has; figures of the cache are left out",
    "cache_above_ideal": "answers report more cached tokens than an infinite cache has; figures of the cache are left out",
    "cache_disagrees": "cached tokens of the answers and of the server's counter disagree; figures of the cache are left out",
    "few_session_requests": "fewer than 100 requests in the window: the 90th percentile is left out",
}

ADVICE: dict[str, str] = {  # what to do about a flag, below a table in which it occurs
    "admission_capped": "raise the engine's limit of running requests (--max-running-requests, --max-num-seqs)",
    "kv_limited": "lower the concurrency, or give the KV cache more memory",
    "server_queue": "look for a limit of running requests in the server's flags",
    "engine_version": "use the image of the recipe, or set engine.version",
    "token_counters": "check the server's log for restarts or other clients",
    "machine_unlocked": "make /run/user/UID or ~/.cache writable, or check that nothing else ran",
    "no_container": "set cluster.image_dir, or state engine.image=none",
    "packed_alone": "repeat the point, or measure without pack=true",
    "server_unread": "measure the point again",
    "client_lag": "give the client more cores (cluster.client_cores), or stop other work on the node",
    "late_sends": "give the client more cores, or lower the request rate",
    "prompt_lengths": "check that the tokenizer belongs to the checkpoint",
    "no_prompt_tokens": "let the server report usage.prompt_tokens",
    "long_outputs": "check that the server obeys max_tokens",
    "ended_early": "send ignore_eos, or compare lengths before comparing costs",
    "zero_tpot": "look for a proxy that buffers, or a large stream interval",
    "zero_ttft": "look for a proxy that buffers",
    "first_chunk": "set the server's stream interval to 1",
    "hidden_tokens": "switch hidden reasoning off in the server",
    "shared_reads": "give the client more cores, or set the server's stream interval to 1",
    "buffered_answers": "remove the proxy, or its buffering",
    "stalled": "read the server's log at that time, then measure again",
    "drift": "measure longer: workload.prompts_per_concurrency=20",
    "few_waves": "raise workload.prompts_per_concurrency to 5 or more; 10 is the public protocol",
    "prefix_cache": "switch the prefix cache off, or send other prompts",
    "foreign_process": "end the other process, then measure again",
    "clock_step": "none is needed: durations use a monotonic clock",
    "simulator_lag": "lower engine.time_scale",
    "not_recomputable": "none is needed: the figures are used as the source states them",
    "power_gpu_missing": "read energy figures of this point with care",
    "power_gap": "read energy figures of this point with care",
    "power_disagrees": "read energy figures of this point with care",
    "gpu_slowed_down": "check cooling and power limits of the node (`nvidia-smi -q -d PERFORMANCE`)",
    "gpu_memory_errors": "have the GPU checked, then measure on another node",
    "acceptance_unpinned": "check that this version of the engine knows the settings that pin it",
    "acceptance_disagrees": "read the acceptance length with care; throughput is not affected",
    "accuracy_failed": "do not use the figures: the server answers wrongly",
    "accuracy_unknown": "read the gate's output in the job's log",
    "cache_unknown": "add --enable-cache-report (SGLang) or --enable-prompt-tokens-details (vLLM) to the server",
    "cache_impossible": "use another version of the engine: some count cached tokens twice after a retraction",
    "cache_above_ideal": "check that nobody else sends requests to the server",
    "cache_disagrees": "check the server's log for restarts, retractions or other clients",
    "few_session_requests": "measure longer (workload.duration_s), or at a higher concurrency",
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
