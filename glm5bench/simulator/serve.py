"""Starts the simulated server on its port, in this process."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from ..errors import BenchError, EnvironmentLacks, UsageError
from ..values.point import KEY_FILE_VARIABLE
from .app import application
from .options import Options, options
from .ranks import meet


def main(argv: Sequence[str] | None = None) -> int:
    """The program `python -m glm5bench.simulator`. The exit code is that of errors.py."""
    try:
        key_file = os.environ.get(KEY_FILE_VARIABLE)
        key = Path(key_file).read_text(encoding="utf-8").strip() if key_file else None
        serve(options(sys.argv[1:] if argv is None else argv, api_key=key))
    except BenchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def serve(o: Options) -> None:
    """Serves until SIGTERM or SIGINT. Raises EnvironmentLacks if the port is in use, UsageError if no memory is left for the KV cache."""
    if not o.memory.fits:
        raise UsageError(
            f"{o.arm.checkpoint.id} at TP={o.arm.tp} leaves no KV cache on {o.arm.hardware.id}.", next_step="see `glm5bench plan`"
        )
    if o.rank:
        meet(o)
        return
    listening = _listening_socket(o.host, o.port)
    print(f"simulated server: {o.arm.hardware.id} {o.arm.checkpoint.id} tp{o.arm.tp} {o.arm.speculative.id}, time scale {o.time_scale:g}")
    print("Load weight begin.", flush=True)
    if o.fault and o.fault.kind == "fail_start":
        print("torch.OutOfMemoryError: CUDA out of memory (rehearsed)", file=sys.stderr, flush=True)
        raise SystemExit(1)
    meet(o)
    idle_s = o.fault.number if o.fault is not None and o.fault.kind == "closes" else 3600
    config = uvicorn.Config(application(o), log_level="warning", access_log=False, timeout_graceful_shutdown=1, timeout_keep_alive=idle_s)
    uvicorn.Server(config).run(sockets=[listening])


def _listening_socket(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise EnvironmentLacks(
            f"Port {port} on {host} cannot be used: {error.strerror}.", next_step="choose another with --port"
        ) from error
    return listening
