"""What server starts and points of a campaign have taken so far, and node jobs whose estimates have learned from it.

Enters: the timing lines that its jobs left. Leaves: the same jobs with other estimates. An arm learns from its own starts and points, else
from those of its hardware, checkpoint and engine. No key and no figure depends on any of it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..directory import Campaign, read_lines
from ..plan import reestimated
from ..values.point import NodeJob, kind_of

LOWEST, HIGHEST = 0.2, 10.0  # a pace beyond them is no pace but an accident


@dataclass
class History:
    """Seconds of server starts, and the ratios of what points took to what was estimated; by arm, and by the arm's kind."""

    starts: dict[str, list[float]] = field(default_factory=dict)
    paces: dict[str, list[float]] = field(default_factory=dict)


def history(campaign: Campaign) -> History:
    """Of all jobs of the campaign so far; lines that a kill cut short are left out."""
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
    """The job with the estimates that its campaign's history gives; as it was where there is none."""
    start, pace = _median(h.starts, job), _median(h.paces, job)
    if start is None and pace is None:
        return job
    pace = job.pace if pace is None else min(HIGHEST, max(LOWEST, pace))
    return reestimated(job, job.arm.engine.start_estimate_s if start is None else start, pace)


def _median(told: Mapping[str, list[float]], job: NodeJob) -> float | None:
    own = told.get(job.arm_id) or told.get(kind_of(job.arm))
    return statistics.median(own) if own else None
