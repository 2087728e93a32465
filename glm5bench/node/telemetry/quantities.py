"""The quantities read from every GPU: names and units, in the order of a reading. Uses only the standard library, to start fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

UNITS = {
    "power": "W",
    "energy": "J since the driver was loaded",
    "sm_clock": "MHz",
    "memory_clock": "MHz",
    "temperature": "degrees Celsius",
    "utilisation": "share of the time in which a kernel ran",
    "memory_used": "GiB",
    "power_capped": "1: held back by its power limit",
    "slowed_down": "1: slowed down by heat or by its power supply",
    "ecc_uncorrected": "errors since the driver was loaded",
}
Values = Mapping[str, float | None]  # keys: the names above; None or no entry: not supported by this GPU


@dataclass(frozen=True)
class Device:
    """One GPU. `index`: its number on this node; `uuid`: its globally unique name."""

    index: int
    uuid: str
    name: str
    driver: str


class Reader(Protocol):
    """The GPUs of a node, read through one vendor's library or tool."""

    @property
    def devices(self) -> Sequence[Device]:
        """The GPUs, ordered by number."""

    def read(self) -> Sequence[Values]:
        """The current values of each device, in order. Values that cannot be read are None; nothing is raised."""

    def processes(self, device: Device) -> Sequence[int]:
        """The ids of the processes that compute on the device; empty if unknown."""
