"""An HTTP server on loopback in a thread, for tests: it turns each request's path and JSON body into pieces of an answer."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator


class Loopback:
    """A context manager with a `url`. Subclasses implement `answer`."""

    def __enter__(self):
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)))
        self._thread.start()
        ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def answer(self, path: str, body: dict) -> AsyncIterator[bytes]:
        """The pieces of the answer to a request."""
        raise NotImplementedError

    def begin(self) -> None:
        """Called when the event loop runs."""

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._over, self._open = asyncio.get_running_loop(), asyncio.Event(), {}
        self.begin()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=512)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await self._over.wait()
        server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await asyncio.sleep(0.01)  # transports close in the next iterations of the loop

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._open[task] = writer
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    lengths = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
                    body = json.loads(await reader.readexactly(lengths[0])) if lengths and lengths[0] else {}
                    async for piece in self.answer(head.split(b" ")[1].decode(), body):
                        writer.write(piece)
                        await writer.drain()
        finally:
            writer.transport.abort()
            if not self._over.is_set():
                self._open.pop(task, None)
