"""What a node job has come to, and whether it is to go on: its deadline, and the signals that end it.

Enters: what each point came to, a deadline, signals. Leaves: whether something new may still begin, and why not. It measures nothing.
"""

from __future__ import annotations

import math
import signal
import time
from dataclasses import dataclass, field
from types import FrameType

SIGNAL_EARLY_S = 90.0  # Slurm sends the signal of --signal up to a minute early
SIGNALS_APART_S = 2.0  # that the processes of a job hear of its end
POLL_S = 0.05


@dataclass
class Progress:
    """What the job has come to, and until when it may go on. `why` it stopped: a signal or time_limit; `fault`: the class of the last."""

    deadline_utc_s: float = math.inf
    measured: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    stop: bool = False
    why: str = ""
    fault: str = ""
    estimated_s: float = 0.0  # of what it has measured
    took_s: float = 0.0

    @property
    def pace(self) -> float:
        """How long points take against their estimates, from those of this job."""
        return self.took_s / self.estimated_s if self.estimated_s else 1.0

    def has_time_for(self, estimate_s: float) -> bool:
        """Whether something of this estimate would end before the deadline. The first one of a job is always tried."""
        return not self.measured or time.time() + estimate_s * self.pace < self.deadline_utc_s

    def stopped(self, why: str) -> None:
        """From now on nothing is begun; the first reason stands."""
        self.why, self.stop = self.why or why, True

    @property
    def last_word(self) -> str:
        """Why it left what it left."""
        return self.why or self.fault or "lost"

    def is_stopped(self) -> bool:
        """Whether the job is to end now: it was told to, or its time is over."""
        if time.time() >= self.deadline_utc_s:
            self.stopped("time_limit")
        return self.stop

    def is_soon_stopped(self) -> bool:
        """The same, once a signal that has reached another process of the job has had time to come here."""
        until = time.monotonic() + SIGNALS_APART_S
        while not self.is_stopped() and time.monotonic() < until:
            time.sleep(POLL_S)
        return self.stop


def catch_signals(progress: Progress) -> None:
    """From here on a request to end is a flag, looked at several times a second. After submitit's own handlers.

    A signal that is ignored stays so: a local job does not hear the Ctrl-C of the terminal that it was started from.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        is_late = time.time() > progress.deadline_utc_s - SIGNAL_EARLY_S  # Slurm's warning of the time limit, not of a preemption
        progress.stopped("time_limit" if is_late and signum == signal.SIGUSR2 else signal.Signals(signum).name)

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, stop)
