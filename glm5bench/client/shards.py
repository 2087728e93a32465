"""One run over as many processes as it needs, on one clock.

A process uses one core. If there are more users, or more chunks a second, than one core can handle, several processes share them. In a
closed loop all take the next conversation from one file with a shared position; in an open loop each has every nth conversation. They
start at the same instant of the machine's monotonic clock and parse their own answers. The results are merged in the order of encoding.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.metrics import Requests, stated
from ..errors import ClientError, ServerError
from .load import WATCH_S, Progress, run_load
from .results import COLUMNS, OF_ANSWERS, Health, Result, results
from .traffic import Prepared, Target, Traffic

USERS_A_PROCESS = 1024
SHARE_OF_A_CORE = 0.6  # if the warm-up uses more, the measurement gets another process
LEAD_S = 0.3  # from the message with the start time until the start
READY_S = 120.0
PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])


def processes_needed(concurrency: int, cpu_share: float, cores: int) -> int:
    """How many processes a run needs, from its users and the load of one process in the warm-up; at most one per core."""
    wanted = max(math.ceil(concurrency / USERS_A_PROCESS), math.ceil(cpu_share / SHARE_OF_A_CORE))
    return max(1, min(wanted, cores, concurrency))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measured(
    target: Target, prepared: Prepared, traffic: Traffic, progress: Progress, *, processes: int | None = None, cpu_share: float = 0.0
) -> Result:
    """The result of a run over `processes` processes; None: as many as it needs."""
    n = processes or processes_needed(traffic.concurrency, cpu_share, _cores())
    n = min(n, traffic.concurrency, len(prepared.sessions))
    if n <= 1 or prepared.spool.is_full:  # other processes cannot read what is in memory
        return results(run_load(target, prepared, traffic, progress))
    with tempfile.TemporaryDirectory(prefix="glm5bench-shards-") as folder, tempfile.TemporaryFile() as order:
        order.write(np.arange(len(prepared.sessions), dtype="<i8").tobytes())
        order.seek(0)
        told = order_of(target, prepared, traffic, Path(folder), order.fileno())
        with contextlib.ExitStack() as stack:
            shards = [stack.enter_context(Shard(told, i, n)) for i in range(n)]
            return _run(shards, target, progress, len(prepared.traces))


def order_of(target: Target, prepared: Prepared, traffic: Traffic, folder: Path, order_fd: int) -> dict[str, Any]:
    """The instructions for every shard, sent to its standard input so that the server's key is in no argument."""
    traces = prepared.traces
    np.savez(
        folder / "traces.npz",
        offset=[t.request.offset for t in traces],
        length=[t.request.length for t in traces],
        prompt_tokens=[t.prompt_tokens for t in traces],
        asked_tokens=[t.asked_tokens for t in traces],
        pause_s=np.array([t.pause_s for t in traces], dtype=np.float64),
        sessions=[[s.start, s.stop] for s in prepared.sessions],
    )
    return {
        "target": {"base_url": target.base_url, "path": target.path, "headers": dict(target.headers), "stall_s": target.stall_s},
        "traffic": asdict(traffic),
        "folder": str(folder),
        "spool_fd": prepared.spool.fd,
        "order_fd": order_fd,
    }


