"""Turns points into node jobs, leaving out points that are impossible or already done. Pure: no file, no clock.

With `server_scope: arm`, an arm's points share one server, and `$C` is replaced once, by the arm's largest concurrency. With `point`, each
concurrency gets its own server. One node job measures one repeat of one arm (`repeat_scope: start`), or all its repeats (`run`). A job that
is longer than the cluster's time limit is split. With `pack`, jobs that need half a node or less are marked to run side by side. The plan
lists its differences from published recipes, its warnings, and what it leaves out.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from . import recipe
from .contradictions import contradiction, impossible, unfit
from .errors import ImpossibleError, SettingsError
from .estimate import estimates_s
from .image_version import refuse_wrong_images
from .recipe_differences import mtp_notes
from .search.planning import arm_plan, with_goodput, with_searches
from .search.question import question_of
from .values.cluster import Cluster
from .values.groups import Accuracy, Checkpoint
from .values.plain import digest_of
from .values.point import Arm, NodeJob, Point, Recipe, ServerStart, point_keys
from .values.search import ArmPlan, Question
from .values.settings import ArmSettings, Asked, CampaignSettings, Price, RepeatScope

JOB_OVERHEAD_S = 60.0  # container start, checks and shutdown of a job


@dataclass(frozen=True)
class LeftOut:
    """An arm, or a part of its points, that was asked for and is impossible."""

    arm: str
    n_points: int
    reason: str


@dataclass(frozen=True)
class Plan:
    """The points that a campaign measures, and its jobs."""

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
        """The number of server starts; each loads the weights."""
        return sum(len(job.starts) for job in self.jobs)

    @property
    def estimate_node_h(self) -> float:
        """The estimated node-hours."""
        return sum(job.estimate_s * job.arm.nodes / job.lanes for job in self.jobs) / 3600

    @property
    def estimate_usd(self) -> float:
        """The estimated cost in $."""
        return sum(job.estimate_usd for job in self.jobs)


def plan(asked: Asked, max_s: Mapping[str, float] | None = None) -> Plan:
    """The node jobs of all arms that were asked for. `max_s`: the longest estimated time of a job, by hardware, in seconds.

    Raises ImpossibleError with the reasons if no requested point is possible, SettingsError for a contradiction.
    """
    campaign = asked.campaign
    _refuse_bound_twice(campaign)
    requests, notes = _distinct(asked.arms)
    question = question_of(campaign.search)
    searched: dict[str, ArmPlan] = {}
    if question is not None:
        requests, searched = _chosen(requests, campaign, question)
    refuse_wrong_images([request.settings.arm for request in requests])
    jobs: list[NodeJob] = []
    lanes = _lanes(requests) if campaign.pack else [1] * len(requests)
    largest = {id: arm.largest for id, arm in searched.items()}
    arms = [(request.settings, *_starts(request, n, campaign, largest)) for request, n in zip(requests, lanes, strict=True)]
    left_out = [out for _, _, impossible in arms for out in impossible]
    for repeats in _repeats_of_a_job(requests, campaign.repeat_scope):
        for (s, starts, _), n_lanes in zip(arms, lanes, strict=True):
            measured = [start for start in (_of_repeats(start, repeats) for start in starts) if start.points]
            if measured:
                whole = _node_job(s, campaign, measured, n_lanes)
                own = dataclasses.replace(whole, id=f"{whole.id}-r{min(repeats)}") if len(repeats) == 1 and min(repeats) else whole
                longest = (max_s or {}).get(s.hardware.id)
                jobs += split(own, longest) if question is None else [own]
    if not jobs:
        reasons = "; ".join(sorted({lo.reason for lo in left_out}))
        raise ImpossibleError(f"{reasons}.", next_step="choose another hardware, checkpoint, tp, engine or speculative setting")
    if question is not None:
        jobs, dropped = with_searches(jobs, searched, question)
        left_out += [LeftOut(job.arm.label, len(job.points), why) for job, why in dropped]
    told = [(job, start) for job in jobs for start in job.starts]
    notes += [f"{job.arm.label}: {note}" for job, start in told for note in start.recipe.notes]
    if campaign.pack and max(lanes) == 1:
        notes.append("pack=true has no effect: no two arms of one GPU have the same TP and use half a node or less")
    notes += [f"{job.arm.label}: packed, {job.lanes} servers side by side on a node" for job in jobs if job.lanes > 1]
    notes += mtp_notes([job.arm for job in jobs])
    warnings = [
        f"{job.arm.label}: {text}"
        for job, start in told
        for text in recipe.warnings(job.arm, start.recipe, [point.concurrency for point in start.points])
    ]
    return Plan(tuple(jobs), tuple(left_out), tuple(dict.fromkeys(notes)), tuple(dict.fromkeys(warnings)))


def _chosen(requests: Sequence[_Request], campaign: CampaignSettings, question: Question) -> tuple[list[_Request], dict[str, ArmPlan]]:
    """The requests with the planned concurrencies of the search, and what is known of each possible arm, by arm id."""
    found, known = [], {}
    for request in requests:
        s, points = with_goodput(request.settings, question), request.points
        if contradiction(s.arm) is None:
            plan = known[_arm_id(s.arm)] = arm_plan(s, campaign, question)
            points = frozenset((c, s.seed[0], 0) for c in plan.planned)
        found.append(_Request(s, points))
    return found, known


def repeat_scopes(asked: Asked, max_s: Mapping[str, float] | None = None) -> dict[str, Plan]:
    """The plans for both values of `repeat_scope`; empty if there are no repeats."""
    if not any(len(set(s.repeat)) > 1 for s in asked.arms):
        return {}
    scopes: tuple[RepeatScope, ...] = ("start", "run")
    campaigns = {scope: dataclasses.replace(asked.campaign, repeat_scope=scope) for scope in scopes}
    return {scope: plan(dataclasses.replace(asked, campaign=campaign), max_s) for scope, campaign in campaigns.items()}


def _repeats_of_a_job(requests: Sequence[_Request], scope: RepeatScope) -> list[frozenset[int]]:
    """The groups of repeats that share a job: all repeats, or one group each, so that the first repeat of every arm runs first."""
    repeats = sorted({repeat for request in requests for _, _, repeat in request.points})
    return [frozenset(repeats)] if scope == "run" else [frozenset([repeat]) for repeat in repeats]


def _of_repeats(start: ServerStart, repeats: Collection[int]) -> ServerStart:
    return dataclasses.replace(start, points=tuple(point for point in start.points if point.repeat in repeats))


@dataclass(frozen=True)
class _Request:
    """One arm, and the points that were asked for as (concurrency, seed, repeat)."""

    settings: ArmSettings
    points: frozenset[tuple[int, int, int]]


def _refuse_bound_twice(campaign: CampaignSettings) -> None:
    if campaign.server_scope == "point" and campaign.bind_concurrency is not None:
        raise SettingsError(
            f"bind_concurrency={campaign.bind_concurrency} has no effect with server_scope=point, where each point has its own binding.",
            next_step="remove one of the two settings",
        )


def _distinct(asked: Sequence[ArmSettings]) -> tuple[list[_Request], list[str]]:
    """The distinct arms, and notes on merged ones. Arms that overrides made the same become one arm with all their points."""
    kept: dict[str, _Request] = {}
    merged: dict[str, int] = {}
    for s in asked:
        same = digest_of(_unnamed(s.arm))
        points = frozenset(itertools.product(s.concurrency, s.seed, s.repeat))
        if same in kept:
            merged[same] = merged.get(same, 1) + 1
            points |= kept[same].points
        kept[same] = _Request(s, points)
    said = "arms of the request are the same under these overrides; one is left, with all their points"
    return list(kept.values()), [f"{kept[same].settings.arm.label}: {n} {said}" for same, n in merged.items()]


def _lanes(requests: Sequence[_Request]) -> list[int]:
    """The number of servers side by side on the node of each arm; more than one if enough arms of the same shape are left."""
    lanes = [1] * len(requests)
    shapes: dict[tuple[str, int], list[int]] = {}
    for i, request in enumerate(requests):
        s = request.settings
        if (
            2 * s.arm.gpus <= s.hardware.gpus_per_node
            and not s.arm.has_parts
            and impossible(s.arm, [c for c, _, _ in request.points]) is None
        ):
            shapes.setdefault((s.hardware.id, s.tp.size), []).append(i)
    for members in shapes.values():
        s = requests[members[0]].settings
        n = s.hardware.gpus_per_node // s.tp.size
        full = len(members) // n * n
        alike = sorted(members, key=lambda i: sum(c for c, _, _ in requests[i].points))  # lanes of a node end at about the same time
        for i in alike[:full]:
            lanes[i] = n
    return lanes


def _unnamed(arm: Arm) -> Arm:
    """The arm without the name of its workload, because two workloads with the same values have the same points."""
    return dataclasses.replace(arm, workload=dataclasses.replace(arm.workload, id=""))


def _starts(
    request: _Request, lanes: int, campaign: CampaignSettings, largest: Mapping[str, int]
) -> tuple[list[ServerStart], list[LeftOut]]:
    """The server starts of an arm, and the impossible ones with their reasons."""
    s, asked = request.settings, sorted(request.points)
    reason = contradiction(s.arm)
    if reason is not None:
        return [], [LeftOut(s.arm.label, len(asked), reason)]
    concurrencies = sorted({c for c, _, _ in asked})
    starts, left_out = [], []
    for group in [concurrencies] if campaign.server_scope == "arm" else [[c] for c in concurrencies]:
        started = recipe.bound(s.arm, campaign.bind_concurrency or largest.get(_arm_id(s.arm)) or max(group), group)
        points = _points(s.arm, started, [axes for axes in asked if axes[0] in group], lanes)
        reason = unfit(s.arm, started)
        if reason is None:
            starts.append(ServerStart(started, points))
        else:
            left_out.append(LeftOut(s.arm.label, len(points), reason))
    return starts, left_out


def _points(arm: Arm, started: Recipe, axes: Sequence[tuple[int, int, int]], lanes: int) -> tuple[Point, ...]:
    assert started.binding is not None
    arm_id, keys = _arm_id(arm), point_keys(arm, started, axes, lanes=lanes)
    return tuple(Point(key, arm_id, c, repeat, seed, started.binding) for key, (c, seed, repeat) in zip(keys, axes, strict=True))


def _arm_id(arm: Arm) -> str:
    return digest_of(dataclasses.replace(arm, engine=dataclasses.replace(arm.engine, fault="")), 8)


def _node_job(s: ArmSettings, campaign: CampaignSettings, starts: Sequence[ServerStart], lanes: int) -> NodeJob:
    """The node job of these server starts. Concurrency rises, so that low points run before a full server fragments its cache."""
    gpus = s.hardware.gpus_per_node * s.arm.nodes / lanes  # idle ones are paid for, too
    usd_per_s = 0.0 if s.engine.simulated else gpus * price_of(campaign.price, s.hardware.id) / 3600
    accuracy, cluster = campaign.accuracy if campaign.accuracy.task else None, campaign.cluster
    seconds = _estimate_s(s.arm, starts, accuracy, 1.0)
    concurrencies = [p.concurrency for start in starts for p in start.points]
    return NodeJob(
        id=f"{s.hardware.id}-{_arm_id(s.arm)}",
        arm=s.arm,
        arm_id=_arm_id(s.arm),
        server_scope=campaign.server_scope,
        model_path=_model_path(cluster, s.checkpoint),
        image_dir=cluster.image_dir or "",
        sif_sha256=cluster.sif_sha256,
        cache_dir=cluster.cache_dir or "",
        accuracy=accuracy,
        accuracy_at=accuracy_at(concurrencies) if accuracy and campaign.server_scope == "arm" else (),
        telemetry_s=campaign.telemetry_s,
        stop_when=campaign.stop_when,
        stage_dir=(cluster.stage_dir or "") if campaign.stage == "local" and not s.engine.simulated else "",
        binds=cluster.binds,
        interface=(cluster.interface or "") if s.arm.nodes > 1 else "",
        starts=tuple(starts),
        estimate_s=seconds,
        estimate_usd=seconds * usd_per_s,
        lanes=lanes,
    )


def _estimate_s(arm: Arm, starts: Sequence[ServerStart], accuracy: Accuracy | None, pace: float) -> float:
    asked_s = accuracy.estimate_s if accuracy is not None else 0.0
    return JOB_OVERHEAD_S / arm.engine.time_scale + sum(server_start_estimate_s(arm, start, pace) + asked_s for start in starts)


def split(job: NodeJob, max_s: float | None) -> list[NodeJob]:
    """The job in as few ordered pieces as possible, each with an estimate of at most `max_s`. A point is never split.

    Each piece starts its own servers; bindings do not change. A point that takes longer than `max_s` is a piece by itself.
    """
    if max_s is None or job.estimate_s <= max_s:
        return [job]
    pieces: list[list[ServerStart]] = []
    for start in job.starts:
        for point in start.points:
            if not pieces or _estimate_s(job.arm, _with(pieces[-1], start, point), job.accuracy, job.pace) > max_s:
                pieces.append([])
            pieces[-1] = _with(pieces[-1], start, point)
    return [_piece(job, starts, i, len(pieces)) for i, starts in enumerate(pieces, start=1)]


def _with(starts: list[ServerStart], start: ServerStart, point: Point) -> list[ServerStart]:
    if starts and starts[-1].recipe == start.recipe:
        return [*starts[:-1], dataclasses.replace(starts[-1], points=(*starts[-1].points, point))]
    return [*starts, ServerStart(start.recipe, (point,))]


def _piece(job: NodeJob, starts: Sequence[ServerStart], number: int, of: int) -> NodeJob:
    return _of_starts(dataclasses.replace(job, id=f"{job.id}-{number}of{of}"), starts)


def _of_starts(job: NodeJob, starts: Sequence[ServerStart]) -> NodeJob:
    seconds = _estimate_s(job.arm, starts, job.accuracy, job.pace)
    usd = job.estimate_usd * seconds / job.estimate_s if job.estimate_s else 0.0
    return dataclasses.replace(job, starts=tuple(starts), estimate_s=seconds, estimate_usd=usd)


def _model_path(cluster: Cluster, checkpoint: Checkpoint) -> str:
    directory, repository = cluster.checkpoint_dir, checkpoint.repository
    return f"{directory.rstrip('/')}/{repository}" if directory else repository


def server_start_estimate_s(arm: Arm, start: ServerStart, pace: float) -> float:
    """Seconds for one server start and its points. `pace`: time that points took so far, divided by the roofline model's estimate."""
    return arm.engine.start_estimate_s + pace * sum(estimates_s(arm, start.recipe, [p.concurrency for p in start.points]))


