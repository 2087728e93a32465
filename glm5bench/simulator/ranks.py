"""The ranks of a simulated server that uses several nodes. As with a real one, all must meet before it starts, and none outlives another.

Rank 0 listens at --dist-init-addr and answers requests. The others connect to it and wait.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time

from .options import Options

MEET_S = 600.0
AGAIN_S = 0.1


def meet(o: Options) -> None:
    """Returns on rank 0 when all ranks are there. On other ranks it returns when rank 0 is gone. Ends the process if they do not meet."""
    if o.n_ranks == 1:
        return
    host, _, port = o.meeting.rpartition(":")
    print(f"Init torch distributed begin. rank {o.rank} of {o.n_ranks}", flush=True)
    if o.rank:
        _wait_for_the_first(host, int(port), o.rank)
    else:
        _gather(host, int(port), o.n_ranks)
    print("Init torch distributed ends.", flush=True)


def _gather(host: str, port: int, n_ranks: int) -> None:
    with socket.create_server((host, port)) as listening:
        listening.settimeout(MEET_S)
        try:
            others = [listening.accept()[0] for _ in range(n_ranks - 1)]
        except TimeoutError:
            _end("not all ranks came")
    for other in others:
        other.settimeout(None)
        threading.Thread(target=_watch, args=(other,), daemon=True).start()


def _watch(other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while other.recv(1):
            pass
    _end("another rank is gone (ncclRemoteError)")


def _wait_for_the_first(host: str, port: int, rank: int) -> None:
    deadline = time.monotonic() + MEET_S
    while True:
        try:
            first = socket.create_connection((host, port), timeout=MEET_S)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                _end(f"rank 0 does not answer: {error}")
            time.sleep(AGAIN_S)
    print(f"rank {rank} joined", flush=True)
    first.settimeout(None)
    with contextlib.suppress(OSError):
        while first.recv(1):
            pass
    _end("rank 0 is gone (ncclRemoteError)")


def _end(why: str) -> None:
    print(f"Scheduler hit an exception: RuntimeError: {why}", file=sys.stderr, flush=True)
    os._exit(1)
