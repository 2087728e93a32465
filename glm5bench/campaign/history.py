"""Measured times of server starts and points of a campaign, and node jobs with estimates based on them.

Input: the timing lines that its jobs wrote. Output: the same jobs with new estimates. An arm uses its own starts and points if it has any,
otherwise those of its hardware, checkpoint and engine. Keys and results do not depend on the estimates.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..directory import Campaign, read_lines
from ..plan import reestimated
from ..values.point import NodeJob, kind_of

LOWEST, HIGHEST = 0.2, 10.0  # the pace is limited to this range, because a value outside it is an outlier


@dataclass
class History:
    """Seconds of server starts, and the ratio of measured to estimated time of points; by arm and by kind of arm."""

    starts: dict[str, list[float]] = field(default_factory=dict)
    paces: dict[str, list[float]] = field(default_factory=dict)


def history(campaign: Campaign) -> History:
    """The history of all jobs of the campaign so far. Incomplete lines of killed jobs are skipped."""
    found = History()
    for path in sorted(campaign.jobs.glob("*/timing.jsonl")):
        for line in read_lines(path):
            try:
                took, names = float(line["took_s"]), (str(line["arm"]), str(line["kind"]))
                value = took if line["what"] == "start" else took / float(line["estimate_s"])
            except (KeyError, TypeError, ValueError, ZeroDivisionError):
                continue
            for name in names:
                (found.starts if line["what"] == "start" else found.paces).setdefault(name, []).append(value)
    return found


def learned(job: NodeJob, h: History) -> NodeJob:
    """The job with estimates from the campaign's history, or unchanged if the history has no times for it."""
    start, pace = _median(h.starts, job), _median(h.paces, job)
    if start is None and pace is None:
        return job
    pace = job.pace if pace is None else min(HIGHEST, max(LOWEST, pace))
    return reestimated(job, job.arm.engine.start_estimate_s if start is None else start, pace)


def _median(told: Mapping[str, list[float]], job: NodeJob) -> float | None:
    own = told.get(job.arm_id) or told.get(kind_of(job.arm))
    return statistics.median(own) if own else None
