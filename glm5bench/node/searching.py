"""The search of one arm in a campaign's directory: reads its points, decides, and records each decision before its point starts.

Enters: a node job with a search, and the campaign's directory. Leaves: search/<arm>.jsonl, one line per decision. A search that was
interrupted continues at its last decision; `verified` refuses it if the same points would now lead to another choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

from ..analysis.rows import Row
from ..analysis.saturation import FLAT, saturated_at
from ..archive.columns import Summaries, listed
from ..archive.summary import rows
from ..archive.survey import survey
from ..directory import LOST_SEARCH, Campaign
from ..errors import FileError, UsageError
from ..search.curves import Seen
from ..search.decision import MODEL, ArmState, Choice, decide, state_of
from ..search.slo import Crossing
from ..values.plain import digest_of, finite
from ..values.point import NodeJob, Point, ServerStart, point_keys
from ..values.search import ArmPlan, ArmSearch, Question, has_ended

MOST_CANDIDATES = 12  # kept in the record of a decision, best first
SUCCESS = ("reached", "arm_reached", "dropped")


@dataclass(frozen=True)
class Known:
    """The points and decisions of `question`. `lines`: by arm; `rows`, `latency` (seconds by figure): by key, of measured points."""

    question: Question
    lines: Mapping[str, Sequence[dict[str, Any]]]
    rows: Mapping[str, Row]
    latency: Mapping[str, Mapping[str, float]]

    def keys(self, arm: ArmPlan) -> list[str]:
        """The keys of the arm's planned and decided points, in order."""
        return list(dict.fromkeys([*arm.keys, *(line["key"] for line in self.lines[arm.id] if line["key"])]))

    def has_ended(self, arm: ArmPlan) -> bool:
        """Whether the arm's last decision was to stop."""
        return has_ended(self.lines[arm.id], self.question)

    def pending(self, arm: ArmPlan) -> dict[str, Any] | None:
        """The last decision, if its point is not measured."""
        last = self.lines[arm.id][-1] if self.lines[arm.id] else None
        return last if last is not None and last["key"] and last["key"] not in self.rows else None

    def states(self, search: ArmSearch, running: str = "") -> list[ArmState]:
        """The states of all arms. `running`: the server start of this job's arm."""
        return [
            replace(
                state_of(arm),
                seen=tuple(seen_of(self.rows[key], self.latency.get(key)) for key in self.keys(arm) if key in self.rows),
                running=running if arm.id == search.own else "",
                has_ended=self.has_ended(arm),
                ended_as=str(self.lines[arm.id][-1].get("code")) if self.has_ended(arm) else "",
            )
            for arm in search.arms
        ]


def seen_of(row: Row, latency: Mapping[str, float] | None = None) -> Seen:
    """A measured point as the search takes it."""
    return Seen(row.concurrency, row.total_tput_per_gpu_tok_s, row.interactivity_tok_s_user, row.server_start, latency or {})


def known(campaign: Campaign, search: ArmSearch) -> Known:
    """What the directory holds of a question. Raises FileError for a damaged record of decisions."""
    lines = {arm.id: campaign.decisions(arm.id) for arm in search.arms}
    for arm_id, told in lines.items():
        if any(not isinstance(line, dict) or not {"key", "action", "concurrency", "repeat", "question"} <= line.keys() for line in told):
            raise FileError("The record of the search is damaged.", path=str(campaign.search / f"{arm_id}.jsonl"), next_step=LOST_SEARCH)
    without_rows = Known(search.question, lines, {}, {})
    found, latency = {}, {}
    for key, columns in _summaries(campaign, [key for arm in search.arms for key in without_rows.keys(arm)]):
        found[key] = rows(columns, key)[0]
        latency[key] = {limit.figure: float(listed(columns[f"{limit.figure}_s"])[0]) for limit in search.question.limits}
    return Known(search.question, lines, found, latency)


def rows_of(campaign: Campaign, keys: Sequence[str]) -> dict[str, Row]:
    """The measured points among these keys."""
    return {key: rows(columns, key)[0] for key, columns in _summaries(campaign, keys)}


def _summaries(campaign: Campaign, keys: Sequence[str]) -> Iterator[tuple[str, Summaries]]:
    """The summary of each measured point."""
    for key, attempts in campaign.attempts(keys).items():
        done = next((a for a in attempts if a.is_done), None)
        if done is not None:
            yield key, survey(campaign.point_file(key, done.attempt)).summaries


def advance(campaign: Campaign, job: NodeJob, after: str = "") -> tuple[Point, bool] | None:
    """The next point of the job's arm, and whether it needs a new server start; None if its search has ended.

    A new decision is recorded first. `after`: the key of the point that was last measured on the server that is running.
    Raises UsageError if this version would not repeat an earlier decision.
    """
    assert job.search is not None
    now = known(campaign, job.search)
    own = own_arm(job.search)
    if now.has_ended(own):
        return None
    pending = now.pending(own)
    if pending is not None:
        if pending["question"] == digest_of(job.search.question):
            verified(job.search, now, pending)
        return _point(job, pending["concurrency"], pending["repeat"]), bool(pending["is_new_start"])
    running = now.rows[after].server_start if after in now.rows else ""
    choice = decide(job.search.question, now.states(job.search, running), own.id)
    repeat = _repeat(job, own, now, choice)
    point = _point(job, choice.concurrency, repeat) if choice.action == "point" else None
    campaign.append_decision(own.id, _record(job.search, now, choice, running, point))
    return (point, choice.is_new_start) if point is not None else None


