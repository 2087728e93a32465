"""A plan becomes a campaign's directory; the same command, or `resubmit`, goes on where it stopped."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .. import __version__
from ..checks.needs import refuse_lacking
from ..directory import Campaign
from ..errors import FileError, SettingsError, UsageError
from ..machine.provenance import git_state
from ..node.heartbeat import is_running
from ..plan import Plan, split, without
from ..values.cluster import Cluster, Failure
from ..values.plain import from_plain, plain
from ..values.point import NodeJob
from . import slurm
from .batch import Order, longest_s, script
from .failure import Decision, decisions, missing, nodes_away, orders
from .history import history, learned
from .jobs import Job, jobs_by_slurm, keys_of
from .submit import How, Outcome, named_batches, refuse_a_copy, settle, submit, submitting

PLAN_FORMAT = 1


def opened(campaign: Campaign, plan: Plan, how: How, *, name: str, launcher: str, overrides: Sequence[str]) -> None:
    """Writes the plan, if it is new or if this command changes its patience, paths, cluster or policies.

    Equal keys mean equal bindings, so that the jobs asked for now stand for those of plan.json.
    Raises UsageError when the directory holds a campaign of other points, EnvironmentLacks when it cannot be written.
    """
    record = plan_record(plan, how, name=name, launcher=launcher, overrides=overrides)
    if campaign.plan.is_file():
        known = campaign.read_plan()
        _refuse_other_points(campaign, plan, known)
        if all(record[part] == known.get(part) for part in ("jobs", "cluster", "failure", "retries")):
            return
        record["created_utc"] = known.get("created_utc")
    campaign.write_plan(record)


def _refuse_other_points(campaign: Campaign, plan: Plan, known: dict[str, Any]) -> None:
    planned = {p.key for job in planned_jobs(known, str(campaign.plan)) for p in job.points}
    asked = {p.key for p in plan.points}
    if planned != asked:
        raise UsageError(
            f"The campaign {campaign.root.name} holds {len(planned)} points, {len(asked - planned)} of those asked for are not among them"
            f" (planned with glm5bench {known.get('glm5bench')}).",
            where=str(campaign.plan),
            next_step="give this one a name of its own: name=...",
        )


def plan_record(plan: Plan, how: How, *, name: str, launcher: str, overrides: Sequence[str]) -> dict[str, Any]:
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
        "estimate_node_h": plan.estimate_node_h,
        "estimate_usd": plan.estimate_usd,
        "jobs": [plain(job) for job in plan.jobs],
        "left_out": [plain(lo) for lo in plan.left_out],
        "notes": list(plan.notes),
        "warnings": list(plan.warnings),
        "cluster": plain(how.cluster),
        "failure": plain(how.failure),
        "retries": how.retries,
    }


def planned_jobs(record: dict[str, Any], where: str) -> tuple[NodeJob, ...]:
    """The node jobs of a plan's record. Raises FileError where it is damaged or of another version."""
    try:
        return from_plain(tuple[NodeJob, ...], record["jobs"])
    except ValueError as error:
        raise FileError(f"plan.json cannot be understood: {str(error).splitlines()[0]}.", path=where) from error


