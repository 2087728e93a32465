"""One of several processes that share a run: it reads its instructions from standard input and writes its progress to standard output.

Enters: one line of JSON (which contains the server's key, so that no argument does), the start time, possibly a request to stop. Leaves:
an .npz of columns, also for a run that was ended early. The process ends when its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ClientError, ServerError
from .load import Load, Run, run_quietly
from .results import COLUMNS, OF_ANSWERS, results
from .spool import Place, Spool
from .stream import UNKNOWN
from .traffic import Prepared, Target, Trace, Traffic

NUMBER = struct.Struct("<q")


def main() -> int:
    """Runs the share of the load that standard input describes."""
    told = json.loads(sys.stdin.buffer.readline())
    traffic = replace(Traffic(**told["traffic"]), concurrency=told["concurrency"])
    prepared = _prepared(told)
    own = None if traffic.due_s is None else iter(range(told["shard"], len(prepared.sessions), told["shards"]))

    def take() -> int | None:
        if own is not None:  # in an open loop every process has its own conversations
            return next(own, None)
        data = os.read(told["order_fd"], NUMBER.size)  # the processes share the position, which moves atomically
        return int(NUMBER.unpack(data)[0]) if len(data) == NUMBER.size else None

    run = Run(Target(**told["target"]), prepared, traffic, take)
    load = run_quietly(_whole(run))
    _write(load, Path(told["folder"]) / f"{told['shard']}.npz")
    _say(word="ended", done=run.n_ended)
    return 0


def _prepared(told: dict[str, Any]) -> Prepared:
    with np.load(Path(told["folder"]) / "traces.npz", allow_pickle=False) as t:
        rows = zip(*(t[name].tolist() for name in ("offset", "length", "prompt_tokens", "asked_tokens", "pause_s")), strict=True)
        traces = [Trace(i, Place(offset, length), n_in, n_out, pause) for i, (offset, length, n_in, n_out, pause) in enumerate(rows)]
        sessions = [range(a, b) for a, b in t["sessions"].tolist()]
    return Prepared(Spool(told["spool_fd"]), traces, sessions)


async def _whole(run: Run) -> Load:
    loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()
    async with run.opened():
        _say(word="ready")
        start, _, more = (os.read(stdin, 64) or os._exit(1)).partition(b"\n")  # unbuffered: the request to stop may be in the same read

        def stop() -> None:
            loop.remove_reader(stdin)
            run.ended_by = run.ended_by or ClientError("The run was stopped.")

        def told() -> None:
            if not os.read(stdin, 64):
                os._exit(1)  # the parent is gone
            stop()

        loop.add_reader(stdin, told)
        if more:
            stop()
        try:
            return await run.sent(int(start), lambda done, of: _say(done=done))
        finally:
            loop.remove_reader(stdin)
            if isinstance(run.ended_by, ServerError):
                _say(failed=f"{run.ended_by.failure_class}: {run.ended_by.message}")


def _write(load: Load, path: Path) -> None:
    load.traces = [t for t in load.traces if t.due_ns >= 0 or t.error]
    result = results(load)
    columns = {name: getattr(result.requests, name) for name in (*COLUMNS, *OF_ANSWERS, "chunk_ns", "chunk_tokens", "chunk_offsets")}
    for name in ("verify_steps", *OF_ANSWERS):
        if columns[name] is None:
            columns[name] = np.full(len(load.traces), UNKNOWN)
    np.savez(
        path,
        number=np.array([t.number for t in load.traces], dtype=np.int64),
        error=np.frombuffer(json.dumps(result.requests.error).encode(), dtype=np.uint8),
        health=np.frombuffer(json.dumps(asdict(result.health)).encode(), dtype=np.uint8),
        **columns,
    )


def _say(**said: Any) -> None:
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    sys.exit(main())
