"""NVIDIA's GPUs through NVML. Source: the NVML API reference; power in mW, energy in mJ, memory in bytes.

On Ampere and later `nvmlDeviceGetPowerUsage` is the mean of the last second. The library is a parameter: the double of this package takes
NVML's place where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .quantities import Device, Values

# NVML's nvmlClocksEventReason*: SwPowerCap; SwThermalSlowdown, HwSlowdown, HwThermalSlowdown, HwPowerBrakeSlowdown
POWER_CAPPED, SLOWED_DOWN = 0x4, 0x20 | 0x8 | 0x40 | 0x80


class Nvml:
    """Reads the GPUs that this process may see (Slurm's cgroups hide the others). Raises OSError where there is no driver."""

    def __init__(self, library: Any) -> None:
        self._nvml = library
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            raise OSError(f"NVML: {error}") from error
        driver = self._text(self._nvml.nvmlSystemGetDriverVersion())
        self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(i) for i in range(self._nvml.nvmlDeviceGetCount())]
        n = self._nvml
        self.devices = tuple(
            Device(i, self._text(n.nvmlDeviceGetUUID(h)), self._text(n.nvmlDeviceGetName(h)), driver) for i, h in enumerate(self._handles)
        )

    def read(self) -> Sequence[Values]:
        """Of each device; the number of GPUs is asked for first, so that one that was lost is missed."""
        self._value(self._nvml.nvmlDeviceGetCount)
        return [self._read(handle) for handle in self._handles]

    def _read(self, h: Any) -> Values:
        n = self._nvml
        reasons = self._value(lambda: self._event_reasons(h))
        return {
            "power": self._value(lambda: n.nvmlDeviceGetPowerUsage(h) / 1e3),
            "energy": self._value(lambda: n.nvmlDeviceGetTotalEnergyConsumption(h) / 1e3),
            "sm_clock": self._value(lambda: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM)),
            "memory_clock": self._value(lambda: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM)),
            "temperature": self._value(lambda: self._temperature(h)),
            "utilisation": self._value(lambda: n.nvmlDeviceGetUtilizationRates(h).gpu / 100),
            "memory_used": self._value(lambda: n.nvmlDeviceGetMemoryInfo(h).used / 2**30),
            "power_capped": None if reasons is None else float(bool(int(reasons) & POWER_CAPPED)),
            "slowed_down": None if reasons is None else float(bool(int(reasons) & SLOWED_DOWN)),
            "ecc_uncorrected": self._value(
                lambda: n.nvmlDeviceGetTotalEccErrors(h, n.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, n.NVML_VOLATILE_ECC)
            ),
        }

    def _temperature(self, h: Any) -> float:
        """By the function of newer libraries, which drops the older one with CUDA 14."""
        try:
            return float(self._nvml.nvmlDeviceGetTemperatureV(h, self._nvml.NVML_TEMPERATURE_GPU))
        except self._nvml.NVMLError_FunctionNotFound:
            return float(self._nvml.nvmlDeviceGetTemperature(h, self._nvml.NVML_TEMPERATURE_GPU))

    def _event_reasons(self, h: Any) -> float:
        """Under the name of this driver: `throttle reasons` until R535."""
        try:
            return float(self._nvml.nvmlDeviceGetCurrentClocksEventReasons(h))
        except self._nvml.NVMLError_FunctionNotFound:
            return float(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(h))

    def _value(self, ask: Callable[[], float]) -> float | None:
        """None where this GPU does not support it, or is lost."""
        try:
            return float(ask())
        except self._nvml.NVMLError:
            return None

    def processes(self, device: Device) -> Sequence[int]:
        """The process ids that compute on it."""
        try:
            return [int(p.pid) for p in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handles[device.index])]
        except self._nvml.NVMLError:
            return []

    @staticmethod
    def _text(value: str | bytes) -> str:
        return value.decode() if isinstance(value, bytes) else value
