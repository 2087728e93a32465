"""A process between the node job and the server, so that the server never outlives its job.

The guard has its own session and process group. It starts the server and waits for one of two events. If the server ends, the guard ends
with the same exit code. If the pipe from the node job closes, the job asked for the end or was killed. Then the guard ends the whole
group: SIGTERM, a grace period, SIGKILL. It uses the standard library only, because it must start in milliseconds.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

PIECE = 2**20
GRACE_S = 10.0
ASKED_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)
KEY_FILE, LOG = "api_key", "server.log"  # names in a server's folder
SCRATCH_PREFIX = "glm5bench-"  # starts the name of a server's directory of temporary files


def main(argv: list[str]) -> int:
    """argv: the pipe's descriptor, `--clean`, the server's folder, its directory of temporary files, its cores, `--`, its command."""
    pipe, word, folder, scratch, cores, end, *command = argv
    if (word, end) != ("--clean", "--") or not command:
        print("guard.py PIPE --clean FOLDER SCRATCH CORES -- COMMAND...", file=sys.stderr)
        return 2
    with contextlib.suppress(OSError, ValueError):  # without its own cores it uses those of the job
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    try:
        return _guarded(int(pipe), command)
    finally:
        clean_up(folder, scratch)


def clean_up(folder: str, scratch: str) -> None:
    """Removes the key (also from the log) and the temporary files of a server that has ended. The guard or the job calls it."""
    key_file = os.path.join(folder, KEY_FILE)
    key = b""
    with contextlib.suppress(OSError), open(os.open(key_file, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        key = file.read(4096).strip()
    with contextlib.suppress(OSError):  # first, because a long log takes time
        os.unlink(key_file)
    if key:
        with contextlib.suppress(OSError):
            _redact(os.path.join(folder, LOG), key)
    if os.path.basename(scratch).startswith(SCRATCH_PREFIX):  # never anything else
        shutil.rmtree(scratch, ignore_errors=True)


def _redact(log: str, key: bytes) -> None:
    """Removes the key from the log, in constant memory. Only its owner can read the log until then."""
    with open(os.open(log, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        if _holds(file, key):
            file.seek(0)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with contextlib.suppress(FileNotFoundError):
                os.unlink(log + ".part")
            with open(os.open(log + ".part", flags, 0o600), "wb") as clean:
                for piece in _pieces(file, key):
                    clean.write(piece)
            os.replace(log + ".part", log)
    mask = os.umask(0)
    os.umask(mask)
    descriptor = os.open(log, os.O_RDONLY | os.O_NOFOLLOW)
    os.fchmod(descriptor, 0o666 & ~mask & ~0o022)
    os.close(descriptor)


def _holds(file: io.BufferedReader, key: bytes) -> bool:
    rest = b""
    while piece := file.read(PIECE):
        if key in rest + piece:
            return True
        rest = piece[-len(key) :]
    return False


def _pieces(file: io.BufferedReader, key: bytes) -> Iterator[bytes]:
    """The text without the key, also where the key lies across two pieces."""
    rest = b""
    while piece := file.read(PIECE):
        text = (rest + piece).replace(key, b"<redacted>")
        cut = max(0, len(text) - len(key) + 1)
        yield text[:cut]
        rest = text[cut:]
    yield rest.replace(key, b"<redacted>")


def _guarded(pipe: int, command: list[str]) -> int:
    """The server's exit code, after it ended by itself or because the job has ended."""
    for signum in ASKED_TO_END:  # sent to the group below, and by Slurm to all; the guard ends only through its pipe
        signal.signal(signum, signal.SIG_IGN)
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
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # SIGUSR2, Slurm's warning, is for the job: the server goes on until the job ends it


def _end(server: subprocess.Popen[bytes]) -> None:
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while server.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if server.poll() is None:
        _kill_group()


def _kill_group() -> None:
    """Kills every other process that is left in the group."""
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
