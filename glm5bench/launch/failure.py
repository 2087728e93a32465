"""What failed or is missing, of which class, how often it was tried, and what its policy says: what `resubmit` sends.

Enters: a campaign's status and its failure set. Leaves: orders, and for what is not sent the reason. Nothing here asks Slurm.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from ..cluster import Failure
from ..errors import FileError
from ..plan import without
from ..point import NodeJob
from ..store.campaign import Attempt, Campaign
from ..store.files import read_json, write_json
from .batch import Order
from .jobs import Job


@dataclass(frozen=True)
class Missing:
    """A point that is neither done nor in the charge of a live job. `tries`: attempts that count towards the limit."""

    key: str
    failure_class: str  # empty: it was never sent
    tries: int
    nodes: tuple[str, ...]  # where it failed by this class
    n_sent: int = 0  # jobs that had it in their charge


@dataclass(frozen=True)
class Decision:
    """Whether a missing point is sent again, and why not."""

    missing: Missing
    is_sent: bool
    why: str = ""


def missing(keys: Sequence[str], attempts: Mapping[str, list[Attempt]], found: Sequence[Job], failure: Failure) -> list[Missing]:
    """The points to decide about, in order."""
    live = {key for job in found if job.is_live for key in job.keys}
    ended: dict[str, list[Job]] = {}
    for job in found:
        for key in job.keys if not job.is_live else ():
            ended.setdefault(key, []).append(job)
    return [
        _missing(key, attempts.get(key, []), ended.get(key, []), failure)
        for key in keys
        if key not in live and not any(a.is_done for a in attempts.get(key, []))
    ]


def _missing(key: str, attempts: Sequence[Attempt], ended: Sequence[Job], failure: Failure) -> Missing:
    """Its class is that of what happened last: an attempt at it, or a job that had it in its charge and ended before it."""
    tried_in = {a.job_id.partition(".")[0] for a in attempts}
    untouched = [job for job in ended if job.job_id not in tried_in]
    last_job = ended[-1] if ended else None
    class_ = ""
    if last_job is not None and (not attempts or last_job in untouched):
        class_ = last_job.failure_class
    elif attempts:
        class_ = class_of(attempts[-1])
    tries = sum(failure.policy(class_of(a)).counts for a in attempts)
    tries += sum(failure.policy(job.failure_class).counts and _was_at(job, key) for job in untouched)
    nodes = {a.node for a in attempts if class_of(a) == class_} | {job.node for job in untouched if job.failure_class == class_}
    return Missing(key, class_, tries, tuple(sorted(nodes - {""})), sum(bool(job.job_id) for job in ended))


def _was_at(job: Job, key: str) -> bool:
    """Whether the job ended at this point, or before it came to any."""
    at = {beat.key for beat in job.beats if beat.key}
    return key in at or not at


def class_of(attempt: Attempt) -> str:
    """The class of a failed or an invalid attempt."""
    return attempt.failure_class if attempt.status == "failed" else "invalid_point"


def decisions(missed: Sequence[Missing], failure: Failure, *, only: Collection[str] = (), retries: int | None = None) -> list[Decision]:
    """What becomes of each: by the policy of its class, which a class that the user names overrules where it says never.

    `retries`: it is the campaign itself that asks, and sends a point again so often. None: a person asks.
    """
    return [_decision(m, failure, only, retries) for m in missed]


def _decision(m: Missing, failure: Failure, only: Collection[str], retries: int | None) -> Decision:
    policy = failure.policy(m.failure_class)
    if only and m.failure_class not in only:
        return Decision(m, False, "of another class")
    if policy.again == "never" and m.failure_class not in only:
        return Decision(m, False, policy.why or "its policy says never")
    if retries is not None and not policy.automatic:
        return Decision(m, False, "its policy waits for a person")
    if retries is not None and max(m.n_sent, m.tries) > retries:
        return Decision(m, False, f"tried {max(m.n_sent, m.tries)} times, retries={retries}")
    if m.tries >= failure.limit:
        return Decision(m, False, f"{m.tries} attempts of {failure.limit}; failure.limit={m.tries + 1} in a new sweep allows more")
    return Decision(m, True)


def orders(
    jobs: Sequence[NodeJob], sent: Mapping[str, Missing], failure: Failure, *, away: Collection[str] = (), keep_rules: bool = True
) -> list[Order]:
    """Node jobs with only the points that are sent, each with what the policies of its points ask for together."""
    made = []
    for job in jobs:
        rest = without(job, {p.key for p in job.points} - set(sent))
        if rest is None:
            continue
        own = [sent[p.key] for p in rest.points]
        policies = [failure.policy(m.failure_class) for m in own] if keep_rules else []
        elsewhere = {node for m, p in zip(own, policies, strict=False) if p.again == "elsewhere" for node in m.nodes}
        longer = max([p.factor for p in policies if p.again == "longer"], default=1.0)
        patience = max([p.factor for p in policies if p.again == "patient"], default=1.0)
        made.append(Order(_with_patience(rest, patience), tuple(sorted({*away, *elsewhere})), longer))
    return made


def _with_patience(job: NodeJob, factor: float) -> NodeJob:
    """A longer wait for the server: no part of the key."""
    engine = replace(job.arm.engine, start_timeout_s=job.arm.engine.start_timeout_s * factor)
    return replace(job, arm=replace(job.arm, engine=engine)) if factor != 1.0 else job


def is_tried_again_here(campaign: Campaign, failure: Failure, key: str) -> bool:
    """Whether a point that has just failed may be tried again on the same node at once."""
    attempts = campaign.attempts([key])[key]
    policy = failure.policy(class_of(attempts[-1])) if attempts else None
    tries = sum(failure.policy(class_of(a)).counts for a in attempts)
    return policy is not None and policy.automatic and policy.again == "anywhere" and tries < failure.limit


def nodes_away(
    campaign: Campaign, attempts: Mapping[str, list[Attempt]], found: Sequence[Job], failure: Failure
) -> dict[str, dict[str, Any]]:
    """Nodes to stay away from, from nodes.json and from faults of their own since: written there, and whoever knows better edits it.

    An entry without an end stays; one that was removed comes back only with a new fault.
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
        known[node] = {"why": f"{len(ids)} node faults", "jobs": ids, "until_utc_s": until, "until_utc": _utc(until)}
    if new:
        every = seen.union(*(ids for ids in faults.values() if len(ids) >= failure.node_faults))
        write_json(campaign.nodes, {"nodes": known, "seen_jobs": sorted(every)})
    return {node: entry for node, entry in known.items() if entry.get("until_utc_s", math.inf) > time.time()}


def _read_nodes(campaign: Campaign) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """The nodes of nodes.json, and the jobs whose faults it knows."""
    if not campaign.nodes.is_file():
        return {}, set()
    record = read_json(campaign.nodes)
    nodes = record.get("nodes") if isinstance(record, dict) else None
    seen = record.get("seen_jobs", []) if isinstance(record, dict) else None
    is_well = isinstance(nodes, dict) and all(
        isinstance(entry, dict) and isinstance(entry.get("until_utc_s", 0.0), int | float) for entry in nodes.values()
    )
    if not is_well or not isinstance(seen, list):
        raise FileError(
            'nodes.json is not of the form {"nodes": {"NODE": {"why": "...", "until_utc_s": 0}}}.',
            path=str(campaign.nodes),
            next_step="mend it, or remove it",
        )
    assert isinstance(nodes, dict)
    return nodes, {str(job) for job in seen}


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
