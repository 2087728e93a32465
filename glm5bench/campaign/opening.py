"""Writes a plan to the directory of a campaign, and reads it back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .. import __version__
from ..directory import Campaign
from ..errors import FileError, SettingsError, UsageError, counted
from ..machine.provenance import git_state
from ..plan import Plan
from ..schedulers.known import scheduler
from ..schedulers.scheduler import How, Order
from ..trust import trusted
from ..values.cluster import Cluster, Failure
from ..values.plain import from_plain, plain
from ..values.point import NodeJob

PLAN_FORMAT = 1


def opened(campaign: Campaign, plan: Plan, how: How, *, name: str, launcher: str, overrides: Sequence[str]) -> Sequence[NodeJob]:
    """Writes the plan if it is new, or if this command changes its timeouts, paths, cluster or policies. Returns the jobs to send.

    Equal keys mean equal bindings, so the requested jobs can replace those in plan.json. A search keeps the predictions that it began with.
    Raises UsageError if the directory has a campaign with other points, EnvironmentLacks if it cannot be written.
    """
    trusted(campaign.root)
    record = plan_record(plan, how, name=name, launcher=launcher, overrides=overrides)
    if campaign.plan.is_file():
        known = campaign.read_plan()
        refuse_other_points(campaign, plan)
        _keep_predictions(record, known, str(campaign.plan))
        if len(plan.points) < sum(len(job.points) for job in planned_jobs(known, str(campaign.plan))):  # a part of it is submitted
            record = {**known, **{part: record[part] for part in ("cluster", "failure", "retries")}}
        if all(record[part] == known.get(part) for part in ("jobs", "cluster", "failure", "retries")):
            return _asked(plan, record, str(campaign.plan))
        record["created_utc"] = known.get("created_utc")
    campaign.write_plan(record)
    return _asked(plan, record, str(campaign.plan))


def _asked(plan: Plan, record: dict[str, Any], where: str) -> Sequence[NodeJob]:
    """The jobs of the command, as the record has them if they are searches."""
    return planned_jobs(record, where) if any(job.search for job in plan.jobs) else plan.jobs


def _keep_predictions(record: dict[str, Any], known: dict[str, Any], where: str) -> None:
    """Puts the arms of a campaign's search, with their predictions, into a new record. Raises UsageError for a part of a search."""
    before, now = ({_planned_keys(job): job for job in one["jobs"] if job.get("search")} for one in (known, record))
    if before and before.keys() != now.keys():
        raise UsageError(
            "This campaign is a search over other arms. Its arms answer one question together.",
            where=where,
            next_step="use the same arms, or choose another name for this campaign: name=...",
        )
    for keys, job in now.items() if before else ():
        job["id"] = before[keys]["id"]
        job["search"] = {**before[keys]["search"], "question": job["search"]["question"]}


def _planned_keys(job: dict[str, Any]) -> tuple[str, ...]:
    return tuple(point["key"] for start in job["starts"] for point in start["points"])


def refuse_other_points(campaign: Campaign, plan: Plan) -> None:
    """Raises UsageError if the directory already has a campaign without some of these points."""
    if not campaign.plan.is_file():
        return
    known = campaign.read_plan()
    planned = {p.key for job in planned_jobs(known, str(campaign.plan)) for p in job.points}
    asked = {p.key for p in plan.points}
    n = len(asked - planned)
    if n:
        raise UsageError(
            f"Campaign {campaign.root.name} has {counted(len(planned), 'point')}."
            f" {counted(n, 'requested point')} {'is' if n == 1 else 'are'} not among them"
            f" (planned with glm5bench {known.get('glm5bench')}).",
            where=str(campaign.plan),
            next_step="choose another name for this campaign: name=...",
        )


def plan_record(plan: Plan, how: How, *, name: str, launcher: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The content of plan.json and the output of `plan --json`, described in docs/json.md."""
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
    """The node jobs of a plan record. Raises FileError if the record is damaged or of another version."""
    try:
        return from_plain(tuple[NodeJob, ...], record["jobs"])
    except ValueError as error:
        raise FileError(f"plan.json is not valid: {str(error).splitlines()[0]}.", path=where) from error


def planned_how(record: dict[str, Any], where: str) -> How:
    """The cluster, policies and retries of a plan record. Raises FileError if they are missing or not valid."""
    try:
        return How(from_plain(Cluster, record["cluster"]), from_plain(Failure, record["failure"]), int(record["retries"]))
    except (KeyError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise FileError(
            f"plan.json has no valid cluster and policies ({said}).", path=where, next_step="run the sweep again: it writes them"
        ) from error


def resolved_cluster(launcher: str, overrides: Sequence[str], cluster: Cluster) -> Cluster:
    """The cluster of a command. Raises SettingsError if its launcher and its cluster contradict each other."""
    if launcher == "slurm" and cluster.executor != "slurm":
        raise SettingsError(
            f"hydra/launcher=slurm needs a Slurm cluster, but {cluster.id} is not one.",
            next_step="set cluster=example, or describe your own cluster as in conf/cluster/template.yaml",
        )
    if "hydra/launcher=local" in overrides and cluster.executor == "slurm":
        raise SettingsError(
            f"hydra/launcher=local cannot use the Slurm cluster {cluster.id}.",
            next_step="remove one of the two, or set cluster.executor=local to run here",
        )
    return cluster


def write_scripts(campaign: Campaign, plan: Plan, how: How) -> list[Path]:
    """Writes the scripts that `sweep` would send for the whole plan to the campaign's directory, and returns their paths.

    New scripts replace all old ones.
    """
    made = scheduler(how.cluster).scripts(campaign, [Order(job) for job in plan.jobs], how.cluster)
    folder = campaign.root / "sbatch"
    if made:
        for old in folder.glob("*.sh"):
            old.unlink()
    for name, text in made:
        campaign.write_text(folder / f"{name}.sh", text)
    return [folder / f"{name}.sh" for name, _ in made]
