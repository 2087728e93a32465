"""The load protocol of one point against a server that is ready: warm up, encode, measure.

Enters: an address, a workload, a concurrency. Leaves: the raw times of every request, and the client's own health. It does not
start or end a server, and writes no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..analysis.metrics import Requests
from ..errors import ClientError, FileError
from ..files import sha256
from ..values.point import Point
from ..values.workload import Workload
from . import recorded
from .counting import counting, token_counter
from .endpoint import Endpoint
from .load import Progress
from .results import Health
from .shards import measured
from .traffic import Prepared, Target, Traffic
from .workload import LAST_ID, PATHS, Counting, Encoder, Session


@dataclass(frozen=True)
class Measured:
    """The result of one run of the load. Times are ns since `start_ns` of the monotonic clock."""

    requests: Requests
    health: Health
    start_ns: int
    ended_by: Exception | None = None  # why the run ended early

    @property
    def n_failed(self) -> int:
        """Requests without a whole answer."""
        return int((~self.requests.is_whole).sum())


@dataclass(frozen=True)
class Patience:
    """How long to wait for a silent server, in seconds, and a check that raises when the run must end."""

    stall_s: float
    check: Callable[[], None] = lambda: None


class Protocol:
    """One point's load. `time_scale`: how much faster than real time the server's clock runs; 1 unless it is simulated."""

    keeps_cache = False  # the cache is emptied after the warm-up

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        workload: Workload,
        point: Point,
        patience: Patience,
        progress: Progress,
        *,
        vocabulary: int = LAST_ID,
        time_scale: float = 1.0,
        processes: int | None = None,
        attempt: int = 1,
        wants_steps: bool = False,
    ) -> None:
        self._workload, self._point, self._progress, self._scale = workload, point, progress, time_scale
        self._endpoint, self._model, self._processes = endpoint, model, processes
        self._target = Target(endpoint.base_url, PATHS[workload.endpoint], endpoint.headers, patience.stall_s, patience.check)
        counts = counting(endpoint, model) if workload.endpoint == "chat" and workload.content != "conversations" else Counting()
        self._encoder = Encoder(workload, point, model, vocabulary, counts, attempt, wants_steps=wants_steps)
        self._cpu_share = 0.0  # of one core, in the warm-up

    @property
    def about(self) -> dict[str, Any]:
        """Facts of what is sent, for the provenance: none."""
        return {}

    @property
    def has_warmups(self) -> bool:
        """Whether anything is sent before the clock starts."""
        return self._workload.n_warmups(self._point.concurrency) > 0

    def warm_up(self) -> Measured:
        """Sends the warm-up's requests in a closed loop, and returns their result."""
        traffic = Traffic(self._point.concurrency)
        done = self._run(Prepared.of(self._encoder.warmups()), traffic, processes=self._processes or 1)
        self._cpu_share = done.health.cpu_share
        return done

    def encode(self) -> None:
        """Encodes all requests of the measurement.

        Raises SettingsError if the workload's file is invalid, FileError if it is not the file that the plan used.
        """
        is_recorded = self._workload.content == "conversations"
        with token_counter(self._endpoint, self._model) if is_recorded else nullcontext() as count:
            sessions, due_s = self._sessions(count)
            self._prepared = Prepared.of(sessions)
        w, scale = self._workload, self._scale
        for trace in self._prepared.traces:
            trace.pause_s /= scale
        self._traffic = Traffic(
            self._point.concurrency,
            due_s=[due / scale for due in due_s] if due_s is not None else None,
            ramp_s=w.ramp_s / scale,
            duration_s=w.duration_s / scale if w.duration_s is not None else None,
        )

    def measure(self) -> Measured:
        """Sends everything and waits for all answers, or until the run is ended by an error of the patience's check or a ServerError."""
        return self._run(self._prepared, self._traffic, processes=self._processes)

    def _run(self, prepared: Prepared, traffic: Traffic, *, processes: int | None) -> Measured:
        try:
            result = measured(self._target, prepared, traffic, self._progress, processes=processes, cpu_share=self._cpu_share)
        finally:
            prepared.spool.close()
        errors = tuple(map(self._endpoint.redacted, result.requests.error))  # a gateway may repeat the key that it refuses
        return Measured(replace(result.requests, error=errors), result.health, result.start_ns, result.ended_by)

    def _sessions(self, count: Callable[[str], int] | None) -> tuple[Iterable[Session], Sequence[float] | None]:
        w, encoder = self._workload, self._encoder
        if w.content == "random" or w.file is None:
            return encoder.drawn(), encoder.due_s(None)
        refuse_another_file(w)
        if w.content == "conversations":
            talks = recorded.conversations(w.file, w.turns)
            return encoder.conversations(talks, count), encoder.due_s(None)
        trace = recorded.trace(w.file)[: w.prompts]
        return encoder.traced(trace), encoder.due_s(trace)


def refuse_another_file(w: Workload) -> None:
    """Raises FileError if the workload's file is not the one that the plan used, ClientError if it cannot be read."""
    if w.file is None or w.file_sha256 is None:
        return
    try:
        found = sha256(Path(w.file).expanduser())
    except OSError as error:
        raise ClientError(f"The workload's file cannot be read here: {error.strerror or error}.", where=w.file) from error
    if found != w.file_sha256:
        raise FileError("The workload's file is not the one that the plan used.", path=w.file, next_step="plan again")
