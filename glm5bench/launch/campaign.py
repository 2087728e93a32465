"""A plan becomes a campaign's directory, once; the same command again goes on where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from .. import __version__
from ..errors import UsageError
from ..node.provenance import git_state
from ..plan import Plan, without
from ..point import NodeJob, plain
from ..store.campaign import Campaign
from .status import planned_jobs
from .submit import live_jobs

PLAN_FORMAT = 1


def opened(campaign: Campaign, plan: Plan, *, name: str, launcher: str, overrides: Sequence[str]) -> tuple[NodeJob, ...]:
    """The campaign's node jobs, in the plan that is written now if it is new.

    Equal keys mean equal bindings, so that the jobs asked for now stand for those of plan.json, with the patience and the paths of
    this command.

    Raises UsageError when the directory holds a campaign of other points, EnvironmentLacks when it cannot be written.
    """
    if not campaign.plan.is_file():
        campaign.write_plan(plan_record(plan, name=name, launcher=launcher, overrides=overrides))
    record = campaign.read_plan()
    jobs = planned_jobs(record, str(campaign.plan))
    planned, asked = {p.key for job in jobs for p in job.points}, {p.key for p in plan.points}
    if planned != asked:
        raise UsageError(
            f"The campaign {name} holds {len(planned)} points, {len(asked - planned)} of those asked for now are not among them"
            f" (planned with glm5bench {record.get('glm5bench')}).",
            where=str(campaign.plan),
            next_step="give this one a name of its own: name=...",
        )
    return plan.jobs


def plan_record(plan: Plan, *, name: str, launcher: str, overrides: Sequence[str]) -> dict[str, Any]:
    """plan.json, and what `plan --json` prints: docs/json.md."""
    return {
        "format": PLAN_FORMAT,
        "name": name,
        "launcher": launcher,
        "overrides": list(overrides),
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "glm5bench": __version__,
        "git": git_state(),
        "n_points": len(plan.points),
        "n_server_starts": plan.n_server_starts,
        "estimate_node_h": sum(job.estimate_s for job in plan.jobs) / 3600,
        "estimate_usd": sum(job.estimate_usd for job in plan.jobs),
        "jobs": [plain(job) for job in plan.jobs],
        "left_out": [plain(lo) for lo in plan.left_out],
        "notes": list(plan.notes),
        "warnings": list(plan.warnings),
    }


def left(campaign: Campaign, jobs: Sequence[NodeJob]) -> tuple[NodeJob, ...]:
    """The node jobs with the points that are neither done nor in the charge of a live job."""
    taken = campaign.done(p.key for job in jobs for p in job.points)
    taken |= {key for job in live_jobs(campaign) for key in job.keys}
    return tuple(rest for job in jobs if (rest := without(job, taken)) is not None)
