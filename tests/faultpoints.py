"""Fault points: every call that changes the disk is counted, so that a test can kill the process there or make the call fail."""

import contextlib
import os
import pathlib
import sys
import traceback
from pathlib import Path
from unittest import mock

CALLS = ("mkdir", "rmdir", "pwrite", "ftruncate", "fsync", "replace", "rename", "link", "unlink", "write")
KILLED, FINISHED = 9, 0


class _File:
    """A file opened for writing, whose writes are fault points."""

    def __init__(self, file, at):
        self._file, self._at = file, at

    def write(self, data):
        return self._at("write", self._file.write, data)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()


@contextlib.contextmanager
def fault_points(reached):
    """`reached(name, n, call)` makes the n-th call; an error that it raises is raised by the call."""
    n = 0
    opened = Path.open

    def at(name, call, *arguments, **more):
        nonlocal n
        n += 1
        return reached(name, n - 1, lambda: call(*arguments, **more))

    def open_(path, mode="r", *arguments, **more):
        file = opened(path, mode, *arguments, **more)
        return _File(file, at) if "w" in mode else file

    def wrapped(name):
        call = getattr(os, name)
        return lambda *arguments, **more: at(name, call, *arguments, **more)

    with contextlib.ExitStack() as patches:
        for name in CALLS[:-1]:
            patches.enter_context(mock.patch.object(os, name, wrapped(name)))
        early = getattr(pathlib, "_NormalAccessor", None)  # Python 3.10 binds os.mkdir and others when pathlib is imported
        for name in (name for name in CALLS if early is not None and hasattr(early, name)):
            patches.enter_context(mock.patch.object(early, name, staticmethod(wrapped(name))))
        patches.enter_context(mock.patch.object(Path, "open", open_))
        yield


def calls_of(work):
    """The names of the calls that `work` makes, in order."""
    names = []

    def noted(name, n, call):
        names.append(name)
        return call()

    with fault_points(noted):
        work()
    return names


def killed_at(n, work, *, is_done_first=False):
    """Runs `work` in a process that is killed before or after its n-th call. Returns whether it reached that call."""

    def kill(name, i, call):
        if i == n and not is_done_first:
            os._exit(KILLED)
        try:
            return call()
        finally:
            if i == n:
                os._exit(KILLED)

    pid = os.fork()
    if not pid:
        try:
            with fault_points(kill):
                work()
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
        os._exit(FINISHED)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (KILLED, FINISHED)
    return code == KILLED


@contextlib.contextmanager
def refused_at(n, names, errno_):
    """Every call of these names fails with this error from the n-th one on, like a disk that stays broken."""
    seen = 0

    def refuse(name, i, call):
        nonlocal seen
        if name in names:
            seen += 1
            if seen > n:
                raise OSError(errno_, os.strerror(errno_))
        return call()

    with fault_points(refuse):
        yield
