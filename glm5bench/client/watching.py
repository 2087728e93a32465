"""Whether the client itself was stopped, or had too little of a core, while it measured."""

from __future__ import annotations

import resource

PAUSE_S = 0.1  # shortest stop of the job that is counted


LONG_PAUSE_S = 1.0  # the same if the kernel does not report the time spent waiting for a core


def wanted_cpu_s() -> float | None:
    """Seconds in which this thread ran or waited for a core since its start; None if the kernel does not report it.

    Source: /proc/thread-self/schedstat.
    """
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            ran, waited, _ = file.read().split()
            return (int(ran) + int(waited)) / 1e9
    except (OSError, ValueError):
        return None


def stopped_s(lag_s: float, wanted_before_s: float | None, wanted_after_s: float | None) -> float:
    """How much of a late wake-up was a stop of the whole job, not a wait for a core; 0 for less than PAUSE_S."""
    if wanted_before_s is None or wanted_after_s is None:
        return lag_s if lag_s > LONG_PAUSE_S else 0.0
    stopped = lag_s - (wanted_after_s - wanted_before_s)
    return stopped if stopped > PAUSE_S else 0.0


def cpu_s() -> float:
    """Processor time of this process, seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