def reestimated(job: NodeJob, start_estimate_s: float, pace: float) -> NodeJob:
    """The job with a new estimate for a server's start, and with `pace` as the factor on the roofline model's estimate of its points."""
    engine = dataclasses.replace(job.arm.engine, start_estimate_s=start_estimate_s)
    return _of_starts(dataclasses.replace(job, arm=dataclasses.replace(job.arm, engine=engine), pace=pace), job.starts)


def price_of(price: Price, hardware: str) -> float:
    """$ per GPU and hour. Raises SettingsError if the price set has no price for the hardware."""
    usd = price.usd_per_gpu_h.get(hardware)
    if usd is None:
        raise SettingsError(
            f"The price set {price.id!r} has no price for {hardware}.",
            next_step=f"add your price: price.usd_per_gpu_h.{hardware}=2.50",
        )
    return usd


def without(job: NodeJob, done: Collection[str]) -> NodeJob | None:
    """The job with only the points whose keys are not done; None if no points are left. Bindings stay as planned."""
    starts = []
    for start in job.starts:
        points = tuple(p for p in start.points if p.key not in done)
        if points:
            starts.append(dataclasses.replace(start, points=points))
    return _of_starts(job, starts) if starts else None


def accuracy_at(concurrencies: Sequence[int]) -> tuple[int, ...]:
    """The concurrencies at which an arm's accuracy is tested: its median and its highest."""
    rising = sorted(set(concurrencies))
    return tuple(sorted({rising[(len(rising) - 1) // 2], rising[-1]}))
