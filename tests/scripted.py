"""A real server on loopback that plays a script (given bytes in given pieces, resets, hangs, TLS) and records the requests.

The script for each request is a list of steps: bytes are sent, a float is a pause in seconds, an End ends the connection or the server.
"""

import contextlib
import enum
import json
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from glm5bench.client.results import Result
from glm5bench.client.shards import measured
from glm5bench.client.traffic import Prepared, Target, Traffic
from glm5bench.client.workload import Prompt


class End(enum.Enum):
    """How a connection ends without an answer. `hang` waits until the client has gone; after `die` the server refuses connections."""

    CLOSE, RESET, HANG, DIE = range(4)


Step = bytes | float | End


@dataclass(frozen=True)
class Request:
    """One request as the server received it. `number`: the number of earlier requests of the same kind, on all connections."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    number: int
    connection: int
    at_ns: int

    @property
    def said(self) -> dict:
        """The JSON of its body."""
        return json.loads(self.body)


def head(*headers: str, status: str = "200 OK") -> bytes:
    return "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *headers, "")).encode()


def sized(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """An answer with its length in the header."""
    return head(*headers, f"content-length: {len(body)}", status=status) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def chunked(*pieces: bytes) -> list[Step]:
    """An answer in chunks, each sent separately."""
    return [head("content-type: text/event-stream", "transfer-encoding: chunked"), *map(chunk, pieces), chunk(b"")]


def tokens(n: int, *, prompt: int = 3, finish: str = "length") -> list[bytes]:
    """The events of a stream of n tokens, one per event, and its [DONE]."""
    counts = [{"prompt_tokens": prompt, "completion_tokens": i} for i in range(1, n + 1)]
    choices = [[{"text": "a", "finish_reason": finish if i == n else None}] for i in range(1, n + 1)]
    said = [json.dumps({"choices": c, "usage": u}) for c, u in zip(choices, counts, strict=True)]
    return [f"data: {text}\n\n".encode() for text in [*said, "[DONE]"]]


def answer(n: int = 2) -> list[Step]:
    """A complete answer of n tokens."""
    return chunked(*tokens(n))


WARM = "/v1/models"  # the load client's request when it opens a connection
MODELS = sized(b'{"data": [{"id": "model"}]}')
Play = Callable[[Request], Sequence[Step]]


@dataclass
class Scripted:
    """Plays `play` for each request except GET /v1/models, which it answers with `models`.

    `greeting`: sent on each connection before anything is read. `early`: sent for each POST before its body is read.
    """

    play: Play
    greeting: Sequence[Step] = ()
    tls: ssl.SSLContext | None = None
    models: Sequence[Step] = (MODELS,)
    early: Sequence[Step] = ()
    is_nagled: bool = False  # small pieces wait for the acknowledgement of the one before, as those of SGLang's router do
    requests: list[Request] = field(default_factory=list)
    n_connections: int = 0
    in_flight: int = 0
    peak: int = 0

    def __enter__(self) -> "Scripted":
        self._lock, self._sockets, self._threads = threading.RLock(), [], []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.die()
        for thread in self._threads:
            thread.join()

    def die(self) -> None:
        """Closes all connections and accepts no new ones."""
        with self._lock:
            for sock in (self._listener, *self._sockets):
                _gone(sock)
            self._listener.close()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        self._threads.append(threading.Thread(target=target, args=args))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, int(not self.is_nagled))
            with self._lock:
                number, self.n_connections = self.n_connections, self.n_connections + 1
                self._sockets.append(sock)
                self._start(self._serve, sock, number)

    def _serve(self, sock: socket.socket, connection: int) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:  # the client has gone, or does not trust the certificate
            stack.enter_context(sock)
            if not self._played(sock, self.greeting):
                return
            if self.tls is not None:
                sock = stack.enter_context(self.tls.wrap_socket(sock, server_side=True))
                self._sockets.append(sock)
            file = stack.enter_context(sock.makefile("rb"))
            while (request := self._read(sock, file, connection)) is not None and self._answered(sock, request):
                pass

    def _read(self, sock: socket.socket, file: BinaryIO, connection: int) -> Request | None:
        line = file.readline().decode()
        if not line:
            return None
        headers = {}
        while (field_ := file.readline().decode().strip()) != "":
            name, _, value = field_.partition(":")
            headers[name.lower()] = value.strip()
        length, (method, path, _) = int(headers.get("content-length", 0)), line.split()
        if method == "POST" and not self._played(sock, self.early):
            return None
        if len(body := file.read(length)) < length:
            return None
        with self._lock:
            request = Request(method, path, headers, body, len(self.requests), connection, time.monotonic_ns())
            if path != WARM:
                self.requests.append(request)
                self.in_flight += 1
                self.peak = max(self.peak, self.in_flight)
            return request

    def _answered(self, sock: socket.socket, request: Request) -> bool:
        if request.path == WARM:
            return self._played(sock, self.models)
        *steps, last = self.play(request) or [b""]
        try:
            if not self._played(sock, steps):
                return False
        finally:
            with self._lock:
                self.in_flight -= 1  # before the last byte: the next request may come right after it
        return self._played(sock, [last])

    def _played(self, sock: socket.socket, steps: Sequence[Step]) -> bool:
        """Plays the steps; whether the connection stays open after them."""
        for step in steps:
            if isinstance(step, bytes):
                sock.sendall(step)
            elif isinstance(step, float):
                time.sleep(step)
            elif step is End.HANG:
                while sock.recv(65536):
                    pass
                return False
            elif step is End.DIE:
                self.die()
                return False
            elif step is End.RESET:  # the kernel sends a reset when the socket is closed, as for a process that has ended
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            else:
                _gone(sock)
                return False
        return True


def _gone(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def nowhere() -> str:
    """An address at which no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


def sessions(n: int, *, turns: int = 1, n_out: int = 2, pause_s: float = 0.0, padding: str = "") -> list[tuple[Prompt, ...]]:
    """Conversations whose requests contain their own number."""

    def prompt(i: int, turn: int) -> Prompt:
        body = json.dumps({"session": i, "turn": turn, "padding": padding}).encode()
        return Prompt(body, 3, n_out, pause_s if turn else 0.0)

    return [tuple(prompt(i, turn) for turn in range(turns)) for i in range(n)]


def loaded(
    url: str,
    talks: Sequence[tuple[Prompt, ...]],
    *,
    concurrency: int = 1,
    stall_s: float = 30.0,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] = lambda done, of: None,
    processes: int = 1,
    **traffic,
) -> Result:
    """The load client's measurement of these conversations."""
    prepared = Prepared.of(talks)
    target = Target(url, "/v1/completions", {"authorization": "Bearer s3cret"}, stall_s, check)
    try:
        return measured(target, prepared, Traffic(concurrency, **traffic), progress, processes=processes)
    finally:
        prepared.spool.close()


def certificate(folder: Path) -> Path:
    """A file with a self-signed certificate for 127.0.0.1 and its key."""
    file = folder / "certificate.pem"
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1")
    words = ["openssl", *new, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key.pem"), "-out", str(file)]
    subprocess.run(words, check=True, capture_output=True)
    file.write_text(file.read_text() + (folder / "key.pem").read_text())
    return file
