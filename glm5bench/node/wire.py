"""Messages between the nodes of one job: JSON lines over TCP.

Before the first message, both sides prove that they know the job's secret, which is in a file that only this user can read. Either side
notices within seconds that the other is gone: each sends something at least once in BEAT_S, and silence of SILENT_S counts as its end.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import json
import secrets
import select
import socket
import struct
import threading
import time
from typing import Any

from ..errors import EnvironmentLacks

BEAT_S = 1.0
SILENT_S = 20.0
HANDSHAKE_S = 10.0
LONGEST = 2**26  # bytes of a message; telemetry of an hour has some MiB
LONGEST_OF_A_STRANGER = 2**12  # before it has proved that it knows the secret
SIOCGIFADDR = 0x8915  # netdevice(7)

Message = dict[str, Any]


class Gone(Exception):
    """The other side has closed the connection, is silent, or sent something that is not a message."""


class Wire:
    """One connection to another node of the job. `longest`: of a message that it accepts, in bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._read, self._heard = connection, b"", time.monotonic()
        self.longest = LONGEST_OF_A_STRANGER
        self._sending = threading.Lock()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(SILENT_S)

    def send(self, message: Message) -> None:
        """Sends a message. Raises Gone if the other side does not take it."""
        try:
            with self._sending:
                self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Gone(error.strerror or str(error)) from error

    def receive(self, within_s: float) -> Message | None:
        """The next message; None if there is none in this time. Raises Gone."""
        until = time.monotonic() + within_s
        while b"\n" not in self._read:
            try:
                readable, _, _ = select.select([self._connection], [], [], max(0.0, until - time.monotonic()))
            except (OSError, ValueError) as error:  # this side has closed it
                raise Gone("the connection is closed") from error
            if not readable:
                if time.monotonic() - self._heard > SILENT_S:
                    raise Gone(f"silent for {SILENT_S:g} s")
                return None
            self._more()
        line, _, self._read = self._read.partition(b"\n")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Gone("it sent something that is not a message") from error
        if not isinstance(message, dict):
            raise Gone("it sent something that is not a message")
        return message

    def _more(self) -> None:
        try:
            piece = self._connection.recv(2**16)
        except OSError as error:
            raise Gone(error.strerror or str(error)) from error
        if not piece:
            raise Gone("it closed the connection")
        self._heard = time.monotonic()
        self._read += piece
        if len(self._read.partition(b"\n")[0]) > self.longest:
            raise Gone("it sent a message that is too long")

    def close(self) -> None:
        """Closes the connection, so that the other side notices at once."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def accepted(connection: socket.socket, secret: str) -> tuple[Wire, Message] | None:
    """The wire of a node that connected, and what it says about itself. None if it does not know the secret."""
    wire = Wire(connection)
    challenge = secrets.token_hex(16)
    with contextlib.suppress(Gone):
        wire.send({"challenge": challenge})
        hello = wire.receive(HANDSHAKE_S) or {}
        if _is_proof(hello.get("proof"), secret, "member", challenge):
            wire.send({"proof": _proof(secret, "leader", str(hello.get("challenge")))})
            wire.longest = LONGEST
            return wire, hello
    wire.close()
    return None


def connected(address: str, port: int, secret: str, hello: Message) -> Wire:
    """A wire to the leader. Raises Gone if nothing answers there, or if it does not know the secret."""
    try:
        connection = socket.create_connection((address, port), timeout=HANDSHAKE_S)
    except OSError as error:
        raise Gone(error.strerror or str(error)) from error
    wire, challenge = Wire(connection), secrets.token_hex(16)
    try:
        asked = wire.receive(HANDSHAKE_S) or {}
        wire.send({**hello, "proof": _proof(secret, "member", str(asked.get("challenge"))), "challenge": challenge})
        answer = wire.receive(HANDSHAKE_S) or {}
        if not _is_proof(answer.get("proof"), secret, "leader", challenge):
            raise Gone("it does not know the secret of this job")
        wire.longest = LONGEST
    except Gone:
        wire.close()
        raise
    return wire


def _proof(secret: str, who: str, challenge: str) -> str:
    return hmac.digest(secret.encode(), f"{who} {challenge}".encode("utf-8", "surrogatepass"), "sha256").hex()


def _is_proof(given: Any, secret: str, who: str, challenge: str) -> bool:
    return hmac.compare_digest(str(given).encode("utf-8", "surrogatepass"), _proof(secret, who, challenge).encode())


def own_address(interface: str | None) -> str:
    """The IPv4 address at which the other nodes of the job reach this one: of the interface, or of the host name.

    Raises EnvironmentLacks if the interface does not exist or has no such address, or if the host name cannot be resolved.
    """
    try:
        return _own_address(interface)
    except OSError as error:
        told = ", ".join(name for _, name in socket.if_nameindex())
        what = f"network interface {interface}" if interface else f"host name {socket.gethostname()}"
        raise EnvironmentLacks(
            f"The {what} has no IPv4 address on this node: {error.strerror or error}.",
            next_step=f"set cluster.interface to the one that connects the nodes; this node has {told}",
        ) from error


def _own_address(interface: str | None) -> str:
    if interface is None:
        address = socket.gethostbyname(socket.gethostname())
        if not address.startswith("127."):
            return address
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:  # Debian resolves a host's own name to 127.0.1.1
            any_socket.connect(("192.0.2.1", 9))  # sends nothing; the kernel chooses the address of the default route
            return str(any_socket.getsockname()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("256s", interface.encode()[:15])
        return socket.inet_ntoa(fcntl.ioctl(any_socket.fileno(), SIOCGIFADDR, asked)[20:24])
