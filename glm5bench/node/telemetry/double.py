"""A double of NVML's Python library, for GPUs that are not there: its readings come from a simulated server, or from a recording.

It has the functions, units and errors of pynvml that `nvml.Nvml` uses, so that what reads it is what reads a GPU. A source gives one
reading each time that the number of GPUs is asked for: a list with a mapping for each GPU, by the names of `FIELDS`. A field that lacks
is a quantity that this GPU does not support.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FIELDS = ("uuid", "name", "power_mw", "energy_mj", "sm_mhz", "memory_mhz", "temperature_c", "utilisation_percent", "memory_used_b",
          "event_reasons", "ecc_uncorrected")  # fmt: skip
Reading = Sequence[Mapping[str, Any]]


class NVMLError(Exception):
    """The error of every function of NVML."""


class NVMLError_NotSupported(NVMLError):
    """The quantity is none of this GPU's."""


class NVMLError_FunctionNotFound(NVMLError):
    """The function is none of this driver's."""


class NVMLError_GpuIsLost(NVMLError):
    """The GPU was there, and is not any more."""


class Library:
    """The module's functions. A handle is the GPU's number."""

    NVMLError = NVMLError
    NVMLError_NotSupported = NVMLError_NotSupported
    NVMLError_FunctionNotFound = NVMLError_FunctionNotFound
    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2
    NVML_TEMPERATURE_GPU = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = 1, 0

    def __init__(self, source: Callable[[], Reading], driver: str = "double") -> None:
        self._source, self._driver = source, driver
        self._now: Reading = ()

    def nvmlInit(self) -> None:
        """Raises NVMLError where there is nothing to read."""
        self.nvmlDeviceGetCount()

    def nvmlSystemGetDriverVersion(self) -> str:
        """Of the driver."""
        return self._driver

    def nvmlDeviceGetCount(self) -> int:
        """How many there are; a new reading begins."""
        self._now = ()
        try:
            self._now = self._source()
        except (OSError, ValueError, StopIteration) as error:
            raise NVMLError(f"there is no reading: {error}") from error
        return len(self._now)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        """The GPU's number."""
        return index

    def nvmlDeviceGetUUID(self, h: int) -> str:
        """Its name anywhere."""
        return str(self._field(h, "uuid"))

    def nvmlDeviceGetName(self, h: int) -> str:
        """What it is."""
        return str(self._field(h, "name"))

    def nvmlDeviceGetPowerUsage(self, h: int) -> int:
        """Milliwatts."""
        return int(self._field(h, "power_mw"))

    def nvmlDeviceGetTotalEnergyConsumption(self, h: int) -> int:
        """Millijoules since the driver was loaded."""
        return int(self._field(h, "energy_mj"))

    def nvmlDeviceGetClockInfo(self, h: int, kind: int) -> int:
        """MHz."""
        return int(self._field(h, "sm_mhz" if kind == self.NVML_CLOCK_SM else "memory_mhz"))

    def nvmlDeviceGetTemperature(self, h: int, sensor: int) -> int:
        """Degrees Celsius."""
        return int(self._field(h, "temperature_c"))

    def nvmlDeviceGetTemperatureV(self, h: int, sensor: int) -> int:
        """A function that this library is too old for."""
        raise NVMLError_FunctionNotFound("nvmlDeviceGetTemperatureV")

    def nvmlDeviceGetUtilizationRates(self, h: int) -> SimpleNamespace:
        """`gpu` in percent."""
        return SimpleNamespace(gpu=int(self._field(h, "utilisation_percent")))

    def nvmlDeviceGetMemoryInfo(self, h: int) -> SimpleNamespace:
        """`used` in bytes."""
        return SimpleNamespace(used=int(self._field(h, "memory_used_b")))

    def nvmlDeviceGetCurrentClocksEventReasons(self, h: int) -> int:
        """A mask of nvmlClocksEventReason*."""
        return int(self._field(h, "event_reasons"))

    def nvmlDeviceGetTotalEccErrors(self, h: int, kind: int, counter: int) -> int:
        """Errors since the driver was loaded."""
        return int(self._field(h, "ecc_uncorrected"))

    def nvmlDeviceGetComputeRunningProcesses(self, h: int) -> list[Any]:
        """Those that the reading names; a simulated GPU has none."""
        return [SimpleNamespace(pid=pid) for pid in (self._now[h].get("pids", ()) if h < len(self._now) else ())]

    def _field(self, h: int, name: str) -> Any:
        if h >= len(self._now):
            raise NVMLError_GpuIsLost(f"GPU {h} is lost")
        if name not in self._now[h]:
            raise NVMLError_NotSupported(f"{name} is not supported")
        return self._now[h][name]


def recorded(path: Path) -> Callable[[], Reading]:
    """The readings of a recording, one a line as JSON, in their order; then OSError."""
    lines: Iterator[str] = iter(path.read_text(encoding="utf-8").splitlines())

    def source() -> Reading:
        line = next(lines, None)
        if line is None:
            raise OSError(f"{path} has no further reading")
        found: Reading = json.loads(line)
        return found

    return source
