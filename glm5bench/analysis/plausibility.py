"""Finds figures that no real run can have: one check for sweeps, `load` and imports. Pure numpy.

Input: raw times, or the figures that a source states. Output: reasons, and the stated figures that are plausible. Implausible figures are
left out and reported; they are not corrected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .metrics import STRAY_SHARE, Figures, Requests
from .reasons import Reason

LENGTH_SHARE = 0.01  # largest deviation of all prompts together from the lengths asked for
ONE_LENGTH_SHARE, ONE_LENGTH_TOKENS = 0.02, 8  # and of one prompt: the text of a chat has no exact length
ENOUGH_WAVES = 5
CONTRADICTORY = "contradictory: "  # prefix of the error of an imported request whose times contradict each other
WAVES_BIAS = {1: "15 to 40 %", 2: "4 to 17 %", 3: "2 to 10 %", 4: "1 to 5 %"}  # benchmarks/waves.py
NOTED_SHARE = 0.02  # mean bias of TPOT above which it is flagged; above metrics.WITHHELD_SHARE it is left out


def of_requests(r: Requests, f: Figures, *, ends_by_itself: bool = False) -> list[Reason]:
    """Reasons from raw times and counts. `ends_by_itself`: the requests did not ask for `ignore_eos`."""
    if f.n_requests == 0:
        return [Reason("no_requests", "no request was sent")]
    return [*_tokens(r, f, ends_by_itself=ends_by_itself), *_prompts(r), *_times(r, f)]


def _tokens(r: Requests, f: Figures, *, ends_by_itself: bool) -> list[Reason]:
    found, whole = [], r.is_whole
    contradictory = [e for e in r.error if e.startswith(CONTRADICTORY)]
    if contradictory:
        found.append(
            Reason("latency_below_ttft", f"{len(contradictory)} of {f.n_requests} requests: {contradictory[0].partition(': ')[2]}")
        )
    if f.n_failed:
        first = next(e for e in r.error if e)
        found.append(Reason("failed_requests", f"{f.n_failed} of {f.n_requests} requests failed, the first with: {first}"))
    if f.n_failed == f.n_requests:
        return [*found, Reason("no_requests", "no request was completed")]
    silent, short = whole & (r.output_tokens <= 0), whole & (r.output_tokens > 0) & (r.output_tokens < r.asked_tokens)
    long = whole & (r.asked_tokens > 0) & (r.output_tokens > r.asked_tokens + 1)
    if silent.any():
        found.append(Reason("zero_tokens", f"{int(silent.sum())} answers contain no token"))
    if short.any() and ends_by_itself:
        found.append(Reason("ended_early", f"{int(short.sum())} of {f.n_requests} answers ended before the length asked for"))
    elif short.any():
        found.append(Reason("short_outputs", f"{int(short.sum())} answers are shorter than asked"))
    if long.any():
        worst = int(np.argmax(np.where(long, r.output_tokens - r.asked_tokens, 0)))
        lengths = f"the longest by {int(r.output_tokens[worst] - r.asked_tokens[worst])} tokens"
        found.append(Reason("long_outputs", f"{int(long.sum())} of {f.n_requests} answers are longer than asked, {lengths}"))
    return found


def _prompts(r: Requests) -> list[Reason]:
    """Reasons from the server's counts of prompt tokens, in total and for each prompt, compared with the lengths asked for."""
    found, whole, asked = [], r.is_whole, r.asked_prompt_tokens
    if not r.has_prompt_tokens:
        none = int((whole & (r.prompt_tokens <= 0)).sum())
        found.append(Reason("no_prompt_tokens", f"the server counted no prompt token for {none} of {int(whole.sum())} prompts"))
    if asked is None:
        return found
    known = whole & (asked > 0) & (r.prompt_tokens > 0)
    total, were = int(asked[known].sum()), int(r.prompt_tokens[known].sum())
    off = known & (np.abs(r.prompt_tokens - asked) > np.maximum(ONE_LENGTH_TOKENS, ONE_LENGTH_SHARE * asked))
    if abs(were - total) > LENGTH_SHARE * total:
        found.append(Reason("prompt_lengths", f"the server counted {were:,} prompt tokens, but {total:,} were asked for"))
    elif off.sum() > STRAY_SHARE * known.sum():
        i = int(np.argmax(np.where(off, np.abs(r.prompt_tokens - asked), 0)))
        worst = f"one has {int(r.prompt_tokens[i]):,} tokens instead of {int(asked[i]):,}"
        found.append(Reason("prompt_lengths", f"{int(off.sum())} of {int(known.sum())} prompts have another length than asked: {worst}"))
    return found


def _times(r: Requests, f: Figures) -> list[Reason]:
    found, whole = [], r.is_whole
    several = whole & (r.output_tokens > 1) & (r.last_token_ns >= 0)
    zero = several & (r.last_token_ns == r.first_token_ns)
    if zero.sum() > STRAY_SHARE * several.sum():
        found.append(Reason("zero_tpot", f"{int(zero.sum())} of {int(several.sum())} answers with several tokens arrived at one instant"))
    immediate = whole & (r.first_token_ns >= 0) & (r.first_token_ns <= r.sent_ns)
    if immediate.any():
        found.append(Reason("zero_ttft", f"{int(immediate.sum())} first tokens took no time"))
    s = r.streaming
    withheld = "; TPOT and interactivity are left out" if s.is_tpot_withheld else ""
    if s.hidden_bias > 0:
        hidden = f"{s.n_hidden} answers have tokens that the server counted but did not stream"
        found.append(Reason("hidden_tokens", hidden + (withheld or f"; TPOT is {s.hidden_bias:.1%} too low")))
    if s.first_chunk_bias > NOTED_SHARE:
        text = f"the first chunk has {s.first_tokens:.1f} tokens on average; TPOT counts all but one of them as later"
        found.append(Reason("first_chunk", text + (withheld or f" and is {s.first_chunk_bias:.1%} too low")))
    elif s.bias > NOTED_SHARE and not s.hidden_bias and not zero.sum() > STRAY_SHARE * several.sum():
        text = "the first read of answers contained several chunks; TPOT counts all but one of them as later"
        found.append(Reason("first_chunk", text + (withheld or f" and is {s.bias:.1%} too low")))
    return found


