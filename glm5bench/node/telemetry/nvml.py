"""NVIDIA's GPUs, read through NVML. Source: the NVML API reference; power in mW, energy in mJ, memory in bytes.

On Ampere and later `nvmlDeviceGetPowerUsage` is the mean of the last second. The library is a parameter, so that the double of this
package can replace NVML on nodes without GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .quantities import Device, Values

# NVML's nvmlClocksEventReason*: SwPowerCap; SwThermalSlowdown, HwSlowdown, HwThermalSlowdown, HwPowerBrakeSlowdown
POWER_CAPPED, SLOWED_DOWN = 0x4, 0x20 | 0x8 | 0x40 | 0x80


class Nvml:
    """Reads the GPUs that this process may see (Slurm's cgroups hide the others). Raises OSError if the driver is missing."""

    def __init__(self, library: Any) -> None:
        self._nvml = library
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            raise OSError(f"NVML: {error}") from error
        try:
            driver, n_gpus = self._text(library.nvmlSystemGetDriverVersion()), library.nvmlDeviceGetCount()
        except library.NVMLError as error:
            raise OSError(f"NVML: {error}") from error
        self._handles: list[Any] = []
        self.devices: list[Device] = []
        for i in range(n_gpus):
            try:  # a lost GPU is not read
                h = library.nvmlDeviceGetHandleByIndex(i)
                device = Device(i, self._text(library.nvmlDeviceGetUUID(h)), self._text(library.nvmlDeviceGetName(h)), driver)
            except library.NVMLError:
                continue
            self._handles.append(h)
            self.devices.append(device)

    def read(self) -> Sequence[Values]:
        """The values of each device. Requests the number of GPUs first, so that a lost GPU is noticed."""
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
        """Uses the function of newer libraries, because CUDA 14 drops the older one."""
        try:
            return float(self._nvml.nvmlDeviceGetTemperatureV(h, self._nvml.NVML_TEMPERATURE_GPU))
        except (AttributeError, self._nvml.NVMLError_FunctionNotFound):
            return float(self._nvml.nvmlDeviceGetTemperature(h, self._nvml.NVML_TEMPERATURE_GPU))

    def _event_reasons(self, h: Any) -> float:
        """The clock event reasons, which drivers until R535 call throttle reasons."""
        try:
            return float(self._nvml.nvmlDeviceGetCurrentClocksEventReasons(h))
        except (AttributeError, self._nvml.NVMLError_FunctionNotFound):
            return float(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(h))

    def _value(self, ask: Callable[[], float]) -> float | None:
        """The value; None if the GPU does not support it or is lost, or if the library does not have the function."""
        try:
            return float(ask())
        except (AttributeError, self._nvml.NVMLError):
            return None

    def processes(self, device: Device) -> Sequence[int]:
        """The ids of the processes that compute on the device."""
        try:
            handle = self._handles[self.devices.index(device)]
            return [int(p.pid) for p in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)]
        except self._nvml.NVMLError:
            return []

    @staticmethod
    def _text(value: str | bytes) -> str:
        return value.decode() if isinstance(value, bytes) else value