class Shard:
    """A child process as its parent sees it. It writes lines of JSON, and ends when its standard input ends."""

    def __init__(self, told: dict[str, Any], i: int, n: int) -> None:
        self._told, self._i, self._n = told, i, n
        self.done, self.words, self.failed = 0, set[str](), ""
        self._rest = b""

    def __enter__(self) -> Shard:
        path = os.pathsep.join(filter(None, [PACKAGE_ROOT, os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "glm5bench.client.shard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self._told["spool_fd"], self._told["order_fd"]),
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # only the parent receives Ctrl-C
        )
        share = len(range(self._i, self._told["traffic"]["concurrency"], self._n))
        self.tell(json.dumps({**self._told, "concurrency": share, "shard": self._i, "shards": self._n}))
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def fileno(self) -> int:
        """The descriptor of its standard output, for select."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def tell(self, line: str) -> None:
        """Sends it one line."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `hear` reports that it ended
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def hear(self) -> None:
        """Reads its messages. Raises ClientError if it ended unexpectedly."""
        data = os.read(self.fileno(), 65536)
        if not data and "ended" not in self.words:
            raise ClientError("A process of the load client ended unexpectedly.", next_step="see its error above, and report it")
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            said = json.loads(line)
            self.done = said.get("done", self.done)
            self.failed = said.get("failed", self.failed)
            self.words.add(said.get("word", ""))

    def columns(self) -> dict[str, Any]:
        """The columns that it has written."""
        with np.load(Path(self._told["folder"]) / f"{self._i}.npz", allow_pickle=False) as file:
            return {name: file[name] for name in file.files}


def _run(shards: Sequence[Shard], target: Target, progress: Progress, n_requests: int) -> Result:
    _await(shards, "ready", target)
    start_ns = time.monotonic_ns() + round(LEAD_S * 1e9)
    for shard in shards:
        shard.tell(str(start_ns))
    ended_by: Exception | None = None
    while waiting := [s for s in shards if "ended" not in s.words]:
        _hear(waiting)
        progress(sum(s.done for s in shards), n_requests)
        if ended_by is None:
            ended_by = _reason(shards, target)
            for shard in shards if ended_by is not None else ():
                shard.tell("stop")
    ended_by = ended_by or _reason(shards, target)
    parts = [shard.columns() for shard in shards]
    return Result(_put_together(parts), _health_of_all([json.loads(p["health"].tobytes()) for p in parts]), start_ns, ended_by)


def _await(shards: Sequence[Shard], word: str, target: Target) -> None:
    deadline = time.monotonic() + READY_S
    while waiting := [s for s in shards if word not in s.words]:
        target.check()
        _hear(waiting)
        if time.monotonic() > deadline:
            raise ClientError(f"A process of the load client was not ready within {READY_S:g} s.")


def _hear(waiting: Sequence[Shard]) -> None:
    for shard in select.select(waiting, [], [], WATCH_S)[0]:
        shard.hear()


def _reason(shards: Sequence[Shard], target: Target) -> Exception | None:
    """Why the run must end: the failure that a shard reports, or the error of the target's check. None if it may continue."""
    said = next((s.failed for s in shards if s.failed), "")
    if said:
        class_, _, message = said.partition(": ")
        return ServerError(message, failure_class=class_, where=target.base_url)
    try:
        target.check()
    except Exception as error:  # any error ends the run, and is passed on
        return error
    return None


def _put_together(parts: Sequence[dict[str, Any]]) -> Requests:
    """One table of the parts' rows, in the order in which the requests were encoded."""
    number = np.concatenate([p["number"] for p in parts])
    order = np.argsort(number, kind="stable")
    errors = [e for p in parts for e in json.loads(p["error"].tobytes())]
    counts = np.concatenate([np.diff(p["chunk_offsets"]) for p in parts])
    begins = np.concatenate([[0], np.cumsum(counts)])[:-1]
    offsets = np.concatenate([[0], np.cumsum(counts[order])]).astype(np.int64)
    taken = np.repeat(begins[order] - offsets[:-1], counts[order]) + np.arange(offsets[-1])
    columns: dict[str, Any] = {name: np.concatenate([p[name] for p in parts])[order] for name in COLUMNS if name != "verify_steps"}
    may_lack = ("verify_steps", *OF_ANSWERS)
    optional: dict[str, Any] = {name: stated(np.concatenate([p[name] for p in parts])[order]) for name in may_lack}
    return Requests(
        **columns,
        **optional,
        error=tuple(errors[i] for i in order),
        chunk_ns=np.concatenate([p["chunk_ns"] for p in parts])[taken],
        chunk_tokens=np.concatenate([p["chunk_tokens"] for p in parts])[taken],
        chunk_offsets=offsets,
    )


def _health_of_all(told: Sequence[dict[str, Any]]) -> Health:
    """The combined health of the processes: maxima, sums, and means of shares and medians."""
    worst = ("cpu_share", "loop_lag_p99_s", "late_send_max_s", "is_spool_full", "paused_s")
    total = ("processes", "cpu_s", "late_sends", "connects", "resends")
    mean = ("kernel_stamp_share", "shared_read_share")
    lags = [(t["read_lag_p50_s"], t["read_lag_p99_s"]) for t in told if t["read_lag_p99_s"] is not None]  # a process may have read nothing
    return Health(
        event_loop=told[0]["event_loop"],
        read_lag_p50_s=sum(p50 for p50, _ in lags) / len(lags) if lags else None,
        read_lag_p99_s=max(p99 for _, p99 in lags) if lags else None,
        clock_steps_ns=tuple(told[0]["clock_steps_ns"]),
        **{name: max(t[name] for t in told) for name in worst},
        **{name: sum(t[name] for t in told) for name in total},
        **{name: sum(t[name] for t in told) / len(told) for name in mean},
    )
