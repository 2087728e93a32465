"""How simulated prefill and decode workers pass the cache of a prompt on.

A router sends a request to one worker of both kinds, with the same room number and the address of the prefill worker's bootstrap port.
The decode worker asks there, and gets an answer when the prompt has been computed. Then the cache needs its time for the transfer.
"""

from __future__ import annotations

import asyncio
import contextlib

from ..memory import kv_bytes_per_token
from ..values.groups import Hardware
from ..values.point import Arm

WAITING_S = 300.0  # SGLANG_DISAGGREGATION_WAITING_TIMEOUT
ROOM_BYTES = 32


class TransferError(Exception):
    """No cache came from the prefill worker."""


class Rooms:
    """The prompts that a prefill worker has computed or will compute, by room."""

    def __init__(self) -> None:
        self._computed: dict[int, asyncio.Event] = {}

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """Answers decode workers at this address."""
        return await asyncio.start_server(self._answer, host, port, limit=ROOM_BYTES)

    def computed(self, room: int) -> None:
        """States that the prompt of this room has been computed."""
        self._of(room).set()
        asyncio.get_running_loop().call_later(WAITING_S, self._computed.pop, room, None)

    def _of(self, room: int) -> asyncio.Event:
        return self._computed.setdefault(room, asyncio.Event())

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ValueError, OSError, TimeoutError, asyncio.TimeoutError, asyncio.LimitOverrunError):
            room = int(await reader.readline())
            await asyncio.wait_for(self._of(room).wait(), WAITING_S)
            self._computed.pop(room, None)
            writer.write(b"computed\n")
            await writer.drain()
        writer.close()


async def fetched(host: str, port: int, room: int) -> None:
    """Returns when the prefill worker has computed the prompt. Raises TransferError if it does not answer so."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(b"%d\n" % room)
            said = await asyncio.wait_for(reader.readline(), WAITING_S)
        finally:
            writer.close()
    except (OSError, asyncio.TimeoutError) as error:
        raise TransferError(f"the prefill worker at {host}:{port} does not answer: {error}") from error
    if said != b"computed\n":
        raise TransferError(f"the prefill worker at {host}:{port} ended before the cache of room {room} was computed")


def bytes_per_token(arm: Arm, kv_dtype: str) -> float:
    """Bytes of cache of one token that each GPU of a decode worker receives."""
    return kv_bytes_per_token(arm.checkpoint, kv_dtype, draft=arm.speculative.steps > 0, tp=arm.attention_tp)


def bandwidth_bytes_s(hardware: Hardware, gpus: int) -> float:
    """Of a GPU to those of the other workers: inside the scale-up domain if that holds the whole system, else to other nodes."""
    return 1e9 * (hardware.scale_up_gb_s if gpus <= hardware.scale_up_world else hardware.scale_out_gb_s)