def is_pending(campaign: Campaign, job: NodeJob) -> bool:
    """Whether the last decision of the job's arm was a point that is not measured."""
    assert job.search is not None
    return known(campaign, job.search).pending(own_arm(job.search)) is not None


def skip_saturated(campaign: Campaign, job: NodeJob, start: ServerStart, left: Sequence[Point]) -> list[str]:
    """The keys of the points that a saturated server need not measure. They are recorded first."""
    measured = rows_of(campaign, [p.key for p in start.points])
    top = saturated_at(list(measured.values()))
    skipped = [p for p in left if top is not None and p.concurrency > top.concurrency]
    if top is None or not skipped:
        return []
    concurrencies = sorted({p.concurrency for p in skipped})
    line = {
        "action": "stop",
        "code": "saturated",
        "why": f"concurrency {top.concurrency} has less than {FLAT:g} times the throughput of a lower one",
        "key": "",
        "concurrency": top.concurrency,
        "skipped": [p.key for p in skipped],
        "skipped_concurrencies": concurrencies,
        "used": sorted(measured),
        "decided_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    campaign.append_decision(job.id, line)
    print(f"skipped: concurrency {', '.join(map(str, concurrencies))}: {line['why']}", flush=True)
    return [p.key for p in skipped]


def own_arm(search: ArmSearch) -> ArmPlan:
    """The arm of this job."""
    return next(arm for arm in search.arms if arm.id == search.own)


def verified(search: ArmSearch, now: Known, line: Mapping[str, Any]) -> None:
    """Raises UsageError unless the points that this decision used still lead to the same choice."""
    used = {key: now.rows[key] for key in line.get("used", ()) if key in now.rows}
    lines = {arm_id: told[: line["lines"].get(arm_id, 0)] for arm_id, told in now.lines.items()}
    then = Known(search.question, lines, used, now.latency)
    choice = decide(search.question, then.states(search, line["running"]), search.own)
    same = (choice.action, choice.concurrency, choice.is_new_start) == (line["action"], line["concurrency"], line["is_new_start"])
    if len(used) == len(line["used"]) and same:
        return
    what = "points that it used have changed" if len(used) != len(line["used"]) else f"this version would choose {choice.concurrency}"
    raise UsageError(
        f"Decision {line['number']} of this search, concurrency {line['concurrency']}, cannot be repeated: {what}.",
        where=search.own,
        next_step="continue with the glm5bench version of plan.json, or start another campaign: name=...",
    )


def _repeat(job: NodeJob, own: ArmPlan, now: Known, choice: Choice) -> int:
    """The repeat number of the chosen point: a new one for a new start, and never one that this concurrency already has."""
    taken = {(line["concurrency"], line["repeat"]) for line in now.lines[own.id] if line["key"]}
    taken |= {(c, 0) for c, key in zip(own.planned, own.keys, strict=True) if choice.code != "planned" or key in now.rows}
    latest = max((repeat for _, repeat in taken), default=0)
    repeat = latest + 1 if choice.is_new_start and choice.code != "planned" else latest if choice.code != "planned" else 0
    while (choice.concurrency, repeat) in taken:
        repeat += 1
    return repeat


def _point(job: NodeJob, concurrency: int, repeat: int) -> Point:
    start, first = job.starts[0], job.starts[0].points[0]
    (key,) = point_keys(job.arm, start.recipe, [(concurrency, first.seed, repeat)], lanes=job.lanes)
    return Point(key, first.arm, concurrency, repeat, first.seed, first.binding)


def _record(search: ArmSearch, now: Known, choice: Choice, running: str, point: Point | None) -> dict[str, Any]:
    best = sorted(choice.candidates, key=lambda c: -c.score)[:MOST_CANDIDATES]
    own, q = own_arm(search), search.question
    return {
        "number": len(now.lines[search.own]) + 1,
        "decided_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "arm": search.own,
        "question": digest_of(q),
        "action": choice.action,
        "code": choice.code,
        "why": choice.why,
        "key": point.key if point is not None else "",
        "concurrency": choice.concurrency,
        "repeat": point.repeat if point is not None else 0,
        "is_new_start": choice.is_new_start,
        "running": running,
        "own": [key for key in now.keys(own) if key in now.rows],
        "used": sorted(now.rows),
        "points_digest": digest_of({key: row.digest for key, row in now.rows.items()}),
        "lines": {arm_id: len(told) for arm_id, told in now.lines.items()},
        "claim": finite(choice.claim.value) if choice.claim is not None else None,
        "series_claims": {s: finite(c) for s, c in choice.claim.series.items()} if choice.claim is not None else {},
        "crossing": _told(choice.crossing) if choice.crossing is not None else None,
        "model": MODEL,
        "prior_digest": digest_of(own.prior),
        "spread": q.spread,
        "spread_source": q.spread_source,
        "spread_used": choice.claim.spread if choice.claim is not None else q.spread,
        "candidates": [asdict(c) | {"score": c.score} for c in best],
    }


def _told(crossing: Crossing) -> dict[str, Any]:
    limits = {name: finite(getattr(crossing, name)) for name in ("estimate", "low", "high")}
    return {**asdict(crossing), **limits}
