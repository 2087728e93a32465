"""Points -> node jobs, leaving out what cannot be and what is done. Pure: no file, no clock.

An arm's points share a server under `server_scope: arm` (`$C` bound once, to the arm's largest concurrency) and get one each under
`point`. One node job measures one arm. What the plan departs from, warns of or leaves out is said in its own words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from . import recipe
from .errors import ImpossibleError, SettingsError
from .point import Arm, NodeJob, Point, Recipe, ServerStart, digest_of, point_key
from .settings import Price, Settings

JOB_OVERHEAD_S = 60.0  # container start, checks and the end of a job


@dataclass(frozen=True)
class LeftOut:
    """An arm that was asked for and cannot be."""

    arm: str
    n_points: int
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a campaign measures, and in which jobs."""

    jobs: tuple[NodeJob, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def points(self) -> tuple[Point, ...]:
        """All points, in the order of their jobs."""
        return tuple(point for job in self.jobs for point in job.points)

    @property
    def n_server_starts(self) -> int:
        """How often weights are loaded."""
        return sum(len(job.starts) for job in self.jobs)


def plan(asked: Sequence[Settings]) -> Plan:
    """The node jobs of all arms asked for.

    Raises ImpossibleError with the reason when nothing that was asked can be.
    """
    _refuse_differing(asked)
    arms, notes = _distinct(asked)
    left_out = tuple(
        LeftOut(s.arm.label, len(s.concurrency) * len(s.repeat) * len(s.seed), reason)
        for s in arms
        if (reason := recipe.impossible(s.arm, s.concurrency)) is not None
    )
    jobs = tuple(_node_job(s) for s in arms if recipe.impossible(s.arm, s.concurrency) is None)
    if not jobs:
        reasons = sorted({lo.reason for lo in left_out})
        raise ImpossibleError("; ".join(reasons) + ".", next_step="ask for another hardware, checkpoint, tp, engine or speculative setting")
    for job in jobs:
        notes.extend(f"{job.arm.label}: {note}" for start in job.starts for note in start.recipe.notes)
    warnings = [
        f"{job.arm.label}: {told}"
        for job in jobs
        for start in job.starts
        for point in start.points
        for told in recipe.warnings(job.arm, start.recipe, point.concurrency)
    ]
    return Plan(jobs, left_out, tuple(dict.fromkeys(notes)), tuple(dict.fromkeys(warnings)))


def _refuse_differing(asked: Sequence[Settings]) -> None:
    """What holds for a campaign as a whole cannot be swept inside one."""
    for name in ("server_scope", "bind_concurrency", "cluster", "price", "name", "output_dir", "wait"):
        if len({digest_of(getattr(s, name)) for s in asked}) > 1:
            raise SettingsError(f"{name} differs between the arms, and is one for a campaign.", next_step=f"one sweep for each {name}")
    first = asked[0]
    if first.server_scope == "point" and first.bind_concurrency is not None:
        raise SettingsError(
            f"bind_concurrency={first.bind_concurrency} means nothing under server_scope=point, where each point binds its own.",
            next_step="leave one of the two out",
        )


def _distinct(asked: Sequence[Settings]) -> tuple[list[Settings], list[str]]:
    """Arms that overrides made the same become one, with the union of their concurrencies, repeats and seeds."""
    kept: dict[str, Settings] = {}
    merged: dict[str, int] = {}
    for settings in asked:
        same = digest_of(settings.arm)
        if same in kept:
            merged[same] = merged.get(same, 1) + 1
        kept[same] = _union(kept[same], settings) if same in kept else settings
    notes = [
        f"{kept[same].arm.label}: {n} arms of the request are the same under these overrides; one is left" for same, n in merged.items()
    ]
    return list(kept.values()), notes


def _union(a: Settings, b: Settings) -> Settings:
    return dataclasses.replace(
        a,
        concurrency=tuple(sorted({*a.concurrency, *b.concurrency})),
        repeat=tuple(sorted({*a.repeat, *b.repeat})),
        seed=tuple(sorted({*a.seed, *b.seed})),
    )


def _node_job(s: Settings) -> NodeJob:
    concurrencies = sorted(set(s.concurrency))
    arm_id = digest_of(dataclasses.replace(s.arm, engine=dataclasses.replace(s.arm.engine, fault="")), 8)
    starts = tuple(_start(s, arm_id, group) for group in _groups(s, concurrencies))
    seconds = JOB_OVERHEAD_S / s.engine.time_scale + sum(_start_estimate_s(s.arm, start) for start in starts)
    usd = seconds / 3600 * s.hardware.gpus_per_node * price_of(s.price, s.hardware.id)
    return NodeJob(
        id=f"{s.arm.hardware.id}-{arm_id}",
        arm=s.arm,
        arm_id=arm_id,
        server_scope=s.server_scope,
        model_path=_model_path(s),
        starts=starts,
        estimate_s=seconds,
        estimate_usd=0.0 if s.engine.simulated else usd,
    )


def _model_path(s: Settings) -> str:
    directory, repository = s.cluster.checkpoint_dir, s.checkpoint.repository
    return f"{directory.rstrip('/')}/{repository.rpartition('/')[2]}" if directory else repository


def _groups(s: Settings, concurrencies: list[int]) -> Iterable[list[int]]:
    return [concurrencies] if s.server_scope == "arm" else [[c] for c in concurrencies]


def _start(s: Settings, arm_id: str, concurrencies: list[int]) -> ServerStart:
    binding = s.bind_concurrency or max(concurrencies)
    started: Recipe = recipe.bound(s.arm, binding, concurrencies)
    points = tuple(
        Point(point_key(s.arm, started, concurrency=c, repeat=r, seed=seed), arm_id, c, r, seed, binding)
        for c in concurrencies  # ascending: the low ones are measured before a full server has fragmented its cache
        for seed in sorted(set(s.seed))
        for r in sorted(set(s.repeat))
    )
    return ServerStart(started, points)


def _start_estimate_s(arm: Arm, start: ServerStart) -> float:
    return arm.engine.start_estimate_s + sum(recipe.point_estimate_s(arm, start.recipe, p.concurrency) for p in start.points)


def price_of(price: Price, hardware: str) -> float:
    """$ per GPU and hour. Raises SettingsError where the price set has none."""
    usd = price.usd_per_gpu_h.get(hardware)
    if usd is None:
        raise SettingsError(f"The price set {price.id!r} has no price for {hardware}.", next_step=f"price.usd_per_gpu_h.{hardware}=2.50")
    return usd


def without(job: NodeJob, done: Collection[str]) -> NodeJob | None:
    """The job with only the points whose keys are not done; None when nothing is left. Bindings stay as they were planned."""
    starts = []
    for start in job.starts:
        points = tuple(p for p in start.points if p.key not in done)
        if points:
            starts.append(dataclasses.replace(start, points=points))
    return dataclasses.replace(job, starts=tuple(starts)) if starts else None
