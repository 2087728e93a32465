"""One clock: what the kernel stamped on arriving bytes, in ns of the monotonic clock.

The kernel stamps in real time (SO_TIMESTAMPNS), which an administrator or NTP may move; every stamp is carried over to the monotonic
clock with an offset that is measured anew many times a second. It begins to stamp some time after the first socket has asked for it:
one socket asks for as long as a Clock lives.
"""

from __future__ import annotations

import socket
import struct
import sys
import time

STAMP_OPTION = getattr(socket, "SO_TIMESTAMPNS", 35)  # Python does not name it; Linux: asm-generic/socket.h
TIMESPEC = struct.Struct("@ll")
unpack_stamp = TIMESPEC.unpack  # seconds and ns of the real-time clock; nothing else was asked to come with a read
ANCILLARY_BYTES = socket.CMSG_SPACE(TIMESPEC.size)


class Clock:
    """The monotonic clock, and the offset to it of the kernel's stamps. `has_stamps`: whether this kernel stamps at all."""

    def __init__(self) -> None:
        self.offset_ns = 0
        self.steps_ns: list[int] = []  # by how much the real-time clock moved between two calibrations, where it was set
        self._asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.has_stamps = asks_for_stamps(self._asker)
        self.calibrate()
        self.steps_ns.clear()

    def calibrate(self) -> None:
        """Measures the offset: the quickest of some looks at one clock between two looks at the other."""
        best, offset = 2**63, 0
        for _ in range(5):
            before, real, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
            if after - before < best:
                best, offset = after - before, (before + after) // 2 - real
        if abs(offset - self.offset_ns) > 1_000_000:
            self.steps_ns.append(self.offset_ns - offset)
        self.offset_ns = offset

    def close(self) -> None:
        """Asks for no stamps any more."""
        self._asker.close()


def asks_for_stamps(sock: socket.socket) -> bool:
    """Asks the kernel to stamp what this socket receives; False where it knows no such thing."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, STAMP_OPTION, 1)
    except OSError:
        return False
    return True