def too_few_waves(n_requests: int, concurrency: int) -> list[Reason]:
    """The reason `few_waves` with the expected bias, if a closed loop had fewer than five requests per user; else none."""
    if concurrency < 1 or n_requests >= ENOUGH_WAVES * concurrency or n_requests < 1:
        return []
    waves = n_requests / concurrency
    bias = f"interactivity is too high, by {WAVES_BIAS[max(1, math.floor(waves))]} with prompts of 8k tokens, by less with short ones"
    return [Reason("few_waves", f"{waves:.3g} requests for each user, at least {ENOUGH_WAVES} are needed: {bias}")]


# figures that a source states


@dataclass(frozen=True)
class Stated:
    """The plausible figures of a source, those that were left out, and the reasons."""

    figures: dict[str, float]
    left_out: dict[str, float]
    reasons: tuple[Reason, ...]


INPUT_FIGURES = ("prompt_tokens", "input_tput_tok_s", "input_tput_per_gpu_tok_s", "mean_isl_tokens", "total_tput_tok_s",
                 "total_tput_per_gpu_tok_s")  # fmt: skip


def of_stated(stated: Mapping[str, float], point: Mapping[str, Any]) -> Stated:
    """The plausible part of stated figures. `point`: its facts; lengths and concurrency are used."""
    kept, reasons = dict(stated), _stated_counts(stated, point)
    dropped: set[str] = set()
    for metric, code in (("ttft", "zero_ttft"), ("tpot", "zero_tpot"), ("itl_chunk", None), ("itl_token", None), ("e2el", None)):
        if not _is_zero(stated, metric):
            continue
        dropped |= {name for name in stated if name.startswith(f"{metric}_") and name != f"{metric}_n"}
        if metric == "tpot":
            dropped |= {"interactivity_tok_s_user"} & stated.keys()
        if code == "zero_ttft" or (code == "zero_tpot" and _mean_output(stated, point) > 1):
            reasons.append(Reason(code, f"the source states {metric.upper()} as 0"))
    if any(stated.get(name) == 0 for name in ("prompt_tokens", "input_tput_tok_s", "input_tput_per_gpu_tok_s", "mean_isl_tokens")):
        dropped |= {name for name in INPUT_FIGURES if name in stated}
        reasons.append(Reason("no_prompt_tokens", "the source states 0 prompt tokens"))
    for kind in ("mean", "median"):
        ttft, e2el = (stated.get(f"{m}_{kind}_s", math.nan) for m in ("ttft", "e2el"))
        if e2el < ttft:
            text = f"the source states a {kind} latency of {e2el:.4g} s, and a {kind} TTFT of {ttft:.4g} s"
            reasons.append(Reason("latency_below_ttft", text))
            break
    left_out = {name: kept.pop(name) for name in sorted(dropped)}
    return Stated(kept, left_out, tuple(reasons))


def _is_zero(stated: Mapping[str, float], metric: str) -> bool:
    """Whether the source states the median or mean of a latency as 0."""
    return any(stated.get(f"{metric}_{kind}_s") == 0 for kind in ("median", "mean"))


def _mean_output(stated: Mapping[str, float], point: Mapping[str, Any]) -> float:
    """Mean tokens per answer according to the source; infinite if it does not state them."""
    whole = stated.get("n_requests", math.nan) - stated.get("n_failed", 0)
    if stated.get("output_tokens", -1) >= 0 and whole > 0:
        return stated["output_tokens"] / whole
    return float(stated.get("mean_osl_tokens") or point.get("osl_tokens") or math.inf)


def _stated_counts(stated: Mapping[str, float], point: Mapping[str, Any]) -> list[Reason]:
    n, failed = stated.get("n_requests"), stated.get("n_failed", 0)
    n = stated.get("ttft_n") if n is None else n
    if n is not None and n - failed <= 0:
        return [Reason("no_requests", "the source states that no request was completed")]
    found = []
    if any(
        stated.get(name) == 0
        for name in ("output_tokens", "output_tput_tok_s", "output_tput_per_gpu_tok_s", "mean_osl_tokens", "total_tput_per_gpu_tok_s")
    ):
        found.append(Reason("zero_tokens", "the source states 0 output tokens"))
    asked, mean = point.get("osl_tokens"), _mean_output(stated, {})
    if asked and math.isfinite(mean) and mean > asked + 1:
        found.append(Reason("long_outputs", f"answers have {mean:.1f} tokens on average, {asked} were asked"))
    if n is not None and point.get("concurrency") and not (point.get("arm") or {}).get("workload", {}).get("arrivals"):
        found += too_few_waves(int(n - failed), int(point["concurrency"]))
    return found
