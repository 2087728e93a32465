"""The server's guardian: a process between the node job and the server, so that the server never outlives its job.

Its own session and process group; it starts the server and waits for one of two things: the server ends (it ends with the same
code), or the pipe from the node job closes, because the job asks for the end or because it was killed, by whatever signal. Then it
ends the whole group: SIGTERM, a grace period, SIGKILL. Standard library only: it must start in milliseconds.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

GRACE_S = 10.0


def main(argv: list[str]) -> int:
    """argv: the pipe's descriptor, then the server's command."""
    pipe, command = int(argv[0]), argv[1:]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to the group below; the pipe is how the guard is told
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_default_signals)  # noqa: PLW1509  single-threaded here
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        return 127
    while server.poll() is None:
        readable, _, _ = select.select([pipe], [], [], 0.1)
        if readable:  # closed: nothing is ever written
            _end(server)
            break
    code = server.wait()
    _kill_group()
    return code if code >= 0 else 128 - code


def _default_signals() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _end(server: subprocess.Popen[bytes]) -> None:
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while server.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if server.poll() is None:
        _kill_group()


def _kill_group() -> None:
    """Ends whatever is left in the group, this process too."""
    others = [pid for pid in _group_members() if pid != os.getpid()]
    for pid in others:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _group_members() -> list[int]:
    group, members = os.getpgrp(), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.getpgid(int(name)) == group:
                    members.append(int(name))
            except (ProcessLookupError, PermissionError):
                continue
    return members


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