def planned_how(record: dict[str, Any], where: str) -> How:
    """The rules of a plan's record. Raises FileError where it has none."""
    try:
        return How(from_plain(Cluster, record["cluster"]), from_plain(Failure, record["failure"]), int(record["retries"]))
    except (KeyError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise FileError(
            f"plan.json says nothing of cluster and policies ({said}).", path=where, next_step="type the sweep again: it writes them"
        ) from error


def resolved_cluster(launcher: str, overrides: Sequence[str], cluster: Cluster) -> Cluster:
    """The cluster that a command means. Raises SettingsError where its launcher and its cluster contradict each other."""
    if launcher == "slurm" and cluster.executor != "slurm":
        raise SettingsError(
            f"hydra/launcher=slurm needs a cluster of Slurm, and {cluster.id} is none.",
            next_step="cluster=example, or one of your own: conf/cluster/template.yaml says how",
        )
    if "hydra/launcher=local" in overrides and cluster.executor == "slurm":
        raise SettingsError(
            f"hydra/launcher=local, and cluster {cluster.id} is Slurm's.", next_step="leave one out, or cluster.executor=local to run here"
        )
    return cluster


def longest_of(cluster: Cluster, hardware: Sequence[str]) -> dict[str, float]:
    """The longest estimate that a job may have, seconds, by hardware, where there is a limit. Asks Slurm where there is one."""
    if cluster.executor != "slurm":
        return {}
    most = slurm.partition_limits_min({h: cluster.resources(h).partition for h in hardware})
    limits = {h: longest_s(cluster.resources(h), cluster.stop_before_s, most.get(h)) for h in hardware}
    return {h: limit for h, limit in limits.items() if limit is not None}


def send(campaign: Campaign, jobs: Sequence[NodeJob], how: How) -> Outcome | None:
    """Submits every point that is neither done nor in the charge of a live job; None where there is none.

    Whoever types the sweep again knows why: no policy holds anything back, only nodes to stay away from are left out.
    """
    with submitting(campaign):
        if how.cluster.executor == "slurm" and campaign.submissions.is_file():
            settle(campaign)
        found = jobs_by_slurm(campaign)
        refuse_a_copy(campaign, [job for job in found if job.is_live])
        missed = left(campaign, jobs, found)
        if not missed:
            return None
        away = _away(campaign, missed, found, how)
        longest = longest_of(how.cluster, sorted({job.arm.hardware.id for job in missed}))
        so_far = history(campaign)
        pieces = [piece for job in missed for piece in split(learned(job, so_far), longest.get(job.arm.hardware.id))]
        return submit(campaign, [Order(job, away) for job in pieces], how)


def _away(campaign: Campaign, jobs: Sequence[NodeJob], found: Sequence[Job], how: How) -> tuple[str, ...]:
    if how.cluster.executor != "slurm" or not found:
        return ()
    attempts = campaign.attempts(p.key for job in jobs for p in job.points)
    return tuple(sorted(nodes_away(campaign, attempts, found, how.failure)))


def left(campaign: Campaign, jobs: Sequence[NodeJob], found: Sequence[Job]) -> tuple[NodeJob, ...]:
    """The node jobs with the points that are neither done nor in the charge of a live one of the jobs found."""
    adopt(campaign, [p.key for job in jobs for p in job.points])
    taken = campaign.done(p.key for job in jobs for p in job.points)
    taken |= keys_of(job for job in found if job.is_live)
    return tuple(rest for job in jobs if (rest := without(job, taken)) is not None)


def adopt(campaign: Campaign, keys: Sequence[str]) -> None:
    """Takes the measurements of jobs that were ended before they had asked their server for its facts."""
    for key in campaign.adopt(keys, lambda job_id: is_running(campaign.heartbeat(job_id))):
        print(
            f"{key}: measured by a job that was killed before it read the server's facts; the point is kept and flagged",
            file=sys.stderr,
            flush=True,
        )


@dataclass(frozen=True)
class Resubmission:
    """What `resubmit` sends, or would send, and what it does not, with reasons."""

    decisions: tuple[Decision, ...]
    orders: tuple[Order, ...]
    away: dict[str, dict[str, Any]]
    outcome: Outcome | None


def resubmit(
    campaign: Campaign,
    *,
    only: Collection[str] = (),
    is_dry: bool = False,
    is_automatic: bool = False,
    among: Collection[str] | None = None,
    how: How | None = None,
) -> Resubmission:
    """Sends what failed or is missing, by the policies of its classes; nothing under `is_dry`. `among`: these keys alone.

    Raises EnvironmentLacks where Slurm's answer is needed and does not come.
    """
    record = campaign.read_plan()
    how = how or planned_how(record, str(campaign.plan))
    jobs = planned_jobs(record, str(campaign.plan))
    with submitting(campaign):
        if how.cluster.executor == "slurm" and not is_dry:
            settle(campaign)
        found = jobs_by_slurm(campaign)
        refuse_a_copy(campaign, [job for job in found if job.is_live])
        keys = [p.key for job in jobs for p in job.points if among is None or p.key in among]
        if not is_dry:
            adopt(campaign, keys)
        attempts = campaign.attempts(keys)
        decided = decisions(
            missing(keys, attempts, found, how.failure), how.failure, only=only, retries=how.retries if is_automatic else None
        )
        away = nodes_away(campaign, attempts, found, how.failure, is_dry=is_dry) if how.cluster.executor == "slurm" else {}
        sent = {d.missing.key: d.missing for d in decided if d.is_sent}
        longest = longest_of(how.cluster, sorted({job.arm.hardware.id for job in jobs}))
        so_far = history(campaign)
        made = [
            Order(piece, order.exclude, order.time_factor)
            for order in orders(jobs, sent, how.failure, away=away)
            for piece in split(learned(order.job, so_far), longest.get(order.job.arm.hardware.id))
        ]
        if not is_dry and not is_automatic:
            refuse_lacking([order.job for order in made])
        outcome = submit(campaign, made, how) if made and not is_dry else None
    return Resubmission(tuple(decided), tuple(made), away, outcome)


def write_scripts(campaign: Campaign, plan: Plan, how: How) -> list[Path]:
    """The sbatch scripts that `sweep` would send for the whole plan, under the campaign's directory; replaces those of before."""
    folder = campaign.root / "sbatch"
    for old in folder.glob("*.sh"):
        old.unlink()
    paths = []
    for name, batch in named_batches(campaign, [Order(job) for job in plan.jobs], how.cluster, slurm.config() or {}):
        path = folder / f"{name}.sh"
        campaign.write_text(path, script(batch, how.cluster, campaign, name))
        paths.append(path)
    return paths
