"""Which points failed or are missing, why, how often they were tried, and which of them `resubmit` sends.

Input: a campaign's status and its failure set. Output: orders, and a reason for each point that is not sent. Nothing here asks Slurm.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from ..directory import Attempt, Campaign
from ..errors import FileError
from ..files import read_json, write_json
from ..plan import without
from ..schedulers.retries import class_of
from ..schedulers.scheduler import Order
from ..values.cluster import Failure
from ..values.point import NodeJob
from .jobs import Job

TRANSPARENT = ("submit_refused", "cancelled", "preempted")  # not caused by the point: the class before them decides


@dataclass(frozen=True)
class Event:
    """One event of a point: an attempt that failed, or a job that ended before it reached the point."""

    failure_class: str
    node: str
    counts: bool  # whether it counts towards the limit of attempts


@dataclass(frozen=True)
class Missing:
    """A point that is neither done nor assigned to a live job, with its events in order."""

    key: str
    events: tuple[Event, ...]
    n_sent: int  # jobs that it was assigned to

    @property
    def failure_class(self) -> str:
        """The class of the last event. Empty if the point was never sent."""
        return self.events[-1].failure_class if self.events else ""

    @property
    def deciding_class(self) -> str:
        """The class whose policy applies: the last one that is not in TRANSPARENT, or the last one if all are."""
        telling = [e.failure_class for e in self.events if e.failure_class not in TRANSPARENT]
        return telling[-1] if telling else self.failure_class

    @property
    def tries(self) -> int:
        """Number of events that count towards the limit of attempts."""
        return sum(e.counts for e in self.events)

    def nodes(self, failure: Failure) -> tuple[str, ...]:
        """Nodes of the events whose policy retries on another node."""
        return tuple(sorted({e.node for e in self.events if failure.policy(e.failure_class).again == "elsewhere"} - {""}))

    def factor(self, failure: Failure, again: str) -> float:
        """Product of the factors of all events with this policy: each event increases it."""
        policies = [failure.policy(e.failure_class) for e in self.events]
        return math.prod(p.factor for p in policies if p.again == again)


@dataclass(frozen=True)
class Decision:
    """Whether a missing point is sent again, and if not, why."""

    missing: Missing
    is_sent: bool
    why: str = ""


def missing(keys: Sequence[str], attempts: Mapping[str, list[Attempt]], found: Sequence[Job], failure: Failure) -> list[Missing]:
    """The points that are neither done nor assigned to a live job, in the order of `keys`."""
    live = {key for job in found if job.is_live for key in job.keys}
    ended: dict[str, list[Job]] = {}
    for job in found:
        for key in job.keys if job.state == "ended" else ():
            ended.setdefault(key, []).append(job)
    fruitful = {a.job_id.partition(".")[0] for tried in attempts.values() for a in tried if a.is_done}
    return [
        _missing(key, attempts.get(key, []), ended.get(key, []), failure, fruitful)
        for key in keys
        if key not in live and not any(a.is_done for a in attempts.get(key, []))
    ]


def _missing(key: str, attempts: Sequence[Attempt], ended: Sequence[Job], failure: Failure, fruitful: Collection[str]) -> Missing:
    return Missing(key, tuple(_events(key, attempts, ended, failure, fruitful)), sum(bool(job.job_id) for job in ended))


def _events(key: str, attempts: Sequence[Attempt], ended: Sequence[Job], failure: Failure, fruitful: Collection[str]) -> Iterator[Event]:
    """The events of a point, in the order in which its jobs were sent. Attempts of jobs without a record come first."""
    by_job: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        by_job.setdefault(attempt.job_id.partition(".")[0], []).append(attempt)
    known = {job.job_id for job in ended}
    unknown = [a for job_id, own in by_job.items() if job_id not in known for a in own]
    for attempt in unknown:
        yield _attempted(attempt, failure)
    for job in ended:
        own = by_job.get(job.job_id, []) if job.job_id else []
        for attempt in own:
            yield _attempted(attempt, failure)
        if not own:
            yield Event(job.failure_class, job.node, _counts(job, key, failure, fruitful))


def _attempted(attempt: Attempt, failure: Failure) -> Event:
    return Event(class_of(attempt), attempt.node, failure.policy(class_of(attempt)).counts)


def _counts(job: Job, key: str, failure: Failure, fruitful: Collection[str]) -> bool:
    """Whether the end of a job counts towards the limit of this point.

    A job that died counts for the point that it was measuring, or for all its points if it had not reached any.
    A time limit counts only if the job measured no point.
    """
    at = {beat.key for beat in job.beats if beat.key}
    if job.failure_class == "time_limit":
        return job.job_id not in fruitful and not any(end.measured for end in job.ends)
    return failure.policy(job.failure_class).counts and (key in at or not at)


def decisions(missed: Sequence[Missing], failure: Failure, *, only: Collection[str] = (), retries: int | None = None) -> list[Decision]:
    """Whether each missing point is sent again, according to the policy of its class.

    `only`: send only these classes, even those with the policy `never`.
    `retries`: the limit of automatic retries. None if a person runs the command.
    """
    return [_decision(m, failure, only, retries) for m in missed]


def _decision(m: Missing, failure: Failure, only: Collection[str], retries: int | None) -> Decision:
    policy = failure.policy(m.deciding_class)
    named = {m.failure_class, m.deciding_class} & set(only)
    if only and not named:
        return Decision(m, False, "its class was not selected")
    if policy.again == "never" and not named:
        return Decision(m, False, policy.why or "its policy is never")
    if retries is not None and not failure.policy(m.failure_class).automatic:
        return Decision(m, False, "its policy needs a manual resubmit")
    if retries is not None and max(m.n_sent, m.tries) > retries:
        return Decision(m, False, f"tried {max(m.n_sent, m.tries)} times, retries={retries}")
    if m.tries >= failure.limit:
        return Decision(m, False, f"{m.tries} attempts of {failure.limit}: run the sweep with failure.limit={m.tries + 1} to try again")
    return Decision(m, True)


def orders(
    jobs: Sequence[NodeJob], sent: Mapping[str, Missing], failure: Failure, *, away: Collection[str] = (), has_policies: bool = True
) -> list[Order]:
    """Node jobs with only the points that are sent, each with the combined settings of its points' policies.

    `has_policies`: whether policies apply.
    """
    made = []
    for job in jobs:
        rest = without(job, {p.key for p in job.points} - set(sent))
        if rest is None:
            continue
        own = [sent[p.key] for p in rest.points] if has_policies else []
        elsewhere = {node for m in own for node in m.nodes(failure)}
        longer = max((m.factor(failure, "longer") for m in own), default=1.0)
        patience = max((m.factor(failure, "patient") for m in own), default=1.0)
        made.append(Order(_with_patience(rest, patience), tuple(sorted({*away, *elsewhere})), longer))
    return made


def _with_patience(job: NodeJob, factor: float) -> NodeJob:
    """The job with its server start timeout multiplied by `factor`. The timeout is not part of the key."""
    engine = replace(job.arm.engine, start_timeout_s=job.arm.engine.start_timeout_s * factor)
    return replace(job, arm=replace(job.arm, engine=engine)) if factor != 1.0 else job


def nodes_away(
    campaign: Campaign, attempts: Mapping[str, list[Attempt]], found: Sequence[Job], failure: Failure, *, is_dry: bool = False
) -> dict[str, dict[str, Any]]:
    """Excluded nodes, from nodes.json and from new node faults. New ones are written to nodes.json, which users may edit.

    An entry without an end time stays. An entry that a user removed returns only after a new fault.
    """
    known, seen = _read_nodes(campaign)
    faults: dict[str, set[str]] = {}
    for tried in attempts.values():
        for a in tried:
            if a.failure_class == "node_fault" and a.node:
                faults.setdefault(a.node, set()).add(a.job_id.partition(".")[0])
    for job in found:
        if not job.is_live and job.failure_class == "node_fault" and job.node and not job.ends:
            faults.setdefault(job.node, set()).add(job.job_id)
    new = {node: sorted(ids) for node, ids in faults.items() if len(ids) >= failure.node_faults and ids - seen}
    until = time.time() + failure.node_away_h * 3600
    for node, ids in new.items():
        if known.get(node, {"until_utc_s": 0.0}).get("until_utc_s", math.inf) > until:
            continue  # a user excluded it for longer
        known[node] = {"why": f"{len(ids)} node faults", "jobs": ids, "until_utc_s": until, "until_utc": _utc(until)}
    if new and not is_dry:
        every = seen.union(*(ids for ids in faults.values() if len(ids) >= failure.node_faults))
        write_json(campaign.nodes, {"nodes": known, "seen_jobs": sorted(every)})
    return {node: entry for node, entry in known.items() if entry.get("until_utc_s", math.inf) > time.time()}


def _read_nodes(campaign: Campaign) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """The nodes of nodes.json, and the ids of the jobs whose faults it already includes."""
    if not campaign.nodes.is_file():
        return {}, set()
    try:
        record = read_json(campaign.nodes)
    except FileError as error:
        raise FileError(error.message, path=error.path, next_step='correct the file; {"nodes": {}} excludes no nodes') from error
    nodes = record.get("nodes") if isinstance(record, dict) else None
    seen = record.get("seen_jobs", []) if isinstance(record, dict) else None
    is_well = isinstance(nodes, dict) and all(
        isinstance(entry, dict) and isinstance(entry.get("until_utc_s", 0.0), int | float) for entry in nodes.values()
    )
    if not is_well or not isinstance(seen, list):
        raise FileError(
            'nodes.json does not have the form {"nodes": {"NODE": {"why": "...", "until_utc_s": 0}}}.',
            path=str(campaign.nodes),
            next_step='correct the file; {"nodes": {}} excludes no nodes',
        )
    assert isinstance(nodes, dict)
    return nodes, {str(job) for job in seen}


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
