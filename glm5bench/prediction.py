"""Predicts what a closed loop would measure on a server that nobody has started: TTFT, TPOT and throughput.

Input: an arm, its bound recipe and a concurrency. Output: a Prediction. The loop is followed from event to event: a prefill pass, or all
decode passes until the next request ends or arrives. That takes milliseconds. The scheduler of the simulated server, which follows every
pass, agrees within 1 % in throughput (tests/test_prediction.py). The errors against published points are in docs/roofline.md. Pure.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from . import recipe as recipes
from .engines.known import adapter
from .errors import UsageError
from .roofline import StepModel, acceptance_length, step_model
from .simulator.scheduler import Limits, Request
from .values.point import Arm, Recipe
from .values.workload import Workload, lengths


@dataclass(frozen=True)
class Serving:
    """What determines the passes of a server. `is_mixed`: prefill chunks share a pass with decoding requests."""

    model: StepModel
    limits: Limits
    is_mixed: bool


@dataclass(frozen=True)
class Prediction:
    """Figures of one point. Throughput counts prompt and output tokens, or only outputs, over the whole time."""

    total_tput_per_gpu_tok_s: float
    output_tput_tok_s: float
    interactivity_tok_s_user: float  # 1 / median TPOT, as the archives define it
    ttft_mean_s: float
    ttft_median_s: float
    ttft_p99_s: float
    tpot_mean_s: float
    tpot_median_s: float
    tpot_p99_s: float
    duration_s: float
    mean_running: float


def serving(arm: Arm, recipe: Recipe) -> Serving:
    """The server that a bound recipe starts. Flags that its command does not contain have the engine's defaults.

    Raises UsageError for prefill and decode workers, which the model does not follow.
    """
    if arm.has_parts:
        raise UsageError(
            f"{arm.label} has prefill and decode workers, and only single servers can be predicted.",
            next_step="measure it, or rehearse it with engine=simulated",
        )
    engine, passes = adapter(arm.engine), arm.engine.passes
    model = step_model(arm, recipes.kv_dtype(arm, recipe.argv))
    given, ranks = recipes.number_of(recipe.argv, engine.chunk_flags), arm.dp if engine.limits_each_rank else 1
    chunk = engine.chunk_tokens(arm.hardware) if given is None else given
    poll = recipes.number_of(recipe.argv, engine.poll_flags) or 1.0
    capacity = recipes.memory(arm, recipe).capacity_tokens
    limits = Limits(
        max_running=recipes.admitted(arm, recipe) or engine.most_running * ranks,
        capacity_tokens=capacity,
        chunk_tokens=int(chunk) * ranks if chunk > 0 else max(1, capacity),
        wait_passes=passes.wait + (poll - 1) / 2,  # new requests are seen once per interval: half of it later on average
    )
    return Serving(model, limits, passes.mixed or any(flag in recipe.argv for flag in engine.mixing_flags))


def refuse_unpredictable(workload: Workload) -> None:
    """Raises UsageError for workloads that the model does not follow."""
    why = (
        "arrivals at given times"
        if workload.is_open_loop
        else "several turns"
        if workload.turns > 1
        else f"content={workload.content}"
        if workload.content != "random"
        else "a shared prefix"
        if workload.prefix_tokens
        else ""
    )
    if why:
        raise UsageError(
            f"workload={workload.id} has {why}, and only closed loops of single requests with random prompts can be predicted.",
            next_step="predict with workload=public and its lengths (workload.isl_tokens=...), or measure",
        )


def predict(server: Serving, workload: Workload, concurrency: int, *, seed: int = 0) -> Prediction:
    """A closed loop of `concurrency` users over the workload's prompts, run to its end. Raises UsageError as refuse_unpredictable does."""
    refuse_unpredictable(workload)
    rng = np.random.default_rng(seed)
    n = workload.n_prompts(concurrency)
    prompts = lengths(rng, workload.isl_tokens, workload.range_ratio, n)
    outputs = lengths(rng, workload.osl_tokens, workload.range_ratio, n)
    loop = _Loop(server, [Request(i, int(prompts[i]), int(outputs[i])) for i in range(n)], concurrency)
    loop.run()
    sent, first, last = np.array(loop.sent_s), np.array(loop.first_s), np.array(loop.last_s)
    ttft, tpot = first - sent, (last - first) / np.maximum(outputs - 1, 1)
    return Prediction(
        total_tput_per_gpu_tok_s=float((prompts.sum() + outputs.sum()) / loop.now_s / server.model.tp),
        output_tput_tok_s=float(outputs.sum() / loop.now_s),
        interactivity_tok_s_user=float(1.0 / np.median(tpot)),
        ttft_mean_s=float(ttft.mean()),
        ttft_median_s=float(np.median(ttft)),
        ttft_p99_s=float(np.quantile(ttft, 0.99)),
        tpot_mean_s=float(tpot.mean()),
        tpot_median_s=float(np.median(tpot)),
        tpot_p99_s=float(np.quantile(tpot, 0.99)),
        duration_s=loop.now_s,
        mean_running=loop.running_s / loop.now_s,
    )


