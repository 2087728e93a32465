"""What a search is asked for, and what it knows before its first point. Frozen values: no file, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import FiniteFloat

from .plain import ABSENT, digest_of
from .workload import Positive, PositiveFloat

Share = Annotated[FiniteFloat, Gt(0), Lt(1)]


@dataclass(frozen=True)
class Budget:
    """What a search may use. None: no limit."""

    node_h: PositiveFloat | None = None


@dataclass(frozen=True)
class Search:
    """A choice of conf/search. `none` has only its id: a campaign measures the concurrencies of its arms."""

    id: str
    band: tuple[PositiveFloat, PositiveFloat] | None = None  # interactivity, tok/s/user
    slo: str | None = None  # limits of latency: ttft_p99<=2s,tpot_p99<=50ms
    tolerance: Share | None = None
    confidence: Annotated[FiniteFloat, Ge(0.5), Le(0.99)] = 0.95
    spread: Annotated[FiniteFloat, Gt(0), Le(0.5)] | None = None  # from run to run on different starts, as a share; None: assumed
    repeats: str | None = None  # archive or campaign whose repeats give the spread
    candidates: tuple[Positive, Positive] = (1, 512)  # lowest and highest concurrency
    most_points: Positive = 16  # of one arm
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True)
class Prior:
    """The prediction of one arm at its candidates, as if every request were admitted.

    `concurrency`, `log_tput` (tok/s/GPU), `log_x` (tok/s/user), `tokens_per_gpu` (of warm-up and load): shape (G,), concurrency rising.
    `d_tput`, `d_x`: shape (3, G), derivatives with respect to the logarithms of the factors. `knee`: the concurrency that is admitted.
    """

    concurrency: tuple[int, ...]
    log_tput: tuple[float, ...]
    log_x: tuple[float, ...]
    d_tput: tuple[tuple[float, ...], ...]
    d_x: tuple[tuple[float, ...], ...]
    tokens_per_gpu: tuple[float, ...]
    knee: float
    start_s: float
    latency: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)  # figure -> log seconds, with the server's limits


@dataclass(frozen=True)
class Limit:
    """One limit of latency. `figure`: a key of Prior.latency; `text`: as the user wrote it."""

    figure: str
    seconds: float
    text: str


@dataclass(frozen=True)
class Question:
    """With `limits`: the largest concurrency that keeps them. Else the cost between two interactivities, to a tolerance (a share).

    With several series, the claim is about the ratio of each to the first one. `spread`: from run to run on different starts, as a share.
    """

    low: float
    high: float
    tolerance: float
    confidence: float
    spread: float
    most_points: int  # of one arm
    budget_node_h: float | None = None
    spread_source: str = "assumed"
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True)
class ArmPlan:
    """One arm of a question. `keys`: of its planned points, in their order. `largest`: the highest concurrency that it may choose.

    `nodes`: that one of its server starts takes; below 1 if several servers share a node.
    """

    id: str
    label: str
    series: str
    prior: Prior
    planned: tuple[int, ...]
    largest: int
    keys: tuple[str, ...]
    nodes: float = field(default=1.0, metadata=ABSENT)


@dataclass(frozen=True)
class ArmSearch:
    """The search of one node job: its arm, and all arms of the question."""

    question: Question
    own: str
    arms: tuple[ArmPlan, ...]
    reserve_s: float  # time for points that are not planned


def has_ended(lines: Sequence[Mapping[str, Any]], question: Any) -> bool:
    """Whether an arm's last decision was to stop, for this question (a Question, or one as plain data). A new question continues it."""
    return bool(lines) and lines[-1]["action"] == "stop" and lines[-1].get("question") == digest_of(question)


def with_decided(job: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A node job, as plain data, with the points of these decisions. An ended search keeps only the points that it measured.

    A job that stops when it is saturated loses the points that it skipped.
    """
    starts = [dict(start) for start in job["starts"]]
    first, has = starts[0]["points"][0], {point["key"] for start in starts for point in start["points"]}
    for line in lines:
        if not line["key"] or line["key"] in has:
            continue
        point = {**first, **{name: line[name] for name in ("key", "concurrency", "repeat")}}
        if line["is_new_start"]:
            starts.append({**starts[0], "points": [point]})
        else:
            starts[-1] = {**starts[-1], "points": [*starts[-1]["points"], point]}
    skipped = {key for line in lines for key in line.get("skipped", ())}
    if job.get("search") and has_ended(lines, job["search"]["question"]):
        kept = set(lines[-1]["own"])
        starts = [{**start, "points": [point for point in start["points"] if point["key"] in kept]} for start in starts]
    starts = [{**start, "points": [point for point in start["points"] if point["key"] not in skipped]} for start in starts]
    return {**job, "starts": [start for start in starts if start["points"]]}
