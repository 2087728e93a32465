"""Sends missing points as jobs. `sweep` and `resubmit` share this pipeline and differ only in the rule that selects points."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ..checks.needs import refuse_lacking
from ..directory import Campaign
from ..node.heartbeat import is_running
from ..plan import split
from ..schedulers.known import scheduler
from ..schedulers.request import read_end
from ..schedulers.scheduler import How, Order, Outcome
from ..values.point import NodeJob
from .failure import Decision, Missing, decisions, missing, nodes_away, orders
from .history import history, learned
from .jobs import jobs_for_sure
from .lock import refuse_a_copy, submitting
from .opening import planned_how, planned_jobs
from .searching import to_send, with_decided

Rule = Callable[[Sequence[Missing]], list[Decision]]


@dataclass(frozen=True)
class Sending:
    """What was sent or would be sent, and why other points were not."""

    decisions: tuple[Decision, ...]
    orders: tuple[Order, ...]
    away: dict[str, dict[str, Any]]
    outcome: Outcome | None


def sweep(campaign: Campaign, jobs: Sequence[NodeJob], how: How) -> Sending:
    """Sends every point that is neither done nor assigned to a live job.

    The user asked for all points, so failure policies do not apply. Excluded nodes stay excluded.
    """
    return _send(campaign, jobs, how, lambda missed: [Decision(m, True) for m in missed], has_policies=False)


def resubmit(
    campaign: Campaign,
    *,
    only: Collection[str] = (),
    is_dry: bool = False,
    is_automatic: bool = False,
    after: str = "",
    how: How | None = None,
) -> Sending:
    """Sends points that failed or are missing, according to the policies of their failure classes.

    `is_dry`: nothing is sent. `after`: the id of a job; only the points that it left or failed are considered.
    Raises EnvironmentLacks if the scheduler is needed and does not answer.
    """
    record = campaign.read_plan()
    how = how or planned_how(record, str(campaign.plan))
    jobs = planned_jobs(record, str(campaign.plan))
    retries = how.retries if is_automatic else None
    among = _left_by(campaign, after) if after else None

    def by_policy(missed: Sequence[Missing]) -> list[Decision]:
        return decisions(missed, how.failure, only=only, retries=retries)

    return _send(campaign, jobs, how, by_policy, is_dry=is_dry, among=among, looks=not is_dry and not is_automatic)


def _left_by(campaign: Campaign, job_id: str) -> set[str]:
    end = read_end(campaign, job_id)
    return {*end.left, *end.failed} if end is not None else set()


def _send(
    campaign: Campaign,
    jobs: Sequence[NodeJob],
    how: How,
    rule: Rule,
    *,
    has_policies: bool = True,
    is_dry: bool = False,
    among: Collection[str] | None = None,
    looks: bool = False,
) -> Sending:
    """Sends the points that `rule` selects. `looks`: whether images and checkpoints are checked first."""
    kind = scheduler(how.cluster)
    with submitting(campaign):
        if not is_dry:
            kind.settle(campaign)
        found = jobs_for_sure(campaign)
        refuse_a_copy(campaign, [job for job in found if job.is_live])
        if not is_dry:
            adopt(campaign, [p.key for job in with_decided(campaign, jobs) for p in job.points])
        jobs = to_send(campaign, jobs, {key for job in found if job.is_live for key in job.keys}, is_dry=is_dry)
        keys = [p.key for job in jobs for p in job.points if among is None or p.key in among]
        attempts = campaign.attempts(keys)
        decided = rule(missing(keys, attempts, found, how.failure))
        away = nodes_away(campaign, attempts, found, how.failure, is_dry=is_dry) if kind.has_nodes and found else {}
        sent = {d.missing.key: d.missing for d in decided if d.is_sent}
        longest = kind.limits_s(how.cluster, sorted({job.arm.hardware.id for job in jobs})) if sent else {}
        so_far = history(campaign)
        made = [
            Order(piece, order.exclude, order.time_factor)
            for order in orders(jobs, sent, how.failure, away=away, has_policies=has_policies)
            for piece in _pieces(learned(order.job, so_far), longest.get(order.job.arm.hardware.id))
        ]
        if looks:
            refuse_lacking([order.job for order in made])
        outcome = kind.submit(campaign, made, how) if made and not is_dry else None
    return Sending(tuple(decided), tuple(made), away, outcome)


def _pieces(job: NodeJob, longest_s: float | None) -> list[NodeJob]:
    """The job in pieces that fit the time limit. A search is one job, because its arm has one record of decisions."""
    return split(job, longest_s) if job.search is None else [job]


def adopt(campaign: Campaign, keys: Sequence[str]) -> None:
    """Keeps the measurements of jobs that were killed before they read the facts of their server."""
    for key in campaign.adopt(keys, lambda job_id: is_running(campaign.heartbeat(job_id))):
        print(
            f"{key}: measured by a job that was killed before it read the server's facts; the point is kept and flagged",
            file=sys.stderr,
            flush=True,
        )
