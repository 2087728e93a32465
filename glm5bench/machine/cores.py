"""Cores of the node that only the load client uses while points are measured.

A client that waits for a core reads several chunks at once, and their times are lost. On a node with many cores the server is started
without the last few, and the client measures on these. On a small machine nothing is reserved.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

FROM = 32  # cores of the job: on fewer none is taken from the server
SHARE = 32  # one of so many is reserved
MOST = 8
PRIORITY = -10  # of the client, where this user may raise it


def reserved(cores: Sequence[int]) -> tuple[int, ...]:
    """Which of the job's cores the client gets; none on a small machine."""
    if len(cores) < FROM:
        return ()
    return tuple(sorted(cores)[-min(MOST, max(2, len(cores) // SHARE)) :])


def of_the_job() -> tuple[int, ...]:
    """The cores that this process may use."""
    return tuple(sorted(os.sched_getaffinity(0)))


@contextlib.contextmanager
def measuring(own: Sequence[int]) -> Iterator[None]:
    """The process, and what it starts meanwhile, on these cores and with a raised priority, as far as that is allowed."""
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
