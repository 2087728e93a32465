"""What one node of a job does for the job's leader: checks itself, and starts, watches and ends its servers.

Enters: requests as messages, on the leader's own node directly and on others through a wire. Leaves: an answer for each, and reports.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..checks import machine as preflight
from ..checks.finding import refuse
from ..directory import Campaign
from ..engines.known import adapter
from ..errors import ServerError
from ..machine.container import Image
from ..machine.lane import visible_devices
from ..machine.scratch import scratch
from ..values.plain import from_plain
from ..values.point import Arm, NodeJob, Recipe
from .command import Place, Stopped, router
from .server import Address, Server, started
from .staging import weights
from .telemetry.watching import Observer, Wanted, observing
from .wire import Message

SIGNALLED = 128  # the guard's exit code is above it if a signal ended the server
LOG_BYTES = 200_000  # of each server's log that is stored with a point


def image_of(job: NodeJob, recipe: Recipe, folder: Path) -> Image | None:
    """The image to start a server from; None: use the node's PATH, because the cluster or the recipe names no image."""
    if not job.image_dir or not recipe.image:
        return None
    cache = Path(job.cache_dir) if job.cache_dir else folder / "cache"
    return Image(Path(job.image_dir), recipe.image, cache, job.binds, job.sif_sha256)


