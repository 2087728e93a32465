"""AMD's GPUs, read through ROCm's Python library `amdsmi`, or from the JSON that `amd-smi` prints.

Source: ROCm's documentation of both. A quantity that a GPU does not support reads "N/A", or the highest number of its type. The tool
uses a large part of a core-second per call; the library does not. Energy: the accumulator times its resolution, in microjoules.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from .quantities import Device, Reader, Values

NOT_A_NUMBER = (float(0xFFFF), float(2**32 - 1), float(2**64 - 1))
TOOL_S = 10.0
HOT = ("prochot_thrm", "socket_thrm", "vr_thrm", "hbm_thrm")


def amd() -> Reader:
    """The reader of AMD's GPUs on this node. Raises OSError if neither the library nor the tool works."""
    try:
        import amdsmi
    except Exception as error:  # without its shared library the import raises KeyError
        why = f"amdsmi: {type(error).__name__}: {error}"
    else:
        try:
            return AmdSmi(amdsmi)
        except OSError as error:
            why = str(error)
    if shutil.which(AmdSmiTool.PROGRAM):
        return AmdSmiTool(run)
    raise OSError(f"{why}; amd-smi is not installed")


def number(value: Any, scale: float = 1.0) -> float | None:
    """The number times `scale`; None if the value is not available. The tool writes numbers, text or {"value": ..., "unit": ...}."""
    if isinstance(value, dict):
        value = value.get("value")
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found * scale if math.isfinite(found) and found not in NOT_A_NUMBER else None


def first(*values: Any) -> float | None:
    """The first value that is a number; None if there is none."""
    return next((found for value in values if (found := number(value)) is not None), None)


class AmdSmi:
    """Reads through the library. Raises OSError if it finds no driver."""

    def __init__(self, library: Any) -> None:
        self._smi, self._turn = library, 0
        try:
            library.amdsmi_init()
            self._handles = list(library.amdsmi_get_processor_handles())
            self.devices = tuple(self._device(i, h) for i, h in enumerate(self._handles))
        except library.AmdSmiException as error:
            raise OSError(f"amdsmi: {error}") from error

    def _device(self, i: int, h: Any) -> Device:
        name = self._told(lambda: self._smi.amdsmi_get_gpu_asic_info(h)).get("market_name", "")
        driver = self._told(lambda: self._smi.amdsmi_get_gpu_driver_info(h)).get("driver_version", "")
        return Device(i, str(self._smi.amdsmi_get_gpu_device_uuid(h)), str(name), str(driver))

    def read(self) -> Sequence[Values]:
        """The values of each device. The throttle status takes 0.1 s, so each call reads it for one device, in turn."""
        self._turn = (self._turn + 1) % max(1, len(self._handles))
        return [self._read(h, is_its_turn=i == self._turn) for i, h in enumerate(self._handles)]

    def _read(self, h: Any, *, is_its_turn: bool) -> Values:
        s = self._smi
        power = self._told(lambda: s.amdsmi_get_power_info(h))
        energy = self._told(lambda: s.amdsmi_get_energy_count(h))
        counted = first(energy.get("energy_accumulator"), energy.get("power"))  # its name before ROCm 6.2
        resolution = number(energy.get("counter_resolution"), 1e-6)
        violation = self._told(lambda: s.amdsmi_get_violation_status(h)) if is_its_turn else {}
        hot = [bool(violation[f"active_{name}"]) for name in HOT if isinstance(violation.get(f"active_{name}"), bool | int)]
        capped = violation.get("active_ppt_pwr")
        temperature = self._value(lambda: s.amdsmi_get_temp_metric(h, s.AmdSmiTemperatureType.HOTSPOT, s.AmdSmiTemperatureMetric.CURRENT))
        return {
            "power": first(power.get("current_socket_power"), power.get("average_socket_power"), power.get("socket_power")),
            "energy": counted * resolution if counted is not None and resolution is not None else None,
            "sm_clock": number(self._told(lambda: s.amdsmi_get_clock_info(h, s.AmdSmiClkType.GFX)).get("clk")),
            "memory_clock": number(self._told(lambda: s.amdsmi_get_clock_info(h, s.AmdSmiClkType.MEM)).get("clk")),
            "temperature": temperature,
            "utilisation": number(self._told(lambda: s.amdsmi_get_gpu_activity(h)).get("gfx_activity"), 0.01),
            "memory_used": number(self._told(lambda: s.amdsmi_get_gpu_vram_usage(h)).get("vram_used"), 1 / 1024),
            "power_capped": float(capped) if isinstance(capped, bool | int) else None,
            "slowed_down": float(any(hot)) if hot else None,
            "ecc_uncorrected": number(self._told(lambda: s.amdsmi_get_gpu_total_ecc_count(h)).get("uncorrectable_count")),
        }

    def _told(self, ask: Callable[[], Any]) -> dict[str, Any]:
        try:
            told = ask()
        except self._smi.AmdSmiException:
            return {}
        return told if isinstance(told, dict) else {}

    def _value(self, ask: Callable[[], Any]) -> float | None:
        try:
            return number(ask())
        except self._smi.AmdSmiException:
            return None

    def processes(self, device: Device) -> Sequence[int]:
        """The ids of the processes that use the device."""
        try:
            held = self._smi.amdsmi_get_gpu_process_list(self._handles[device.index])
        except self._smi.AmdSmiException:
            return []
        return [int(p["pid"]) for p in held if isinstance(p, dict) and str(p.get("pid", "")).isdigit()]


