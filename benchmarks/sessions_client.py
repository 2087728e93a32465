"""How late the replay of agent sessions is, and what it does to the gaps between tokens of other requests.

A server on loopback in another process streams a token of every answer every 20 ms. 64 sessions with prompts of 114,000 tokens are
replayed against it, and for comparison 64 sessions with prompts of 64 tokens, whose bodies cost nothing.
Usage: python benchmarks/sessions_client.py [SECONDS]
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import tempfile
from pathlib import Path

import numpy as np

from glm5bench.client.endpoint import Endpoint
from glm5bench.client.protocol import Measured, Patience
from glm5bench.replay.protocol import SessionsProtocol
from glm5bench.sessions.file import Call, Session, Sessions, written
from glm5bench.values.point import Point
from glm5bench.values.workload import Workload

USERS, TOKENS, GAP_S = 64, 60, 0.02
LONG, SHORT = 114_000 // 64, 1
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def _answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            size = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")), 0)
            n_prompt = (await reader.readexactly(size)).count(b",")
            if b"/v1/completions" not in head:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                continue
            writer.write(HEAD)
            for i in range(TOKENS):
                await asyncio.sleep(GAP_S)
                _chunk(writer, {"choices": [{"text": "a", "finish_reason": "length" if i + 1 == TOKENS else None}]})
            _chunk(writer, {"choices": [], "usage": {"prompt_tokens": n_prompt, "completion_tokens": TOKENS}})
            text = b"data: [DONE]\n\n"
            writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(text), text))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def _chunk(writer: asyncio.StreamWriter, event: object) -> None:
    text = b"data: " + json.dumps(event).encode() + b"\n\n"
    writer.write(b"%x\r\n%s\r\n" % (len(text), text))


def serve(ports: multiprocessing.SimpleQueue[int]) -> None:
    """The server."""

    async def run() -> None:
        server = await asyncio.start_server(_answered, "127.0.0.1", 0, limit=2**24)
        ports.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def sessions(blocks: int) -> Sessions:
    """Sessions whose prompts have this many blocks of 64 tokens and grow by one, with pauses of half a second."""

    def calls(n: int) -> tuple[Call, ...]:
        return tuple(Call(i, 0, (i - 1,) if i else (), 0.5, ((0, blocks + i),), 7, TOKENS) for i in range(n))

    return Sessions(tuple(Session(f"s{i}", 64, calls(400)) for i in range(USERS)))


def measured(url: str, blocks: int, seconds: float, folder: Path) -> Measured:
    """A point."""
    path = folder / f"{blocks}.jsonl"
    written(sessions(blocks), path)
    more = {"content": "sessions", "file": str(path), "duration_s": seconds, "entry": (0.0, 0.9)}
    workload = Workload("s", 1, 1, 1.0, "completions", 10, None, 0, **more)  # type: ignore[arg-type]  # by name
    client = SessionsProtocol(
        Endpoint(url, ""), "m", workload, Point("k" * 20, "a", USERS, 0, 0, USERS), Patience(30), lambda done, of: None, vocabulary=150_000
    )
    return client.measure()


def main() -> None:
    """Prints both and their ratios."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    ports: multiprocessing.SimpleQueue[int] = multiprocessing.SimpleQueue()
    server = multiprocessing.Process(target=serve, args=(ports,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ports.get()}"
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, blocks in (("64 tokens", SHORT), ("114,000 tokens", LONG)):
            done = measured(url, blocks, seconds, Path(folder))
            r, plays = done.requests, done.requests.plays
            assert plays is not None
            assert r.is_whole.all()
            late = (r.sent_ns - plays.due_ns[: len(r.sent_ns)]) / 1e6
            owner = np.repeat(np.arange(len(r.error)), np.diff(r.chunk_offsets))
            gaps = np.diff(r.chunk_ns)[np.diff(owner) == 0] / 1e6
            found[name] = (late, gaps)
            print(
                f"{name:>15}: {len(r.error)} requests; late ms median {np.median(late):.2f}, p99 {np.percentile(late, 99):.2f}; "
                f"gap ms median {np.median(gaps):.2f}, p99 {np.percentile(gaps, 99):.2f}; CPU {done.health.cpu_share:.2f} cores"
            )
    server.kill()
    (_, short), (_, long) = found.values()
    median, p99 = (np.percentile(long, q) / np.percentile(short, q) for q in (50, 99))
    print(f"gaps, long over short prompts: median {median:.3f}, p99 {p99:.3f}")


if __name__ == "__main__":
    main()
