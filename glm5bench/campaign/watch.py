"""Shows the progress of a campaign until no job is left: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..directory import Campaign
from ..errors import printable
from .status import JobState, Status, status

POLL_S = 0.5  # between reads of the files; Slurm is asked at most every `poll_s` of the cluster
MAX_ROWS = 30


def watch(campaign: Campaign) -> Status:
    """The last status, returned when no job is left."""
    console = Console(file=sys.stderr)
    return _live(campaign, console) if console.is_terminal else _plain(campaign)


def _plain(campaign: Campaign) -> Status:
    told: set[str] = set()
    while True:
        now = status(campaign)
        for line in stuck(now):
            if line not in told:
                told.add(line)
                print(printable(line), file=sys.stderr, flush=True)
        for point in now.points:
            if point.state in ("done", "failed", "invalid") and point.key not in told and (point.state == "done" or now.is_over):
                told.add(point.key)
                word = " (simulated)" if now.simulated else ""
                repeat = f" repeat {point.repeat}" if point.repeat else ""
                print(f"{point.state}{word}: {point.arm} concurrency {point.concurrency}{repeat}", file=sys.stderr, flush=True)
        if now.is_over:
            return now
        time.sleep(_pause(now))


def _live(campaign: Campaign, console: Console) -> Status:
    with Live(console=console, auto_refresh=False) as live:
        while True:
            now = status(campaign)
            live.update(table(now), refresh=True)
            if now.is_over:
                return now
            time.sleep(_pause(now))


def _pause(now: Status) -> float:
    """Seconds until the next read. Large campaigns are read less often: reading 100,000 points takes seconds."""
    return POLL_S if len(now.points) < 1000 else 10 * POLL_S


def table(now: Status) -> Group:
    """Points by state, and a row for each running job: node, phase, progress, rate, time left."""
    word = " (simulated)" if now.simulated else ""
    counts = ", ".join(f"{n} {state}" for state, n in now.counts.items())
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("job", "node", "node job", "phase", "finished", "requests/s", "time left"):
        rows.add_column(name, justify="right" if name in ("requests/s", "time left") else "left", no_wrap=name != "phase")
    running = [job for job in now.jobs if job.state == "running"]
    for job in running[:MAX_ROWS]:
        rows.add_row(*(Text(printable(cell)) for cell in _row(job)))  # text, because markup is interpreted
    waiting = Counter(f"{job.state}{f' ({job.slurm})' if job.slurm else ''}" for job in now.jobs if job.state != "running")
    more = [f"{len(running) - MAX_ROWS} more running jobs"] if len(running) > MAX_ROWS else []
    more += [f"{n} jobs {what}" for what, n in waiting.items()]
    more += [f"{now.silence or 'Slurm does not answer'}. This table is from files."] if now.slurm_answers is False else []
    more += stuck(now)
    return Group(Text(f"{now.name}{word}: {counts}"), *([rows] if running else []), *(Text(printable(line)) for line in more))


def stuck(now: Status) -> list[str]:
    """A line for each job that Slurm will not start by itself, with the command that helps. Tasks of an array share a line."""
    of: dict[tuple[str, str], list[str]] = {}
    for job in now.jobs:
        if job.state == "queued" and job.said.startswith("Slurm does not start"):
            of.setdefault((job.slurm, job.said.replace(job.job_id, job.job_id.partition("_")[0])), []).append(job.job_id)
    return [f"job {', '.join(sorted({i.partition('_')[0] for i in ids}))} waits ({why}). {said}" for (why, said), ids in of.items()]


def _row(job: JobState) -> tuple[str, ...]:
    phase = (
        f"measuring {job.points_done + 1} of {job.points}"
        if job.phase == "measuring"
        else f"{job.phase}: {job.doing}"
        if job.doing
        else job.phase
    )
    done = f"{job.requests_done}/{job.requests} requests" if job.phase == "measuring" else f"{job.points_done} of {job.points}"
    silent = f", no heartbeat for {job.beat_age_s:.0f} s" if job.beat_age_s > 60 else ""
    rate = f"{job.rate_requests_s:.2f}" if job.rate_requests_s else ""
    left = f"{job.left_s / 60:.0f} min" if job.left_s >= 120 else f"{job.left_s:.0f} s" if job.left_s >= 0 else ""
    return (job.job_id, job.node, job.node_job, phase + silent, done, rate, left)
