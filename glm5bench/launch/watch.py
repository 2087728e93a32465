"""A campaign watched until nothing of it runs: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..store.campaign import Campaign
from .status import Status, status

POLL_S = 0.5


def watch(campaign: Campaign) -> Status:
    """Returns the last status when no job is left."""
    console = Console(file=sys.stderr)
    return _live(campaign, console) if console.is_terminal else _plain(campaign)


def _plain(campaign: Campaign) -> Status:
    told: set[str] = set()
    while True:
        now = status(campaign)
        for point in now.points:
            if point.state in ("done", "failed", "invalid") and point.key not in told and (point.state == "done" or now.is_over):
                told.add(point.key)
                word = " (simulated)" if now.simulated else ""
                print(f"{point.state}{word}: {point.arm} concurrency {point.concurrency}", file=sys.stderr, flush=True)
        if now.is_over:
            return now
        time.sleep(POLL_S)


def _live(campaign: Campaign, console: Console) -> Status:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=False) as bars:
        points = bars.add_task("points", total=None)
        requests = bars.add_task("", total=None)
        while True:
            now = status(campaign)
            word = "simulated points" if now.simulated else "points"
            bars.update(points, description=word, total=len(now.points), completed=now.counts.get("done", 0))
            bars.update(requests, **_doing(now))
            if now.is_over:
                bars.update(requests, visible=False)
                return now
            time.sleep(POLL_S)


def _doing(now: Status) -> dict[str, Any]:
    job = now.jobs[0] if now.jobs else None
    if job is None:
        return {"description": "", "total": None, "completed": 0}
    arm = next((f"{p.arm} concurrency {p.concurrency}" for p in now.points if p.key == job.key), job.node_job)
    measuring = job.phase in ("warm-up", "measuring")
    return {
        "description": f"{job.phase}: {arm}",
        "total": job.requests if measuring else None,
        "completed": job.requests_done if measuring else 0,
    }