@dataclass
class Hands:
    """One node of the job. `do` is called by one thread at a time; `report` may be called by another."""

    campaign: Campaign
    job: NodeJob
    job_id: str
    address: str
    is_stopped: Callable[[], bool]
    tell: Callable[[str, str], None] = lambda phase, doing: None
    model_path: str = ""
    generation: int = 0  # how often servers were ended: a report on earlier servers must not count for later ones
    servers: dict[str, Server] = field(default_factory=dict)
    _stacks: dict[str, contextlib.ExitStack] = field(default_factory=dict)
    _observers: dict[str, Observer] = field(default_factory=dict)
    _gpus: dict[str, int] = field(default_factory=dict)  # server -> its GPUs on this node
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def do(self, asked: Message) -> Message:
        """The answer to a request. Errors are part of it, so that they reach the leader."""
        try:
            answer: Message = getattr(self, f"_do_{asked['do']}")(**asked["with"])
        except Stopped:
            return {"stopped": True}
        except ServerError as error:
            return {"error": told_error(error)}
        except OSError as error:
            return {"error": {"message": f"{error.strerror or error}: {error.filename or ''}", "failure_class": "node_fault"}}
        except Exception as error:  # the border of this node: the leader must not wait for an answer that never comes
            traceback.print_exc()
            what = f"A defect of glm5bench, please report it: {type(error).__name__}: {error}."
            return {"error": {"message": what, "failure_class": "client_error"}}
        return answer

    def report(self) -> Message:
        """The phases of this node's servers, and the errors of those that have failed."""
        with self._lock:
            servers, generation = dict(self.servers), self.generation
        failed: dict[str, Any] = {}
        for name, server in servers.items():
            try:
                server.alive_or_raise()
            except ServerError as error:
                code = server.process.poll()
                is_killed = code is not None and code > SIGNALLED and not server.log.last_word  # engines kill themselves after an exception
                failed[name] = {"error": told_error(error), "is_killed": is_killed}
            except Stopped:
                continue
        doing = {name: server.log.doing for name, server in servers.items()}
        return {"doing": doing, "failed": failed, "generation": generation}

    def close(self) -> None:
        """Ends all servers of this node."""
        self._do_end()

    def _do_prepare(self) -> Message:
        """Preflight, and the weights on this node."""
        self.tell("preflight", "")
        found = preflight.findings(self.job, self.campaign.points)
        refuse(found, socket.gethostname())
        here = weights(self.job, lambda doing: self.tell("staging", doing), self.is_stopped)
        self.model_path = here.path
        return {"findings": [asdict(f) for f in found], "checkpoint": here.told}

    def _do_ports(self, n: int) -> Message:
        with contextlib.ExitStack() as held:
            ports = []
            for _ in range(n):  # bound together, so that they differ
                s = held.enter_context(socket.socket())
                s.bind((self.address, 0))
                ports.append(s.getsockname()[1])
        return {"ports": ports}

    def _do_start(
        self, name: str, number: int, recipe: dict[str, Any], placement: int, port: int, key: str, words: dict[str, str]
    ) -> Message:
        """Starts one rank of a worker. `number`: of the server start, for its folder. The leader's job may have fewer starts."""
        where = self.job.arm.placements[placement]
        kinds = {servers.role: servers.arm for servers in self.job.arm.servers}
        devices = visible_devices(self.job, where.first_gpu, where.gpus) if where.gpus < self.job.arm.hardware.gpus_per_node else {}
        one = kinds[where.role]  # a simulated rank 0 reports the GPUs of all ranks
        self._gpus[name] = where.gpus if is_real(one) else one.tp if where.rank == 0 else 0
        host = self.address if where.role else "127.0.0.1"  # others reach only the workers of a system with several roles
        self._start(name, from_plain(Recipe, recipe), kinds[where.role], number, Address(host, port, key, words), devices)
        return {}

    def _do_route(self, name: str, number: int, recipe: dict[str, Any], port: int, key: str) -> Message:
        """Starts the router."""
        self._start(name, from_plain(Recipe, recipe), self.job.arm, number, Address("127.0.0.1", port, key), {}, is_router=True)
        return {}

    def _start(
        self,
        name: str,
        recipe: Recipe,
        arm: Arm,
        number: int,
        address: Address,
        devices: dict[str, str],
        *,
        is_router: bool = False,
    ) -> None:
        folder = self.campaign.job(self.job_id) / f"{self.job.id}.{number}" / name
        stack = contextlib.ExitStack()
        place = Place(
            folder,
            self.model_path,
            os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
            self.is_stopped,
            image_of(self.job, recipe, folder),
            scratch=stack.enter_context(scratch()),
            devices=devices,
        )
        try:
            called = {"called": router} if is_router else {}
            server = stack.enter_context(started(recipe, arm, place, address, **called))
        except BaseException:
            stack.close()
            raise
        with self._lock:
            self._stacks[name], self.servers[name] = stack, server

    def _do_look(self, name: str) -> Message:
        """Whether the server listens, and nobody else does."""
        return {"listens": self.servers[name].listens_or_raise()}

    def _do_observe(self, period_s: float) -> Message:
        """Starts an observer for each server of this node that has GPUs."""
        for name, server in self.servers.items():
            arm, place = server.arm, server.place
            n = self._gpus.get(name, 0)
            if not n:
                continue
            whose = "simulated" if arm.engine.simulated else arm.hardware.vendor
            environment = {**os.environ, **place.devices}
            wanted = Wanted(whose, n, server.process.pid, period_s, has_metrics=name.endswith(".0"))
            self._observers[name] = self._stacks[name].enter_context(observing(server, place.scratch or place.folder, wanted, environment))
        return {}

    def _do_poke(self) -> Message:
        for observer in self._observers.values():
            observer.poke()
        return {}

    def _do_account(self) -> Message:
        return {"accounts": [{"name": name, **observer.account()} for name, observer in self._observers.items()]}

    def _do_clock(self) -> Message:
        return {"ns": time.monotonic_ns(), "utc_s": time.time()}

    def _do_observed(self, start_ns: int, end_ns: int) -> Message:
        """The tracks of all servers in this window of this node's clock: (server, device, quantity, unit, times, values)."""
        tracks = []
        for name, observer in self._observers.items():
            told = observer.told(start_ns, end_ns)
            for track, curve in told.every() if told is not None else ():
                tracks.append([name, track.device, track.name, track.unit, curve.at_ns.tolist(), curve.value.tolist()])
        return {"tracks": tracks}

    def _do_foreign(self, start_ns: int, end_ns: int) -> Message:
        return {"pids": [pid for observer in self._observers.values() for pid in observer.foreign(start_ns, end_ns)]}

    def _do_logs(self) -> Message:
        return {"logs": {name: server.log.tail(LOG_BYTES) for name, server in self.servers.items()}}

    def _do_end(self) -> Message:
        with self._lock:
            stacks, self._stacks, self.servers = self._stacks, {}, {}
            self.generation += 1
            self._observers, self._gpus = {}, {}
        ending = [threading.Thread(target=stack.close) for stack in stacks.values()]
        for thread in ending:  # all at once, because each takes seconds
            thread.start()
        for thread in ending:
            thread.join()
        return {"generation": self.generation}


def told_error(error: ServerError) -> Message:
    """The error as a message."""
    return {"message": error.message, "failure_class": error.failure_class, "where": error.where, "next_step": error.next_step}


def has_several(arm: Arm) -> bool:
    """Whether the arm's system has more than one process group, so that its nodes need a leader."""
    return len(arm.placements) > 1 or arm.has_parts


def is_real(arm: Arm) -> bool:
    """Whether the arm's servers need GPUs."""
    return not adapter(arm.engine).is_simulated
