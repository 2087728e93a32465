"""The searches of a campaign: which points they have decided, and how far they are.

Input: the campaign's directory and its node jobs. Output: jobs with the decided points, and the state of the question.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ..directory import LOST_PLAN, Campaign
from ..errors import FileError
from ..node.searching import SUCCESS, Known, advance, is_pending, known
from ..search.decision import Remaining, claimed, remaining
from ..values.plain import from_plain, plain
from ..values.point import Arm, NodeJob
from ..values.search import ArmPlan, ArmSearch, has_ended


@dataclass(frozen=True)
class ArmStatus:
    """One arm of a search. `code`: why it ended; empty while it goes on. `crossing`: the concurrency that keeps the limits, as Crossing."""

    arm: str
    points: int
    code: str
    why: str
    crossing: dict[str, Any] | None
    goodput_rps: float | None  # requests per second within the limits, at the largest concurrency that keeps them


@dataclass(frozen=True)
class SearchState:
    """The state of a question. `limits`: of a search for limits. `claim`: of one for cost; None before it can be computed."""

    limits: str
    claim: float | None
    tolerance: float
    confidence: float
    low_tok_s_user: float
    high_tok_s_user: float
    covered: tuple[float, float] | None  # the part of the band that the claim is about; None: nothing
    spread: float
    spread_source: str
    spread_used: float  # larger if the points contradict the stated one
    arms: tuple[ArmStatus, ...]
    expected: Remaining | None  # until the search ends; None for limits

    @property
    def is_reached(self) -> bool:
        """Whether every arm has ended with success, and the claim is within the tolerance."""
        is_known = bool(self.limits) or (self.claim is not None and self.claim <= self.tolerance)
        return all(arm.code in SUCCESS for arm in self.arms) and is_known


def with_decided(campaign: Campaign, jobs: Sequence[NodeJob]) -> list[NodeJob]:
    """The jobs with the points that their searches have decided. Jobs without any point are left out."""
    searching = [job for job in jobs if job.search is not None or job.stop_when]
    if not searching:
        return list(jobs)
    record = campaign.with_decisions({"jobs": [plain(job) for job in jobs]})
    return list(from_plain(tuple[NodeJob, ...], [job for job in record["jobs"] if job["starts"]]))


def to_send(campaign: Campaign, jobs: Sequence[NodeJob], live: Collection[str], *, is_dry: bool) -> list[NodeJob]:
    """The jobs whose points may be sent. An arm whose search runs in a live job is left out, because it chooses its own points.

    Unless `is_dry`, the last decision of each arm is repeated, and the next one is made if all points of the arm are done.
    Raises UsageError if the last decision would not be repeated.
    """
    found = []
    for job in with_decided(campaign, jobs):
        keys = {p.key for p in job.points}
        if job.search is None:
            found.append(job)
        elif not keys & set(live):
            if not is_dry and (keys <= campaign.done(keys) or is_pending(campaign, job)):
                advance(campaign, job)
            found += with_decided(campaign, [job])
    return found


def search_of(campaign: Campaign, record: dict[str, Any]) -> ArmSearch | None:
    """The search of the campaign's plan; None without one. Raises FileError if it is damaged or of another version."""
    found = next((job["search"] for job in record["jobs"] if isinstance(job, dict) and job.get("search")), None)
    try:
        return from_plain(ArmSearch, found) if found is not None else None
    except ValueError as error:
        said = str(error).splitlines()[0]
        raise FileError(f"The search in plan.json is not valid: {said}.", path=str(campaign.plan), next_step=LOST_PLAN) from error


def state_of(campaign: Campaign, record: dict[str, Any]) -> SearchState | None:
    """The state of the campaign's question; None without a search."""
    search = search_of(campaign, record)
    if search is None:
        return None
    q = search.question
    now = known(campaign, search)
    states = now.states(search)
    known_now = None if q.limits else claimed(q, states)
    claim = known_now.value if known_now is not None else math.inf
    used = known_now.spread if known_now is not None else q.spread
    covered = (known_now.low, known_now.high) if known_now is not None and math.isfinite(known_now.low) else None
    arms = []
    for arm in search.arms:
        lines = campaign.decisions(arm.id)
        last = lines[-1] if has_ended(lines, q) else None
        n = len(campaign.done([*arm.keys, *(line["key"] for line in lines if line["key"])]))
        code, why = (last["code"], last["why"]) if last else ("", "")
        crossing = lines[-1]["crossing"] if lines else None
        arms.append(ArmStatus(arm.label, n, code, why, crossing, _goodput(now, arm, crossing)))
    limits = ", ".join(limit.text for limit in q.limits)
    more = None if q.limits or all(arm.code for arm in arms) else remaining(q, tuple(states))
    shown = claim if math.isfinite(claim) else None
    return SearchState(limits, shown, q.tolerance, q.confidence, q.low, q.high, covered, q.spread, q.spread_source, used, tuple(arms), more)


def _goodput(now: Known, arm: ArmPlan, crossing: dict[str, Any] | None) -> float | None:
    """The mean goodput of the arm's points at the largest concurrency that keeps the limits."""
    at = crossing["passes"] if crossing else 0
    rows = [now.rows[key] for key in now.keys(arm) if key in now.rows and now.rows[key].concurrency == at]
    figures = [row.goodput_rps for row in rows if math.isfinite(row.goodput_rps)]
    return sum(figures) / len(figures) if figures else None


def skipped(campaign: Campaign, record: dict[str, Any]) -> tuple[str, ...]:
    """What saturated servers did not measure, one text per arm."""
    found = []
    for job in record["jobs"]:
        for line in campaign.decisions(job["id"]) if job.get("stop_when") else ():
            concurrencies = ", ".join(map(str, line["skipped_concurrencies"]))
            found.append(f"{from_plain(Arm, job['arm']).label}: concurrency {concurrencies} skipped, because {line['why']}")
    return tuple(dict.fromkeys(found))
