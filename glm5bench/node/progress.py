"""The progress of a node job, and whether it may continue: its deadline, and the signals that end it.

Enters: the result of each point, a deadline, signals. Leaves: whether new work may begin, and why not. It measures nothing.
"""

from __future__ import annotations

import math
import signal
import time
from dataclasses import dataclass, field
from types import FrameType

SIGNAL_EARLY_S = 90.0  # Slurm sends the signal of --signal up to a minute early
SIGNALS_APART_S = 2.0  # between the times at which the processes of a job receive a signal
POLL_S = 0.05


@dataclass
class Progress:
    """The results of the job so far, and its deadline. `why` it stopped: a signal or time_limit; `fault`: class of the last failure."""

    deadline_utc_s: float = math.inf
    measured: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    stop: bool = False
    is_unlocked: bool = False  # nothing keeps other local campaigns of this user from running at the same time
    why: str = ""
    fault: str = ""
    estimated_s: float = 0.0  # estimate for the points that it has measured
    took_s: float = 0.0

    @property
    def pace(self) -> float:
        """The measured time divided by the estimated time of this job's points; 1 before the first."""
        return self.took_s / self.estimated_s if self.estimated_s else 1.0

    def has_time_for(self, estimate_s: float) -> bool:
        """Whether work with this estimate would end before the deadline. Always True until a point is measured."""
        return not self.measured or time.time() + estimate_s * self.pace < self.deadline_utc_s

    def stopped(self, why: str) -> None:
        """Prevents new work. Keeps the first reason."""
        self.why, self.stop = self.why or why, True

    @property
    def last_word(self) -> str:
        """Why points are left: the reason for stopping, the class of the last failure, or `lost`."""
        return self.why or self.fault or "lost"

    def is_stopped(self) -> bool:
        """Whether the job must stop now, because of a signal or because its time is over."""
        if time.time() >= self.deadline_utc_s:
            self.stopped("time_limit")
        return self.stop

    def is_soon_stopped(self) -> bool:
        """The same, but waits first for a signal that may already have reached another process of the job."""
        until = time.monotonic() + SIGNALS_APART_S
        while not self.is_stopped() and time.monotonic() < until:
            time.sleep(POLL_S)
        return self.stop


def catch_signals(progress: Progress) -> None:
    """Makes signals that request an end set a flag, which is checked several times a second. Call it after submitit sets its handlers.

    Ignored signals stay ignored, so that Ctrl-C in the terminal that started a local job does not stop the job.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        is_late = time.time() > progress.deadline_utc_s - SIGNAL_EARLY_S  # Slurm's warning of the time limit, not of a preemption
        progress.stopped("time_limit" if is_late and signum == signal.SIGUSR2 else signal.Signals(signum).name)

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, stop)
