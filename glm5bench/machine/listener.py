"""Who listens on a port of this machine, according to the kernel. Source: proc(5), /proc/net/tcp and the descriptors of processes."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LISTEN = "0A"  # the state of a listening socket in /proc/net/tcp
ANY = ("00000000", "0" * 32, "00000000000000000000000001000000")  # addresses that receive every connection to the host itself


@dataclass(frozen=True)
class Listeners:
    """The sockets that listen on a port. `foreign`: a description of one that is not ours, or empty."""

    n: int
    foreign: str = ""


def listeners(port: int, guard: int, address: str = "127.0.0.1") -> Listeners:
    """The listeners on this address and port of this machine.

    Ours are sockets of this user in processes that descend from the guard or share its session. A socket of this user whose process cannot
    be seen counts as ours.
    """
    found = list(_listening(port, address))
    for uid, _ in found:
        if uid != os.geteuid():
            return Listeners(len(found), f"a process of user {_user(uid)}")
    owners: dict[str, list[int]] = {f"socket:[{inode}]": [] for _, inode in found}
    for pid, inode in _owners(set(owners)):
        owners[inode].append(pid)
    for pids in owners.values():
        if pids and not any(_belongs(pid, guard) for pid in pids):
            return Listeners(len(found), f"process {pids[0]}")
    return Listeners(len(found))


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _listening(port: int, address: str) -> Iterator[tuple[int, str]]:
    own = socket.inet_aton(address)[::-1].hex().upper()  # as the kernel prints it on a little-endian machine
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                at, _, number = fields[1].rpartition(":")
                if fields[3] == LISTEN and int(number, 16) == port and at in (*ANY, own, "0000000000000000FFFF0000" + own):
                    yield int(fields[7]), fields[9]


def _owners(sockets: set[str]) -> Iterator[tuple[int, str]]:
    for entry in os.listdir("/proc") if sockets else ():
        if entry.isdigit():
            with suppress(OSError):  # it has ended meanwhile, or belongs to another user
                for fd in os.listdir(f"/proc/{entry}/fd"):
                    target = _link(f"/proc/{entry}/fd/{fd}")
                    if target in sockets:
                        yield int(entry), target


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
