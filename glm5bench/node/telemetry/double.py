"""A double of NVML's Python library for nodes without GPUs: its readings come from a simulated server, or from a recording.

It has the functions, units and errors of pynvml that `nvml.Nvml` uses, so the same code reads it and a real GPU. A source returns one
reading each time the number of GPUs is requested: a list with one mapping per GPU, whose keys are in `FIELDS`. A missing field is a
quantity that the GPU does not support.
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
    """The base of NVML's errors."""


class NVMLError_NotSupported(NVMLError):
    """The GPU does not support this quantity."""


class NVMLError_FunctionNotFound(NVMLError):
    """The driver does not have this function."""


class NVMLError_GpuIsLost(NVMLError):
    """The GPU was present before and is now gone."""


class Library:
    """The functions of the pynvml module. A handle is the GPU's number."""

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
        """Raises NVMLError if no reading is available."""
        self.nvmlDeviceGetCount()

    def nvmlSystemGetDriverVersion(self) -> str:
        """The version of the driver."""
        return self._driver

    def nvmlDeviceGetCount(self) -> int:
        """The number of GPUs. Takes the next reading."""
        self._now = ()
        try:
            self._now = self._source()
        except (OSError, ValueError, StopIteration) as error:
            raise NVMLError(f"no reading: {error}") from error
        return len(self._now)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        """The GPU's number."""
        return index

    def nvmlDeviceGetUUID(self, h: int) -> str:
        """The GPU's globally unique name."""
        return str(self._field(h, "uuid"))

    def nvmlDeviceGetName(self, h: int) -> str:
        """The name of the GPU's model."""
        return str(self._field(h, "name"))

    def nvmlDeviceGetPowerUsage(self, h: int) -> int:
        """Power in milliwatts."""
        return int(self._field(h, "power_mw"))

    def nvmlDeviceGetTotalEnergyConsumption(self, h: int) -> int:
        """Energy in millijoules since the driver was loaded."""
        return int(self._field(h, "energy_mj"))

    def nvmlDeviceGetClockInfo(self, h: int, kind: int) -> int:
        """Clock in MHz."""
        return int(self._field(h, "sm_mhz" if kind == self.NVML_CLOCK_SM else "memory_mhz"))

    def nvmlDeviceGetTemperature(self, h: int, sensor: int) -> int:
        """Temperature in degrees Celsius."""
        return int(self._field(h, "temperature_c"))

    def nvmlDeviceGetTemperatureV(self, h: int, sensor: int) -> int:
        """Raises NVMLError_FunctionNotFound, as a library that is too old for this function does."""
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
        """The processes in the reading; a simulated GPU has none."""
        return [SimpleNamespace(pid=pid) for pid in (self._now[h].get("pids", ()) if h < len(self._now) else ())]

    def _field(self, h: int, name: str) -> Any:
        if h >= len(self._now):
            raise NVMLError_GpuIsLost(f"GPU {h} is lost")
        if name not in self._now[h]:
            raise NVMLError_NotSupported(f"{name} is not supported")
        return self._now[h][name]


def recorded(path: Path) -> Callable[[], Reading]:
    """A source of the readings in a recording, one line of JSON each, in order. After the last it raises OSError."""
    lines: Iterator[str] = iter(path.read_text(encoding="utf-8").splitlines())

    def source() -> Reading:
        line = next(lines, None)
        if line is None:
            raise OSError(f"{path} has no further reading")
        found: Reading = json.loads(line)
        return found

    return source
