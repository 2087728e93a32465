"""Describes how a process ended: its exit code, or the signal that ended it and the usual cause of that signal. Pure."""

from __future__ import annotations

import signal

USUAL = {
    signal.SIGKILL: "usually the kernel or the job's cgroup, because memory ran out, or the scheduler",
    signal.SIGXCPU: "its CPU time limit is used up (ulimit -t)",
    signal.SIGXFSZ: "a file reached its size limit (ulimit -f)",
    signal.SIGBUS: "usually a full /dev/shm, or a file that was truncated while it was mapped",
    signal.SIGSEGV: "a defect, or a stack or memory limit (ulimit -s, ulimit -v)",
    signal.SIGABRT: "it aborted itself, often after a failed allocation (ulimit -v)",
    signal.SIGTERM: "a user or a program asked it to end",
    signal.SIGINT: "a user or a program asked it to end",
}
SHELL_OFFSET = 128  # shells and the server's guard report signal n as exit code 128 + n


def ended(code: int) -> str:
    """`ended by itself with exit code 1`, or `was ended by SIGXCPU: ...`. `code`: as returned by Python's subprocess or by a shell."""
    number = -code if code < 0 else code - SHELL_OFFSET
    try:
        sent = signal.Signals(number)
    except ValueError:
        return f"ended by itself with exit code {code}"
    return f"was ended by {sent.name}" + (f": {USUAL[sent]}" if sent in USUAL else "")
