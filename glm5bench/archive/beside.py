"""Summary columns from the telemetry of a point: energy, clocks, memory and the server's own metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..analysis.metrics import Figures, Floats
from ..analysis.telemetry import SERVER, Curve, Telemetry
from .measurement import Measurement


def beside_load(m: Measurement, f: Figures) -> dict[str, float]:
    """The columns that were measured. Energy is in simulated joules for a simulated point."""
    t, window = m.telemetry, m.window_ns
    if t is None or window is None:
        return {}
    return {**_energy(m, f), **_gpus(t, m.devices, window), **_server(t, window)}


def _energy(m: Measurement, f: Figures) -> dict[str, float]:
    spent = m.energy()
    if spent is None or not spent.joules > 0:
        return {}
    tokens = {"total": f.prompt_tokens + f.output_tokens, "input": f.prompt_tokens, "output": f.output_tokens}
    n = f.n_requests - f.n_failed
    return {
        "energy_j": spent.joules,
        **{f"energy_per_{kind}_token_j": spent.joules / count for kind, count in tokens.items() if count},
        **({"energy_per_request_j": spent.joules / n} if n else {}),
        "gpu_power_w": spent.power_w / m.point["gpus"],
        "total_tput_per_gpu_mw_tok_s": f.total_tput_tok_s / (spent.power_w / 1e6),
    }


def _gpus(t: Telemetry, devices: Sequence[str], window: tuple[int, int]) -> dict[str, float]:
    made: dict[str, tuple[str, Callable[[list[Floats]], float]]] = {
        "sm_clock_mean_mhz": ("sm_clock", lambda read: float(np.concatenate(read).mean())),
        "memory_clock_mean_mhz": ("memory_clock", lambda read: float(np.concatenate(read).mean())),
        "utilisation_mean": ("utilisation", lambda read: float(np.concatenate(read).mean())),
        "slowed_down_share": ("slowed_down", lambda read: max(float((values > 0).mean()) for values in read)),
        "temperature_max_c": ("temperature", lambda read: float(np.concatenate(read).max())),
        "power_capped_share": ("power_capped", lambda read: max(float((values > 0).mean()) for values in read)),
        "gpu_memory_max_gib": ("memory_used", lambda read: float(np.concatenate(read).max())),
    }
    found = {}
    for column, (name, of) in made.items():
        read = [inside for device, curve in t.curves(name).items() if device in devices and len(inside := curve.inside(*window))]
        if read:
            found[column] = of(read)
    errors = [c.gained(*window) for d, c in t.curves("ecc_uncorrected").items() if d in devices and c.covers(*window)]
    return {**found, **({"ecc_uncorrected_errors": sum(errors)} if errors else {})}


def _server(t: Telemetry, window: tuple[int, int]) -> dict[str, float]:
    def of(name: str) -> Curve | None:
        return t.curves(name).get(SERVER)

    running, queued, usage = of("running"), of("queued"), of("kv_usage")
    found = {"running_mean": running.mean(*window)} if running is not None and running.covers(*window) else {}
    for column, curve in (("running_max", running), ("queued_max", queued), ("kv_usage_max", usage)):
        if curve is not None and len(inside := curve.inside(*window)):
            found[column] = float(inside.max())
    hits, queries = of("cache_hits"), of("cache_queries")
    if hits is not None and queries is not None and queries.covers(*window) and (asked := queries.gained(*window)) > 0:
        found["cache_hit_share"] = hits.gained(*window) / asked
    return found
