"""One running inference server: started, known to be ready, watched, and ended with everything that it started.

Enters: a bound recipe and where things are on this node. Leaves: a base URL and a key. Readiness is the engine's word and one real
token; death is the process's. The log's end stands in every error.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ..errors import ServerError
from ..point import KEY_FILE_VARIABLE, Arm, Recipe, canonical_json
from . import container, guard
from .provenance import wrong_gpus

ENGINE_PREFIXES = ("SGLANG_", "SGL_", "VLLM_", "NCCL_", "RCCL_", "FLASHINFER_", "DG_", "AITER_")
GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
POLL_S = 0.1
GONE_S = 10.0  # how long a server may take to die after its last word
OUT_OF_MEMORY = ("out of memory", "OutOfMemoryError", "HIP out of memory")


class Stopped(Exception):
    """The job was asked to stop: by a signal, not by a fault."""


@dataclass(frozen=True)
class Place:
    """Where this server runs: its folder for facts, key and log, the model's path, who may say stop, the image (None: no container).

    `begun` is called once, when the server's own process has said its first word: until then it is the image that is being started.
    """

    folder: Path
    model_path: str
    host_name: str
    is_stopped: Callable[[], bool]
    image: container.Image | None = None
    begun: Callable[[], None] = lambda: None


@dataclass
class Server:
    """A server that was started. `alive_or_raise` is cheap: call it often."""

    recipe: Recipe
    arm: Arm
    place: Place
    process: subprocess.Popen[bytes]
    base_url: str
    api_key: str
    log_path: Path
    start_s: float = 0.0

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"authorization": f"Bearer {self.api_key}"}

    def alive_or_raise(self) -> None:
        """Raises ServerError when the process ended, Stopped when the job was asked to stop."""
        if self.place.is_stopped():
            raise Stopped
        code = self.process.poll()
        if code == container.APPTAINERS and self.place.image is not None:
            raise self.error(f"could not be started from {self.place.image.sif}", "image_missing")
        if code is not None:
            raise self.error(f"ended by itself with exit code {code}", "server_crash")

    def answers_or_raise(self) -> None:
        """After requests have failed: raises ServerError when it is the server that is gone, and not they that were wrong."""
        deadline = time.monotonic() + GONE_S
        while self.get_json("/v1/models") is None:
            self.alive_or_raise()
            if time.monotonic() > deadline:
                raise self.error("no longer answers (GET /v1/models)", "server_crash")
            time.sleep(POLL_S)
        self.alive_or_raise()

    def error(self, what: str, failure_class: str) -> ServerError:
        """The error of this server, with the end of its log."""
        tail = self.log_tail()
        if any(sign in tail for sign in OUT_OF_MEMORY):
            failure_class = "server_oom"
        last = next((line for line in reversed(tail.splitlines()) if line.strip()), "")
        return ServerError(
            f"{self.arm.engine.id} on node {self.place.host_name} {what}.",
            failure_class=failure_class,
            where=f"{self.log_path} (last line: {last[:200]!r})",
            next_step=NEXT_STEPS.get(failure_class, "read the log, then run the same command again"),
        )

    def log_tail(self, n_bytes: int = 4000) -> str:
        """The end of the log, the key redacted."""
        try:
            with self.log_path.open("rb") as file:
                file.seek(max(0, self.log_path.stat().st_size - n_bytes))
                return self.redacted(file.read().decode("utf-8", "replace"))
        except OSError:
            return ""

    def redacted(self, text: str) -> str:
        """The text without this job's key."""
        return text.replace(self.api_key, "<redacted>")

    def get_json(self, path: str) -> Any:
        """The JSON at a path of this server, or None where it has none."""
        try:
            answer = httpx.get(self.base_url + path, headers=self.headers, timeout=30, trust_env=False)
            return answer.json() if answer.status_code == 200 else None
        except (httpx.HTTPError, ValueError):
            return None


NEXT_STEPS = {
    "server_oom": "lower the memory fraction or the concurrency that $C is bound to",
    "server_start_timeout": "raise engine.start_timeout_s, or look for what the log waits for",
    "server_hung": "raise engine.stall_timeout_s if the server is only slow",
    "image_missing": "put it there (docs/cluster.md), or use engine=simulated",
    "checkpoint_missing": "fetch it there, or set cluster.checkpoint_dir",
    "node_fault": "run this arm on a node that has these GPUs, or use engine=simulated",
}


@contextlib.contextmanager
def running(recipe: Recipe, arm: Arm, place: Place) -> Iterator[Server]:
    """A server that is ready, until the block ends; then its whole process group is gone.

    Raises ServerError with its class when it does not start, Stopped when the job is asked to stop meanwhile.
    """
    started = time.monotonic()
    pipe_read, pipe_write = os.pipe()
    server = None
    try:
        server = _spawn(recipe, arm, place, pipe_read)
        _wait_until_ready(server, started + arm.engine.start_timeout_s)
        server.start_s = time.monotonic() - started
        yield server
    finally:
        os.close(pipe_write)  # the guard ends the group
        os.close(pipe_read)
        if server is not None:
            _wait_gone(server.process)
        (place.folder / "api_key").unlink(missing_ok=True)