Run = Callable[[Sequence[str]], Any]


def run(command: Sequence[str]) -> Any:
    """The JSON that a command prints, after any warnings. Raises OSError with its last line if there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_S, check=False, errors="replace")
    except subprocess.SubprocessError as error:
        raise OSError(f"{command[0]}: {' '.join(str(error).split())}") from error
    text = done.stdout
    starts = [at for at in (text.find("["), text.find("{")) if at >= 0]
    try:
        return json.JSONDecoder().raw_decode(text[min(starts, default=len(text)) :])[0]
    except ValueError as error:
        said = (done.stderr.strip() or text.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise OSError(f"{command[0]} printed no JSON: {said[:200]}") from error


class AmdSmiTool:
    """`amd-smi metric --json`: a list, in newer versions under `gpu_data`. Raises OSError if it prints nothing."""

    PROGRAM = "amd-smi"

    def __init__(self, run_: Run) -> None:
        self._run = run_
        listed = self._gpus(["amd-smi", "list", "--json"])
        self.devices = tuple(Device(int(g["gpu"]), str(g.get("uuid", f"gpu{g['gpu']}")), "", "") for g in listed)

    def _gpus(self, command: Sequence[str]) -> list[dict[str, Any]]:
        told = self._run(command)
        gpus = told.get("gpu_data", []) if isinstance(told, dict) else told
        return [g for g in gpus if isinstance(g, dict) and str(g.get("gpu", "")).isdigit()]

    def read(self) -> Sequence[Values]:
        """The values of each device; all empty if the tool fails."""
        try:
            of = {int(g["gpu"]): g for g in self._gpus(["amd-smi", "metric", "--json"])}
        except OSError:
            of = {}
        return [self._values(of.get(d.index, {})) for d in self.devices]

    @staticmethod
    def _values(g: dict[str, Any]) -> Values:
        power, clock, temperature, usage, memory, energy, ecc, throttle = (
            section if isinstance(section := g.get(name), dict) else {}
            for name in ("power", "clock", "temperature", "usage", "mem_usage", "energy", "ecc", "throttle")
        )
        gfx, mem = (section if isinstance(section := clock.get(name), dict) else {} for name in ("gfx_0", "mem_0"))
        hot = [str(throttle.get(f"{name}_violation_status")) for name in ("prochot", "socket_thermal", "vr_thermal", "hbm_thermal")]
        capped = str(throttle.get("ppt_violation_status"))
        return {
            "power": number(power.get("socket_power")),
            "energy": number(energy.get("total_energy_consumption")),
            "sm_clock": number(gfx.get("clk")),
            "memory_clock": number(mem.get("clk")),
            "temperature": number(temperature.get("hotspot")),
            "utilisation": number(usage.get("gfx_activity"), 0.01),
            "memory_used": number(memory.get("used_vram"), 1 / 1024),
            "power_capped": float(capped == "ACTIVE") if capped.endswith("ACTIVE") else None,
            "slowed_down": float("ACTIVE" in hot) if any(said.endswith("ACTIVE") for said in hot) else None,
            "ecc_uncorrected": number(ecc.get("total_uncorrectable_count")),
        }

    def processes(self, device: Device) -> Sequence[int]:
        """Always empty, because the tool is too slow."""
        return []
