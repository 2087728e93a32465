"""What tokens cost and how many a megawatt gives."""

from __future__ import annotations


def usd_per_mtok(price_usd_per_gpu_h: float, tput_per_gpu_tok_s: float) -> float:
    """$ for a million tokens: ($/GPU/h) / (3600 x tok/s/GPU / 1e6); infinite where none are served."""
    return float("inf") if tput_per_gpu_tok_s == 0 else price_usd_per_gpu_h / (3600.0 * tput_per_gpu_tok_s / 1e6)


def node_usd_per_mtok(price_usd_per_gpu_h: float, tput_per_gpu_tok_s: float, gpus: int, gpus_per_node: int) -> float:
    """The same when the whole node is paid for and only `gpus` of it serve."""
    return usd_per_mtok(price_usd_per_gpu_h, tput_per_gpu_tok_s) * gpus_per_node / gpus


def tput_per_mw_tok_s(tput_per_gpu_tok_s: float, power_kw_per_gpu: float) -> float:
    """tok/s/MW = tok/s/GPU / (kW per GPU) x 1000, power assumed all-in."""
    return tput_per_gpu_tok_s / power_kw_per_gpu * 1000.0
