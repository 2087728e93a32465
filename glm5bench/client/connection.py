"""One TCP connection whose reads are stamped by the kernel, and otherwise stored unprocessed.

A read is one recvmsg into a reused buffer. llhttp finds the body in it; the bytes of the body and the stamp are appended. No task is
woken before the answer is whole. Plain HTTP/1.1 and TLS. Errors are httpx's own, with their class before the colon. The bytes of an
answer and of its head are limited. `stale` is the class of a request that was sent while the server closed the idle connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections.abc import Callable

import httptools
import httpx

from .clock import ANCILLARY_BYTES, Clock, acknowledge_at_once, asks_for_stamps, unpack_stamp
from .exchange import Exchange, Readings

READ_BYTES = 2**18
MOST_BYTES = 2**26  # of an answer, unless the caller sets another limit
MOST_HEAD_BYTES = 2**16  # of status line and headers, with interim answers (100 Continue)
STALE_S = 1.0  # a connection that closes later than this after a request was sent was not idle
PORTS = {"http": 80, "https": 443}
Address = tuple[str, str, int]  # scheme, host, port


def address(url: httpx.URL) -> Address:
    """The address to which requests to this URL are sent."""
    return url.scheme, url.host, url.port or PORTS.get(url.scheme, 80)


def head(request: httpx.Request) -> bytes:
    """Request line and headers as they are sent, without the length of the body and the empty line that ends them."""
    lines = [b"%s %s HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%s: %s" % pair for pair in request.headers.raw if pair[0].lower() not in (b"content-length", b"transfer-encoding")]
    return b"\r\n".join(lines) + b"\r\n"


def encoded(head_: bytes, body: bytes) -> bytes:
    """The request as it is sent."""
    return b"%scontent-length: %d\r\n\r\n%s" % (head_, len(body), body)


class Connection:
    """One TCP connection, one exchange at a time."""

    def __init__(self, where: Address, clock: Clock, readings: Readings, buffer: memoryview, context: ssl.SSLContext | None = None) -> None:
        self.where, self._clock, self._readings, self._buffer, self._context = where, clock, readings, buffer, context
        self._loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = None
        self._tls: ssl.SSLObject | None = None
        self._exchange: Exchange | None = None
        self._unsent = memoryview(b"")
        self._now_ns = 0
        self._is_reused = False
        self._buffers = [buffer]
        self.on_body: Callable[[bytes], None]  # llhttp calls it with parts of the body, which go directly to the exchange

    @property
    def exchange(self) -> Exchange | None:
        """The exchange in progress."""
        return self._exchange

    @property
    def is_open(self) -> bool:
        """Whether a request could be sent now."""
        return self._sock is not None

    def is_usable(self) -> bool:
        """Whether a request could be sent now, according to the kernel: a server may silently close the connection after an answer."""
        if self._sock is None:
            return False
        try:
            is_ended = not self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            is_ended = True
        if is_ended:
            self.close()
        return not is_ended

    async def open(self, timeout_s: float | None = 30.0) -> None:
        """Connects. Raises httpx.ConnectTimeout or httpx.ConnectError, which names the cause: DNS, port or TLS."""
        self.close()
        try:
            await asyncio.wait_for(self._open(), timeout_s)
        except (TimeoutError, asyncio.TimeoutError):
            self.close()
            raise httpx.ConnectTimeout(f"hang: no connection to {self.where[1]}:{self.where[2]} within {timeout_s:g} s") from None
        except BaseException:
            self.close()
            raise
        self._readings.connects += 1

    async def _open(self) -> None:
        scheme, host, port = self.where
        try:
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # UnicodeError: the codec rejects an invalid name
            raise httpx.ConnectError(f"dns: {host}: {getattr(error, 'strerror', None) or error}") from error
        failed: OSError | None = None
        for family, kind, protocol, _, sockaddr in found:
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as error:
                raise httpx.ConnectError(f"local: cannot create a socket: {error.strerror or error}") from error
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                asks_for_stamps(sock)
                await self._loop.sock_connect(sock, sockaddr)
                break
            except OSError as error:
                sock.close()
                failed = error
            except BaseException:
                sock.close()
                raise
        else:
            class_ = "refused" if isinstance(failed, ConnectionRefusedError) else "unreachable"
            why = (os.strerror(failed.errno) if failed.errno else str(failed)) if failed is not None else "it has no address"
            raise httpx.ConnectError(f"{class_}: {host}:{port}: {why}") from failed
        self._sock, self._is_reused = sock, False
        if scheme == "https":
            await self._handshaken(host)
        self._loop.add_reader(sock.fileno(), self._readable)

    async def _handshaken(self, host: str) -> None:
        """Performs the TLS handshake in memory, so that records pass through the same reads as plain text, with the same stamps."""
        assert self._sock is not None
        assert self._context is not None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        try:
            while not await self._is_handshaken(tls, self._sock):
                pass
        except OSError as error:  # includes ssl.SSLError
            raise httpx.ConnectError(f"tls: {error}") from error
        self._tls = tls

    async def _is_handshaken(self, tls: ssl.SSLObject, sock: socket.socket) -> bool:
        """Performs one round of the handshake, and returns whether it is complete."""
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
            await self._loop.sock_sendall(sock, self._outgoing.read())
            return True
        await self._loop.sock_sendall(sock, self._outgoing.read())
        data = await self._loop.sock_recv(sock, READ_BYTES)
        if not data:
            raise httpx.ConnectError("tls: the connection was closed in the handshake")
        self._incoming.write(data)
        return False

    def begin(self, request: bytes, most_bytes: int = MOST_BYTES) -> Exchange:
        """Sends an encoded request immediately; the exchange collects its answer. The connection must be open and idle."""
        assert self._exchange is None, "a connection has one exchange at a time"
        exchange = self._exchange = Exchange(self._loop, most_bytes, is_reused=self._is_reused)
        self.on_body = exchange.body.extend
        if self._sock is None:  # the server has closed it since it was opened
            exchange.sent_ns = exchange.last_ns = exchange.token_ns = time.monotonic_ns()
            self._end(httpx.WriteError("reset: the connection was closed before anything was sent"))
            return exchange
        self._parser = httptools.HttpResponseParser(self)
        if self._tls is not None:
            self._tls.write(request)
            request = self._outgoing.read()
        exchange.sent_ns = exchange.last_ns = exchange.token_ns = time.monotonic_ns()
        try:
            sent = self._sock.send(request)
            acknowledge_at_once(self._sock)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._end(httpx.WriteError(f"reset: {error.strerror or error}"))
            return exchange
        if sent < len(request):
            self._unsent = memoryview(request)[sent:]
            self._loop.add_writer(self._sock.fileno(), self._writable)
        return exchange

    def _writable(self) -> None:
        assert self._sock is not None
        try:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError as error:
            self._end(httpx.WriteError(f"reset: {error.strerror or error}"))
            return
        if not self._unsent:
            self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        assert self._sock is not None
        try:
            n, ancillary, _, _ = self._sock.recvmsg_into(self._buffers, ANCILLARY_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(httpx.ReadError(f"reset: {error.strerror or error}"))
            return
        now = at = time.monotonic_ns()
        acknowledge_at_once(self._sock)
        exchange = self._exchange
        if exchange is None:
            if self._tls is None or not n:
                self.close()  # the server closed it, or sent data without a request
            else:
                self._decrypted(self._buffer[:n])  # session tickets may arrive at any time
            return
        if n == 0:  # the end of the connection has no bytes and no stamp
            self._now_ns = now
            self._ended_by_peer(exchange)
            return
        data = self._buffer[:n] if self._tls is None else self._decrypted(self._buffer[:n])
        if not data:
            return  # session tickets, or half a record: no byte of the answer
        readings = self._readings
        readings.reads += 1
        if ancillary:  # hot path, runs for every chunk: avoid function calls
            seconds, ns = unpack_stamp(ancillary[0][2])
            stamp = seconds * 1_000_000_000 + ns + self._clock.offset_ns
            if exchange.sent_ns <= stamp <= now:  # ignore the stamp if the clock was set in between
                at = stamp
                readings.stamped += 1
                readings.lag_ns.append(now - at)
        self._now_ns = exchange.last_ns = at
        exchange.n_bytes += n
        if exchange.n_bytes > exchange.most_bytes:
            self._end(httpx.RemoteProtocolError(f"too large: the answer has more than {exchange.most_bytes:,} bytes"))
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._exchange is exchange:
                self._end(httpx.RemoteProtocolError(f"protocol: {error}"))
            else:
                self.close()  # bytes after the end of an answer
        exchange.at.append(at)
        exchange.cuts.append(len(exchange.body))
        if exchange.status < 0 and exchange.n_bytes > MOST_HEAD_BYTES and self._exchange is exchange:
            self._end(httpx.RemoteProtocolError(f"too large: the head of the answer has more than {MOST_HEAD_BYTES:,} bytes"))

    def _decrypted(self, data: memoryview) -> bytes:
        assert self._tls is not None
        self._incoming.write(data)
        plain = bytearray()
        try:
            while part := self._tls.read(READ_BYTES):
                plain += part
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        except ssl.SSLError as error:
            self._end(httpx.ReadError(f"tls: {error}"))
        if self._outgoing.pending and self._sock is not None:  # the reply to a key update
            if self._unsent:
                self._unsent = memoryview(bytes(self._unsent) + self._outgoing.read())
            else:
                with contextlib.suppress(OSError):  # if this fails, the connection ends by itself
                    self._sock.send(self._outgoing.read())
        return bytes(plain)

    # callbacks of llhttp

    def on_header(self, name: bytes, value: bytes) -> None:
        """Stores a header of the answer; trailers after the body are ignored."""
        assert self._exchange is not None
        if self._exchange.status < 0:
            self._exchange.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Called when the head of an answer is complete. Interim answers (100 Continue) are skipped."""
        exchange, status = self._exchange, self._parser.get_status_code()
        assert exchange is not None
        if status < 200:
            exchange.headers.clear()
            return
        exchange.status = status
        if not exchange.head.done():
            exchange.head.set_result(None)

    def on_message_complete(self) -> None:
        """Called when the answer is complete: ends the exchange."""
        if self._exchange is not None and self._exchange.status >= 0:
            is_kept = self._parser.should_keep_alive() and not self._unsent
            self._end(None)
            if not is_kept:
                self.close()

    def _ended_by_peer(self, exchange: Exchange) -> None:
        has_length = exchange.header(b"content-length") or exchange.header(b"transfer-encoding")
        if exchange.status >= 0 and not has_length:  # a body without a length ends with its connection
            exchange.is_framed = False
            self._end(None)
            self.close()
        elif not exchange.at:
            self._end(httpx.RemoteProtocolError("reset: the connection was closed before any answer"))
        else:
            self._end(httpx.RemoteProtocolError("cut short: the connection was closed in the middle of the answer"))

    def abort(self, error: Exception) -> None:
        """Ends the exchange in progress, if there is one, and closes the connection."""
        if self._exchange is not None:
            self._end(error)
        self.close()

    def _end(self, error: Exception | None) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        exchange.error, exchange.end_ns = error, self._now_ns if error is None else time.monotonic_ns()
        if error is not None:
            if _is_stale(exchange, error):
                exchange.error = httpx.RemoteProtocolError("stale: the server closed the idle connection while it was used again")
            self.close()
        self._is_reused = True
        for future in (exchange.head, exchange.ended):
            if not future.done():
                future.set_result(None)

    def close(self) -> None:
        """Closes the socket and drops unsent data."""
        sock, self._sock, self._tls, self._unsent = self._sock, None, None, memoryview(b"")
        if sock is not None:
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())
            with contextlib.suppress(OSError):
                sock.close()


def _is_stale(exchange: Exchange, error: Exception) -> bool:
    """Whether the server was closing the connection when a request was sent: a reused connection was reset soon, before any answer."""
    was_soon = exchange.end_ns - exchange.sent_ns < STALE_S * 1e9
    return exchange.is_reused and not exchange.at and was_soon and str(error).startswith("reset: ")
