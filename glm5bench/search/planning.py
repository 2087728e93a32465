"""The planned design of a search, and the search that each node job carries.

Input: the settings of an arm, or the jobs of a plan. Output: ArmPlans, and jobs with their searches. Pure: no file, no clock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from .. import recipe
from ..errors import SettingsError
from ..prediction import refuse_unpredictable
from ..values.plain import digest_of
from ..values.point import Arm, NodeJob
from ..values.search import ArmPlan, ArmSearch, Prior, Question
from ..values.settings import ArmSettings, CampaignSettings
from .decision import decide, state_of
from .prior import candidates, planned, prior_of
from .slo import crossing, next_probe

ROOM = 1.5  # how far above the planned points, or the predicted crossing, a search may go


def arm_plan(s: ArmSettings, campaign: CampaignSettings, question: Question) -> ArmPlan:
    """The prediction of an arm and its planned concurrencies; id and keys are empty. Raises SettingsError if no search is possible."""
    if campaign.server_scope != "arm":
        raise SettingsError("A search needs one server for each arm.", where="server_scope=point", next_step="remove server_scope=point")
    if s.repeat != (0,) or len(s.seed) > 1:
        axis = "repeat" if s.repeat != (0,) else "seed"
        raise SettingsError("A search chooses its own repeats, and uses one seed.", where=f"{axis}=", next_step=f"remove {axis}=")
    if campaign.stop_when is not None:
        raise SettingsError("A search decides itself when it stops.", where="stop_when", next_step="remove stop_when")
    refuse_unpredictable(s.workload)
    low, high = campaign.search.candidates
    high = min(high, campaign.bind_concurrency or high)
    if low >= high:
        step = "a higher bind_concurrency, or a lower search.candidates"
        raise SettingsError(f"No concurrency from {low} to {high} is left to choose.", where="search.candidates", next_step=step)
    among = candidates(low, high)
    figures = [limit.figure for limit in question.limits]
    prior = prior_of(s.arm, recipe.bound(s.arm, among[-1], among), among, figures)
    if question.limits:
        largest = high if campaign.bind_concurrency else _up_to(question, prior)
        among = candidates(low, largest)
        prior = prior_of(s.arm, recipe.bound(s.arm, largest, among), among, figures)
        chosen: tuple[int, ...] = (next_probe(question, prior, (), "").concurrency,)
    else:
        chosen = planned(prior, question.low, question.high)
        largest = highest(prior, chosen)
    return ArmPlan("", s.arm.label, series_of(s.arm), prior, chosen, largest, ())


def with_goodput(s: ArmSettings, question: Question) -> ArmSettings:
    """The settings, with the limits of the search as those of a good request unless the user has set some. Goodput is in no key."""
    limits = {limit.figure.partition("_")[0]: limit for limit in question.limits}
    if not limits or s.workload.goodput:
        return s
    goodput = ",".join(f"{name}<={limit.text.partition('<=')[2]}" for name, limit in limits.items())
    return replace(s, workload=replace(s.workload, goodput=goodput))


def _up_to(question: Question, prior: Prior) -> int:
    """The highest concurrency that a search for limits may probe: some way above the predicted crossing."""
    wanted = ROOM * max(prior.concurrency[0], min(crossing(question, prior, ()).estimate, prior.concurrency[-1]))
    return _from(prior, max(wanted, prior.concurrency[0] + 1))


def highest(prior: Prior, chosen: Sequence[int]) -> int:
    """The highest concurrency that a search may choose after these planned ones, and that flags are bound to."""
    return _from(prior, ROOM * max(chosen))


def _from(prior: Prior, concurrency: float) -> int:
    """The lowest candidate that is at least this concurrency, or the highest one."""
    return next((c for c in prior.concurrency if c >= concurrency), prior.concurrency[-1])


def with_searches(
    jobs: Sequence[NodeJob], known: Mapping[str, ArmPlan], question: Question
) -> tuple[list[NodeJob], list[tuple[NodeJob, str]]]:
    """The jobs with their searches, and the jobs that are dropped with the reason. `known`: by arm id.

    An arm is dropped if, by prediction, it cannot be better than the other arms of its series anywhere in the band.
    """
    named = _short({known[job.arm_id].series for job in jobs})
    arms = {
        job.id: replace(
            known[job.arm_id],
            id=job.id,
            series=named[known[job.arm_id].series],
            keys=tuple(p.key for p in job.points),
            nodes=job.arm.nodes / job.lanes,
        )
        for job in jobs
    }
    states = {arm.id: state_of(arm) for arm in arms.values()}
    dropped = {}
    for job_id in arms:
        choice = decide(question, [s for s in states.values() if s.id not in dropped], job_id)
        if choice.code == "dropped":
            dropped[job_id] = f"predicted: {choice.why}"
    kept = tuple(arm for arm in arms.values() if arm.id not in dropped)
    found = [replace(job, search=ArmSearch(question, job.id, kept, job.estimate_s)) for job in jobs if job.id not in dropped]
    return found, [(job, dropped[job.id]) for job in jobs if job.id in dropped]


def _short(series: Collection[str]) -> dict[str, str]:
    """The names of series without the digest at their end, where they are unique without it."""
    plain = {name: name.rpartition(" ")[0] for name in series}
    return {name: short if list(plain.values()).count(short) == 1 else name for name, short in plain.items()}


def series_of(arm: Arm) -> str:
    """A name shared by the arms whose points form one frontier: those that differ only in TP."""
    same = digest_of(replace(arm, tp=0, workload=replace(arm.workload, id="")), 6)
    return f"{arm.hardware.id} {arm.engine.id} {arm.checkpoint.precision} {arm.speculative.id} {same}"
