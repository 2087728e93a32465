"""One running inference server: starts it, waits until it is ready, watches it, and ends it with all of its processes.

Enters: a bound recipe and the paths on this node. Leaves: a base URL and a key. The server is ready when its health route answers, when
the answer is from the process that was started, and when it has generated one token. It is dead when its process has ended, or when its
log contains a fatal line. Every error contains the end of the log.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from ..client.endpoint import Endpoint
from ..client.side import Side
from ..engines.known import adapter
from ..errors import ServerError
from ..machine import guard
from ..machine.container import APPTAINERS
from ..machine.cores import of_the_job, reserved
from ..machine.listener import listeners
from ..machine.scratch import scratch
from ..values.plain import canonical_json
from ..values.point import Arm, Recipe
from .command import NEXT_STEPS, Place, Stopped, command, environment
from .ending import ended
from .log import Log

Called = Callable[[Recipe, Arm, Place, Mapping[str, str], Path], list[str]]  # makes the command line, as `command` does
ANY_KEY = "accepts a wrong key: it is another server, or it was started without a key"
POLL_S = 0.1
PORTS = 3  # tried if somebody else listens on the one that was chosen
HEALTH_S = 10.0
LAST_WORD_S = 2.0
GONE_S = 10.0  # how long GET /v1/models may fail after failed requests
PORT_TAKEN = "address already in use"  # by a process that began to use the port after it was chosen
EXCEPTION = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception)(?:: |$)")  # the last line of a Python traceback, which engines log in the middle
OUT_OF_MEMORY = ("out of memory", "OutOfMemoryError", "HIP out of memory")


@dataclass
class Server(Endpoint):
    """A server that was started. `alive_or_raise` is cheap: call it often."""

    recipe: Recipe
    arm: Arm
    place: Place
    process: subprocess.Popen[bytes]
    log: Log
    start_s: float = 0.0

    def listens_or_raise(self) -> bool:
        """Whether the server listens on its port. Raises ServerError if somebody else does: then no request must carry the key."""
        host, _, port = self.base_url.removeprefix("http://").partition(":")
        found = listeners(int(port), self.process.pid, host)
        if found.foreign:
            raise self.error(f"cannot be reached: {found.foreign} listens on its port {port}", "foreign_listener")
        return found.n > 0

    def alive_or_raise(self) -> None:
        """Raises ServerError if the process has ended or the log has a fatal line, Stopped if the job must stop."""
        if self.place.is_stopped():
            raise Stopped
        code = self.process.poll()
        if code == APPTAINERS and self.place.image is not None:
            raise self.error(f"could not be started from {self.place.image.sif}", "image_missing")
        self.log.look()
        if code is not None and not self.log.last_word:
            raise self.error(ended(code), "server_crash")
        if self.log.last_word:
            with contextlib.suppress(subprocess.TimeoutExpired):  # its process usually ends soon, and the exit code says more
                code = self.process.wait(timeout=LAST_WORD_S)
            how = "is still running" if code is None else ended(code)
            raise self.error(f"is dead according to its log ({self.log.last_word}); its process {how}", "server_crash")

    def parts(self) -> Iterator[tuple[Arm, Recipe, dict[str, Any]]]:
        """The arm, recipe and information of each server behind this address."""
        yield self.arm, self.recipe, self.info()

    def endpoints(self) -> list[Endpoint]:
        """The servers that keep a cache, to empty it."""
        return [self]

    def logs(self, n_bytes: int) -> str:
        """The end of its log, with the key redacted."""
        return self.log.tail(n_bytes)

    def answers_or_raise(self) -> None:
        """Raises ServerError if the server is gone. Call it after failed requests, which may also have been wrong themselves."""
        deadline = time.monotonic() + GONE_S
        while self.get_json("/v1/models") is None:
            self.alive_or_raise()
            if time.monotonic() > deadline:
                raise self.error("no longer answers (GET /v1/models)", "server_crash")
            time.sleep(POLL_S)
        self.alive_or_raise()

    def said(self, error: Exception) -> Exception:
        """The same error. If it is the load client's error about this server, the end of the server's log is added."""
        if not isinstance(error, ServerError) or error.where != self.base_url:
            return error
        return self.error(error.message.removeprefix("The server ").rstrip("."), error.failure_class)

    def error(self, what: str, failure_class: str) -> ServerError:
        """An error about this server, with the end of its log."""
        tail = self.log.tail()
        if any(sign in tail for sign in OUT_OF_MEMORY):
            failure_class = "server_oom"
        elif failure_class == "server_crash" and PORT_TAKEN in tail.lower():
            failure_class = "foreign_listener"
        lines = [line for line in tail.splitlines() if line.strip()]
        last = next((line for line in reversed(lines) if EXCEPTION.match(line)), lines[-1] if lines else "")
        role = f" ({self.arm.role})" if self.arm.role else ""
        return ServerError(
            f"{self.arm.engine.id}{role} on node {self.place.host_name} {what}.",
            failure_class=failure_class,
            where=f"{self.log.path} ({'its log says' if EXCEPTION.match(last) else 'last line'}: {last[:200]!r})",
            next_step=NEXT_STEPS.get(failure_class, "read the log, then run the same command again"),
        )


@dataclass(frozen=True)
class Address:
    """Where a server listens, its key, and what else the node replaces in its recipe (`$HEAD`, ...)."""

    host: str
    port: int
    key: str = field(repr=False)
    words: Mapping[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def running(recipe: Recipe, arm: Arm, place: Place) -> Iterator[Server]:
    """A ready server until the block ends; then its whole process group is ended.

    Raises ServerError with its class if the server does not start, Stopped if the job must stop meanwhile.
    """
    with scratch() as folder:
        yield from _running(recipe, arm, replace(place, scratch=folder))


def _running(recipe: Recipe, arm: Arm, place: Place) -> Iterator[Server]:
    for n in range(PORTS):
        with contextlib.ExitStack() as stack:
            try:
                server = stack.enter_context(_ready(recipe, arm, place))
            except ServerError as error:
                if error.failure_class != "foreign_listener" or n == PORTS - 1:
                    raise
                print(f"{error.message} Another port is tried.", file=sys.stderr, flush=True)
                continue
            yield server
            return


@contextlib.contextmanager
def _ready(recipe: Recipe, arm: Arm, place: Place) -> Iterator[Server]:
    began = time.monotonic()
    with started(recipe, arm, place, Address("127.0.0.1", free_port(), new_key())) as server:
        wait_until_ready(server, began + arm.engine.start_timeout_s)
        server.start_s = time.monotonic() - began
        yield server


@contextlib.contextmanager
def started(recipe: Recipe, arm: Arm, place: Place, address: Address, called: Called = command) -> Iterator[Server]:
    """A server that was started and need not be ready, until the block ends; then its whole process group is ended."""
    pipe_read, pipe_write = os.pipe()
    server = None
    try:
        server = _spawn(recipe, arm, place, pipe_read, address, called)
        yield server
    finally:
        os.close(pipe_write)  # the guard ends the group
        os.close(pipe_read)
        if server is not None:
            _wait_gone(server.process)
        guard.clean_up(str(place.folder), str(place.scratch))  # the guard's own cleanup, if it was killed or never reached it


def new_key() -> str:
    """A new API key."""
    return secrets.token_urlsafe(24)


def _spawn(recipe: Recipe, arm: Arm, place: Place, pipe_read: int, address: Address, called: Called) -> Server:
    place.folder.mkdir(parents=True, exist_ok=True)
    key, facts = address.key, place.folder / "facts.json"
    facts.write_text(canonical_json(arm), encoding="utf-8")
    key_file = place.folder / guard.KEY_FILE
    key_file.unlink(missing_ok=True)  # of an earlier start that was killed
    with open(os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w", encoding="utf-8") as file:
        file.write(key)
    given = {"$MODEL": place.model_path, "$HOST": address.host, "$PORT": str(address.port), "$FACTS": str(facts), **address.words}
    argv = called(recipe, arm, place, given, key_file)
    log_path = place.folder / guard.LOG
    log = Log(log_path, arm.engine.phases, arm.engine.fatal, lambda text: text.replace(key, "<redacted>"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    with open(os.open(log_path, flags, 0o600), "ab") as file:  # the server may print its key
        os.fchmod(file.fileno(), 0o600)
        process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                guard.__file__,
                str(pipe_read),
                "--clean",
                str(place.folder),
                str(place.scratch),
                _cores(),
                "--",
                *argv,
            ],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(recipe.env, arm, key, key_file, is_contained=place.image is not None, devices=place.devices),
            pass_fds=(pipe_read,),
            start_new_session=True,
        )
    return Server(f"http://{address.host}:{address.port}", key, recipe, arm, place, process, log)


def _cores() -> str:
    """The server's cores, separated by commas: those of the job except the load client's."""
    cores = of_the_job()
    return ",".join(str(core) for core in cores if core not in reserved(cores))


def free_port(host: str = "127.0.0.1") -> int:
    """A free port at this address, chosen by the kernel."""
    with socket.socket() as s:
        s.bind((host, 0))
        port: int = s.getsockname()[1]
        return port


def wait_until_ready(server: Server, deadline: float) -> None:
    """Returns when the server is ready. Raises ServerError if it is not before the deadline, Stopped if the job must stop."""
    said, told, health = "no answer yet", None, adapter(server.arm.engine).health_path
    with server.asking() as side:
        while True:
            server.alive_or_raise()
            doing = server.log.doing or "starting" if server.log.has_begun else None
            if doing is not None and doing != told:
                told = doing
                server.place.begun(doing)
            try:
                if not server.listens_or_raise():
                    raise httpx.ConnectError("nothing listens on its port")
                answer = side.ask("GET", health, within_s=HEALTH_S)
                if answer.status == 200:
                    _refuse_any_key(server, side)
                    return _one_token(server, side, deadline)
                said = f"GET {health}: {answer.status}"
            except httpx.HTTPError as error:
                said = f"GET {health}: {error}"
            if time.monotonic() > deadline:
                raise server.error(f"was not ready after {server.arm.engine.start_timeout_s:g} s ({said})", "server_start_timeout")
            time.sleep(POLL_S)


def _refuse_any_key(server: Server, side: Side) -> None:
    """Raises ServerError if the server accepts a wrong key, although its engine takes one."""
    if adapter(server.arm.engine).takes_key and accepts_any_key(side):
        raise server.error(ANY_KEY, "server_crash")


def accepts_any_key(side: Side, path: str = "/v1/models") -> bool:
    """Whether the server answers at this path to a wrong key. Raises httpx.HTTPError if it does not answer."""
    return side.ask("GET", path, headers=[("authorization", f"Bearer {secrets.token_urlsafe(24)}")]).status == 200


def _one_token(server: Server, side: Side, deadline: float) -> None:
    """Sends the smoke request: a ready server answers with one token. Kernels may still be compiled for it, until the start's deadline."""
    body = {"model": model_name(server), "prompt": [1000, 1001, 1002], "max_tokens": 1, "temperature": 0}
    try:
        answer = side.ask("POST", "/v1/completions", body, within_s=max(HEALTH_S, deadline - time.monotonic()))
    except httpx.HTTPError as error:
        server.alive_or_raise()
        raise server.error(f"reports that it is ready but does not answer a one-token request ({error})", "server_crash") from error
    if answer.status != 200:
        raise server.error(f"reports that it is ready but answers {answer.status} to a one-token request", "server_crash")


def model_name(server: Server) -> str:
    """The name under which the server serves its model."""
    name = server.model()
    if name is None:
        server.alive_or_raise()
        raise server.error("does not report the name of its model (GET /v1/models)", "server_crash")
    return name


def _wait_gone(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=30)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, 9)  # ends only what the guard left, if the guard was killed
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)