class _Loop:
    """The state of the loop. `given`: tokens that a request which decoded since the beginning would have."""

    def __init__(self, server: Serving, requests: list[Request], concurrency: int) -> None:
        self.server, self.requests = server, requests
        self.per_pass = acceptance_length(server.model)
        self.topk = server.model.checkpoint.architecture.index_topk or math.inf
        self.now_s = self.running_s = 0.0
        self.sent_s, self.first_s, self.last_s = ([0.0] * len(requests) for _ in range(3))
        self.following = deque(requests[concurrency:])
        host_s = server.model.host_s
        self.arriving = [(host_s, r.id) for r in requests[:concurrency]]  # a heap: when a request can be admitted
        self.waiting: deque[Request] = deque()
        self.prefilling: list[Request] = []
        self.running: list[tuple[float, int]] = []  # a heap: `given` at which a request ends
        self.given = 0.0
        self.base = 0.0  # sum over running requests of context - given
        self.reserved = 0

    def run(self) -> None:
        """Follows the loop until every request has ended."""
        while self.arriving or self.waiting or self.prefilling or self.running:
            self._admit()
            if self.prefilling:
                self._prefill()
            elif self.running:
                self._decode()
            else:
                self.now_s = max(self.now_s, self.arriving[0][0])
            self._end()

    def _admit(self) -> None:
        while self.arriving and self.arriving[0][0] <= self.now_s + 1e-12:
            self.waiting.append(self.requests[heapq.heappop(self.arriving)[1]])
        limits = self.server.limits
        while self.waiting and (n := len(self.running) + len(self.prefilling)) < limits.max_running:
            if n and self.reserved + self.waiting[0].reserved_tokens > limits.capacity_tokens:
                return
            self.prefilling.append(self.waiting.popleft())
            self.reserved += self.prefilling[-1].reserved_tokens

    def _prefill(self) -> None:
        n, is_mixed, dp = len(self.running), self.server.is_mixed and bool(self.running), self.server.model.dp
        groups = min(dp, len(self.prefilling))  # every prompt is in one data-parallel group, which has its share of a chunk
        each = max(1, self.server.limits.chunk_tokens // dp - (n // dp if is_mixed else 0))
        budget, tokens, attended = each * groups, 0, 0.0
        for request in self.prefilling:
            take = min(each, budget - tokens, request.prompt_tokens - request.prefilled)
            if take <= 0:
                break
            attended += take * (request.prefilled + take / 2)
            request.prefilled += take
            tokens += take
        if is_mixed:
            self._pass(self.server.model.mixed_s(tokens, attended, n, *self._context(self.given), groups))
            self.given += self.per_pass
        else:
            self._pass(self.server.model.prefill_s(tokens, attended, groups))
        for request in [r for r in self.prefilling if r.prefilled == r.prompt_tokens]:
            self.prefilling.remove(request)
            self.first_s[request.id] = self.now_s
            self.base += request.prompt_tokens + 1 - self.given
            heapq.heappush(self.running, (self.given + request.output_tokens - 1, request.id))

    def _decode(self) -> None:
        """All passes until the next request ends or arrives, each as long as the one in their middle."""
        missing = max(0.0, self.running[0][0] - self.given)
        pass_s = self._decode_s(self.given + missing / 2)
        passes = max(1, math.ceil(missing / self.per_pass - 1e-9))
        if self.arriving:
            passes = max(1, min(passes, math.ceil((self.arriving[0][0] - self.now_s) / pass_s)))
        self._pass(passes * pass_s)
        self.given += passes * self.per_pass

    def _end(self) -> None:
        ended = 0
        while self.running and self.running[0][0] <= self.given + 1e-9:
            at, number = heapq.heappop(self.running)
            request = self.requests[number]
            self.base -= request.prompt_tokens + request.output_tokens - at
            self.reserved -= request.reserved_tokens
            self.last_s[number] = self.now_s
            ended += 1
        if not ended or not self.following:
            return
        wait_s = self.server.limits.wait_passes * self._decode_s(self.given) if self.running else 0.0
        ready_s = self.now_s + self.server.model.host_s + wait_s
        for request in [self.following.popleft() for _ in range(min(ended, len(self.following)))]:
            self.sent_s[request.id] = self.now_s
            heapq.heappush(self.arriving, (ready_s, request.id))

    def _pass(self, duration_s: float) -> None:
        self.now_s += duration_s
        self.running_s += duration_s * (len(self.running) + len(self.prefilling))

    def _decode_s(self, given: float) -> float:
        return self.server.model.decode_s(len(self.running), *self._context(given))

    def _context(self, given: float) -> tuple[float, float]:
        """The sum of the contexts of running requests, and the part of it that sparse attention reads."""
        n = len(self.running)
        context = self.base + n * given
        return context, n * min(context / n, self.topk)


@dataclass(frozen=True)
class Band:
    """Absolute relative errors against published rows: median, 90th percentile and worst."""

    median: float
    p90: float
    worst: float


# By class of question and figure, from benchmarks/roofline_fit.py (docs/roofline.md). `tput`: throughput and interactivity.
BANDS: Mapping[str, Mapping[str, Band]] = {
    "fitted": {"tput": Band(0.035, 0.111, 0.235), "tpot": Band(0.044, 0.097, 0.319), "ttft": Band(0.098, 0.291, 0.976)},
    "same GPU": {"tput": Band(0.070, 0.179, 0.225), "tpot": Band(0.083, 0.185, 0.271), "ttft": Band(0.130, 0.337, 0.807)},
    "other GPU": {"tput": Band(0.129, 0.232, 0.551), "tpot": Band(0.070, 0.173, 0.330), "ttft": Band(0.155, 0.449, 0.669)},
    "other model": {"tput": Band(0.118, 0.230, 0.741), "tpot": Band(0.118, 0.230, 0.741), "ttft": Band(0.183, 0.605, 0.810)},
}
MEANING = {
    "fitted": "the factors were fitted to published rows of this configuration, so this is a fit and no prediction",
    "same GPU": "the factors were fitted to other configurations on this GPU",
    "other GPU": "no row is published for this GPU with this engine; the factors are those of a related GPU",
    "other model": "no row of this model on this GPU and engine was fitted; the bands are those of models that were left out",
    "other parallelism": "no row with data or expert parallelism or with several nodes was compared, so the error is unknown",
    "calibrated": "the factors were adapted to points of your own; the bands are those of other configurations on a fitted GPU",
}
MODELS = ("GLM-5", "GLM-5.1")  # they have the same shape
FITTED_ARMS = frozenset(  # engine, hardware, model, precision, TP, speculative, lengths
    tuple(line.split())
    for line in (
        "sglang h200 GLM-5 fp8 8 mtp 8192/1024",
        "sglang h200 GLM-5 fp8 8 off 8192/1024",
        "sglang h200 GLM-5 fp8 8 off 1024/1024",
        "sglang b200 GLM-5 fp8 8 mtp 8192/1024",
        "sglang b200 GLM-5 fp8 8 off 8192/1024",
        "sglang b200 GLM-5 fp8 8 off 1024/1024",
        "sglang b200 GLM-5 nvfp4 4 mtp 8192/1024",
        "sglang b200 GLM-5 nvfp4 8 mtp 8192/1024",
        "sglang b200 GLM-5 nvfp4 8 off 8192/1024",
        "sglang b200 GLM-5 nvfp4 8 off 1024/1024",
        "sglang mi355x GLM-5 fp8 4 mtp 8192/1024",
        "sglang mi355x GLM-5 fp8 8 mtp 8192/1024",
        "sglang mi355x GLM-5 fp8 4 off 8192/1024",
        "vllm b200 GLM-5 fp8 8 off 2048/512",
        "vllm h200 Kimi-K2.5 int4 8 off 1024/1024",
        "vllm h200 Kimi-K2.5 int4 8 off 1024/8192",
        "vllm h200 Kimi-K2.5 int4 8 off 8192/1024",
        "vllm h200 MiniMax-M2.5 fp8 4 off 1024/1024",
        "vllm h200 MiniMax-M2.5 fp8 4 off 1024/8192",
        "vllm h200 MiniMax-M2.5 fp8 4 off 8192/1024",
        "vllm h200 MiniMax-M2.5 fp8 8 off 1024/1024",
        "vllm h200 MiniMax-M2.5 fp8 8 off 1024/8192",
        "vllm h200 MiniMax-M2.5 fp8 8 off 8192/1024",
    )
)


def question(arm: Arm) -> str:
    """The class of question that a prediction of this arm answers; its error is in BANDS if it is known."""
    w, place = arm.workload, (engine_family(arm), arm.hardware.id)
    model = "GLM-5" if arm.checkpoint.model in MODELS else arm.checkpoint.model
    facts = (*place, model, arm.checkpoint.precision, str(arm.tp), arm.speculative.id, f"{w.isl_tokens}/{w.osl_tokens}")
    if arm.dp > 1 or arm.ep > 1 or arm.has_parts or arm.nodes > 1:
        return "other parallelism"
    if facts in FITTED_ARMS:
        return "fitted"
    if model != "GLM-5":
        return "other model"
    return "same GPU" if any(known[:3] == facts[:3] for known in FITTED_ARMS) else "other GPU"


def engine_family(arm: Arm) -> str:
    """The engine that the arm's server behaves as."""
    engine = adapter(arm.engine)
    return engine.follows or engine.name


def band(kind: str, figure: str) -> Band | None:
    """The error of a figure (`tput`, `tpot`, `ttft`) in this class of question; None if no published row shows it."""
    known = BANDS.get("same GPU" if kind == "calibrated" else kind)
    return known[figure] if known is not None else None


def error_text(kinds: Iterable[str]) -> str:
    """The error of throughput in these classes of question, as part of a sentence."""
    where = {
        "fitted": "where it was fitted",
        "same GPU": "elsewhere on a fitted GPU",
        "other GPU": "on another GPU",
        "other model": "for another model",
    }
    asked = set(kinds)
    found = [(BANDS[kind]["tput"], where[kind]) for kind in where if kind in asked]
    texts = [f"{b.median:.0%} at the median and {b.p90:.0%} in 9 of 10 published rows {place}" for b, place in found]
    return ", ".join([*texts, *(["unknown with data or expert parallelism or several nodes"] if "other parallelism" in asked else [])])


def calibrated(pairs: Sequence[tuple[Serving, Workload, int, float, float]]) -> tuple[float, float]:
    """Factors on decode passes and on prefill that make predictions agree with measured points.

    Each pair: the server, its workload and concurrency, and the measured medians of TPOT and TTFT in seconds. Each factor is corrected
    repeatedly by the geometric mean of measured / predicted. TPOT depends mostly on one factor and TTFT on the other, so this converges.
    """
    decode = prefill = 1.0
    for _ in range(12):
        found = [predict(with_factors(server, decode, prefill), workload, c) for server, workload, c, _, _ in pairs]
        tpot = float(np.exp(np.mean([math.log(p[3] / f.tpot_median_s) for p, f in zip(pairs, found, strict=True)])))
        ttft = float(np.exp(np.mean([math.log(p[4] / f.ttft_median_s) for p, f in zip(pairs, found, strict=True)])))
        decode, prefill = decode * tpot, prefill * ttft
        if max(abs(tpot - 1), abs(ttft - 1)) < 1e-3:
            break
    return decode, prefill


def residuals(pairs: Sequence[tuple[Serving, Workload, int, float, float]], decode: float, prefill: float) -> tuple[float, float]:
    """The largest relative differences in TPOT and TTFT that these factors leave."""
    found = [predict(with_factors(server, decode, prefill), workload, c) for server, workload, c, _, _ in pairs]
    tpot = max(abs(f.tpot_median_s / p[3] - 1) for p, f in zip(pairs, found, strict=True))
    return tpot, max(abs(f.ttft_median_s / p[4] - 1) for p, f in zip(pairs, found, strict=True))


def with_factors(server: Serving, decode: float, prefill: float) -> Serving:
    """The server with these factors on its decode passes and its prefill."""
    return replace(server, model=replace(server.model, decode_factor=decode, prefill_factor=prefill))
