"""What is read of every GPU, whatever its vendor: names and units, in the order of a reading. Standard library only: it starts fast."""

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
Values = Mapping[str, float | None]  # by the names above; None, or no entry: this GPU does not say


@dataclass(frozen=True)
class Device:
    """One GPU. `index`: its number on this node; `uuid`: its name anywhere."""

    index: int
    uuid: str
    name: str
    driver: str


class Reader(Protocol):
    """The GPUs of a node, as one vendor's library or tool shows them."""

    @property
    def devices(self) -> Sequence[Device]:
        """In the order of their numbers."""

    def read(self) -> Sequence[Values]:
        """Now, of each device in their order. Raises nothing: what cannot be read is None."""

    def processes(self, device: Device) -> Sequence[int]:
        """The process ids that compute on it; none where nobody tells."""
