"""Which process listens on a port of this host: the server that was started, or another one. Reads /proc only. Source: proc(5)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LISTEN = "0A"  # the state of a listening socket in /proc/net/tcp


def stranger_on(port: int, guard: int) -> int | None:
    """The process id of a listener on this port that neither descends from the guard nor shares its session; None if there is none.

    Also None if the kernel does not show this user who owns the socket.
    """
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    owners = list(_owners(sockets)) if sockets else []
    return None if not owners or any(_belongs(pid, guard) for pid in owners) else owners[0]


def _listening(port: int) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _owners(sockets: set[str]) -> Iterator[int]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):  # it has ended meanwhile, or belongs to another user
                if any(_link(f"/proc/{entry}/fd/{fd}") in sockets for fd in os.listdir(f"/proc/{entry}/fd")):
                    yield int(entry)


def _link(path: str) -> str:
    """The target of a descriptor; empty if it was closed meanwhile."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _belongs(pid: int, guard: int) -> bool:
    while pid > 1:
        if pid == guard:
            return True
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            return True  # the process has ended, so it is not reported
        parent, session = int(fields[1]), int(fields[3])
        if session == guard:
            return True
        pid = parent
    return False
