"""The cost of tokens, and the throughput per megawatt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .rows import Row


def usd_per_mtok(price_usd_per_gpu_h: float, tput_per_gpu_tok_s: float) -> float:
    """$ per million tokens: ($/GPU/h) / (3600 x tok/s/GPU / 1e6); infinite if no tokens are served."""
    return float("inf") if tput_per_gpu_tok_s == 0 else price_usd_per_gpu_h / (3600.0 * tput_per_gpu_tok_s / 1e6)


def node_usd_per_mtok(price_usd_per_gpu_h: float, tput_per_gpu_tok_s: float, gpus: int, gpus_per_node: int) -> float:
    """$ per million tokens if the whole node is paid for but only `gpus` of its GPUs serve."""
    return usd_per_mtok(price_usd_per_gpu_h, tput_per_gpu_tok_s) * gpus_per_node / gpus


def tput_per_mw_tok_s(tput_per_gpu_tok_s: float, power_kw_per_gpu: float) -> float:
    """tok/s/MW = tok/s/GPU / (kW per GPU) x 1000, with all-in power."""
    return tput_per_gpu_tok_s / power_kw_per_gpu * 1000.0


@dataclass(frozen=True)
class Economy:
    """Prices and power for the tables, by hardware: $ per GPU and hour, and all-in kW per GPU."""

    usd_per_gpu_h: Mapping[str, float | None]
    power_kw: Mapping[str, float]
    weights: tuple[float, float] | None = None  # of a cached and of an output token, if a computed prompt token counts as 1

    def cost(self, row: Row) -> float:
        """$ per million tokens for the GPUs that serve; NaN without a price."""
        price = self.usd_per_gpu_h.get(row.series.hardware)
        return usd_per_mtok(price, row.total_tput_per_gpu_tok_s) if price is not None else float("nan")

    def node_cost(self, row: Row) -> float:
        """$ per million tokens including the node's idle GPUs; NaN without a price, or if the node's number of GPUs is unknown."""
        price = self.usd_per_gpu_h.get(row.series.hardware)
        if price is None or not 0 < row.gpus <= row.gpus_per_node:
            return float("nan")
        return node_usd_per_mtok(price, row.total_tput_per_gpu_tok_s, row.gpus, row.gpus_per_node)

    def cost_of(self, row: Row, per_hour: float) -> float:
        """$ for each of the things of which the whole server does `per_hour` in an hour; NaN without a price."""
        price = self.usd_per_gpu_h.get(row.series.hardware)
        return price * row.gpus / per_hour if price is not None and per_hour > 0 else float("nan")

    def weighted_cost(self, row: Row) -> float:
        """$ per million computed prompt tokens if cached and output tokens count with their weights. NaN without weights or hit rate."""
        price = self.usd_per_gpu_h.get(row.series.hardware)
        if price is None or self.weights is None:
            return float("nan")
        fresh, cached, output = (row.of(f"{kind}_tput_per_gpu_tok_s") for kind in ("fresh", "cached", "window_output"))
        return usd_per_mtok(price, fresh + self.weights[0] * cached + self.weights[1] * output)

    def per_mw(self, row: Row) -> float:
        """tok/s/MW with the assumed power; NaN if there is none."""
        power = self.power_kw.get(row.series.hardware)
        return tput_per_mw_tok_s(row.total_tput_per_gpu_tok_s, power) if power else float("nan")
