"""Cores of the node that only the load client uses while points are measured.

A client that waits for a core reads several chunks at once, and their separate times are lost. On a node with many cores, the server
does not get the last few cores, and the client runs on these. On a small machine no cores are reserved.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

FROM = 32  # cores of the job: with fewer, none are reserved
SHARE = 32  # one core in this many is reserved
MOST = 8
PRIORITY = -10  # of the client, if this user may raise it


def reserved(cores: Sequence[int]) -> tuple[int, ...]:
    """The job's cores that are reserved for the client; none on a small machine."""
    if len(cores) < FROM:
        return ()
    return tuple(sorted(cores)[-min(MOST, max(2, len(cores) // SHARE)) :])


def of_the_job() -> tuple[int, ...]:
    """The cores that this process may use."""
    return tuple(sorted(os.sched_getaffinity(0)))


@contextlib.contextmanager
def measuring(own: Sequence[int]) -> Iterator[None]:
    """Runs this process, and those it starts, on these cores and with a raised priority, as far as the system allows it."""
    cores, nice = os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(OSError):
        if own:
            os.sched_setaffinity(0, own)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, min(nice, PRIORITY))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, cores)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, nice)