def _spawn(recipe: Recipe, arm: Arm, place: Place, pipe_read: int) -> Server:
    place.folder.mkdir(parents=True, exist_ok=True)
    port, key, facts = free_port(), secrets.token_urlsafe(24), place.folder / "facts.json"
    facts.write_text(canonical_json(arm), encoding="utf-8")
    key_file = place.folder / "api_key"
    key_file.touch(mode=0o600)
    key_file.write_text(key, encoding="utf-8")
    given = {"$MODEL": place.model_path, "$HOST": "127.0.0.1", "$PORT": str(port), "$FACTS": str(facts)}
    command = _command([given.get(word, word) for word in recipe.argv], arm, place)
    log_path = place.folder / "server.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-I", guard.__file__, str(pipe_read), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(recipe.env, arm, key, key_file, is_contained=place.image is not None),
            pass_fds=(pipe_read,),
            start_new_session=True,
        )
    return Server(recipe, arm, place, process, f"http://127.0.0.1:{port}", key, log_path)


def _command(argv: list[str], arm: Arm, place: Place) -> list[str]:
    if place.image is not None:
        return _contained(argv, arm, place, place.image)
    if arm.engine.simulated:
        return [sys.executable, *argv[1:]]
    program = shutil.which(argv[0])
    if program is None:
        raise _cannot_start(arm, place, f"there is no program {argv[0]!r}", "image_missing")
    if argv[1] == "-m" and not _has_module(program, argv[2].partition(".")[0]):
        raise _cannot_start(arm, place, f"{program} has no module {argv[2].partition('.')[0]!r}", "image_missing")
    _refuse_wrong_node(arm, place)
    return [program, *argv[1:]]


def _contained(argv: list[str], arm: Arm, place: Place, image: container.Image) -> list[str]:
    """The command inside its image. Raises ServerError where the image, the checkpoint or the GPUs are not there."""
    lacks = image.lacks()
    if lacks:
        raise _cannot_start(arm, place, lacks, "image_missing")
    if not arm.engine.simulated:
        _refuse_wrong_node(arm, place)
    reads = [place.model_path] if place.model_path.startswith("/") and Path(place.model_path).is_dir() else []
    reads += [PACKAGE_ROOT] if arm.engine.simulated else []
    return container.inside(argv, image, arm.hardware, reads=reads, folder=place.folder, is_simulated=arm.engine.simulated)


def _refuse_wrong_node(arm: Arm, place: Place) -> None:
    if place.model_path.startswith("/") and not Path(place.model_path).is_dir():
        raise _cannot_start(arm, place, f"there is no checkpoint {place.model_path}", "checkpoint_missing")
    wrong = wrong_gpus(arm.hardware, arm.tp)
    if wrong:
        raise _cannot_start(arm, place, wrong, "node_fault")


def _cannot_start(arm: Arm, place: Place, why: str, failure_class: str) -> ServerError:
    return ServerError(
        f"{arm.engine.id} cannot start on node {place.host_name}: {why}.",
        failure_class=failure_class,
        next_step=NEXT_STEPS[failure_class],
    )


def _has_module(python: str, module: str) -> bool:
    find = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", find], capture_output=True, timeout=120, check=False).returncode == 0


def _environment(own: Mapping[str, str], arm: Arm, key: str, key_file: Path, *, is_contained: bool = False) -> dict[str, str]:
    """The node's environment without what would change the engine unrecorded, and the recipe's own; a container sees the latter only."""
    env = dict(own)
    if arm.engine.simulated:
        env["PYTHONPATH"] = os.pathsep.join(p for p in (PACKAGE_ROOT, os.environ.get("PYTHONPATH", "")) if p)
        env[KEY_FILE_VARIABLE] = str(key_file)
    if arm.engine.flavor == "vllm":
        env["VLLM_API_KEY"] = key
    if is_contained:
        env |= {name: os.environ[name] for name in GPU_VARIABLES if name in os.environ}
        return container.environment(env)
    return {name: value for name, value in os.environ.items() if not name.startswith(ENGINE_PREFIXES)} | env


def free_port() -> int:
    """A port on loopback that the kernel says is free."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def _wait_until_ready(server: Server, deadline: float) -> None:
    said, has_begun = "no answer yet", False
    with httpx.Client(base_url=server.base_url, headers=server.headers, timeout=10, trust_env=False) as client:
        while True:
            server.alive_or_raise()
            if not has_begun and server.log_path.stat().st_size:
                has_begun = True
                server.place.begun()
            try:
                answer = client.get("/health")
                if answer.status_code == 200:
                    return _one_token(server, client, deadline)
                said = f"GET /health: {answer.status_code}"
            except httpx.HTTPError as error:
                said = f"GET /health: {error}"
            if time.monotonic() > deadline:
                raise server.error(f"was not ready after {server.arm.engine.start_timeout_s:g} s ({said})", "server_start_timeout")
            time.sleep(POLL_S)


def _one_token(server: Server, client: httpx.Client, deadline: float) -> None:
    """The smoke request: ready is who answers with a token. Kernels may still be compiled for it, within the start's deadline."""
    body = {"model": model_name(server), "prompt": [1000, 1001, 1002], "max_tokens": 1, "temperature": 0}
    try:
        answer = client.post("/v1/completions", json=body, timeout=max(10.0, deadline - time.monotonic()))
    except httpx.HTTPError as error:
        server.alive_or_raise()
        raise server.error(f"says that it is ready and does not answer a one-token request ({error})", "server_crash") from error
    if answer.status_code != 200:
        raise server.error(f"says that it is ready and answers {answer.status_code} to a one-token request", "server_crash")


def model_name(server: Server) -> str:
    """The name under which the server serves its model."""
    models = server.get_json("/v1/models")
    try:
        return str(models["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        server.alive_or_raise()
        raise server.error("does not name its model (GET /v1/models)", "server_crash") from None


def _wait_gone(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=30)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, 9)  # only what the guard, had it been killed itself, could have left
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)
