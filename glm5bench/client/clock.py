"""One clock for arriving bytes: the kernel's timestamps, in ns of the monotonic clock.

The kernel stamps in real time (SO_TIMESTAMPNS), which an administrator or NTP may change. Every stamp is converted to the monotonic
clock with an offset that is measured many times a second. The kernel begins to stamp some time after the first socket requests it, so
one socket requests it as long as a Clock exists.
"""

from __future__ import annotations

import socket
import struct
import sys
import time

QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # only Linux has it
STAMP_OPTION = getattr(socket, "SO_TIMESTAMPNS", 35)  # Python has no name for it; Linux: asm-generic/socket.h
TIMESPEC = struct.Struct("@ll")
unpack_stamp = TIMESPEC.unpack  # seconds and ns of the real-time clock; no other ancillary data was requested
ANCILLARY_BYTES = socket.CMSG_SPACE(TIMESPEC.size)


class Clock:
    """The offset from the kernel's stamps to the monotonic clock. `has_stamps`: whether this kernel supports stamps."""

    def __init__(self) -> None:
        self.offset_ns = 0
        self.steps_ns: list[int] = []  # jumps of the real-time clock between two calibrations, if it was set
        self._asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.has_stamps = asks_for_stamps(self._asker)
        self.calibrate()
        self.steps_ns.clear()

    def calibrate(self) -> None:
        """Measures the offset: reads one clock between two reads of the other, and keeps the quickest of five tries."""
        best, offset = 2**63, 0
        for _ in range(5):
            before, real, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
            if after - before < best:
                best, offset = after - before, (before + after) // 2 - real
        if abs(offset - self.offset_ns) > 1_000_000:
            self.steps_ns.append(self.offset_ns - offset)
        self.offset_ns = offset

    def close(self) -> None:
        """Stops requesting stamps."""
        self._asker.close()


def acknowledge_at_once(sock: socket.socket) -> None:
    """Makes the kernel acknowledge what has arrived now, and not up to 40 ms later. The kernel forgets this setting, so repeat it.

    A sender with Nagle's algorithm, such as SGLang's router, keeps a small chunk until the one before is acknowledged. Chunks then arrive
    late and together: without this, the router's answers had 40 ms more TTFT. Source: tcp(7), TCP_QUICKACK.
    """
    if QUICKACK is not None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
        except OSError:  # another kind of socket, or the connection has just ended: the next read reports it
            return


def asks_for_stamps(sock: socket.socket) -> bool:
    """Asks the kernel to stamp what this socket receives; False if it does not support this."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, STAMP_OPTION, 1)
    except OSError:
        return False
    return True
