"""The limits of the spec sheet: the roofline without losses, and the specifications of two hardwares per dollar.

Input: an arm with its facts. Output: throughput and interactivity at each concurrency if all data moves and all operations run at the rates
of the spec sheet, without any other cost. No server can be above that line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..engines.known import adapter
from ..memory import attended
from ..roofline import GEMM_RATE, StepModel, acceptance_length
from ..values.groups import Efficiency, Hardware, Speculative
from ..values.point import Arm
from .rows import Row, Series, split_gpus, spread_of

CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
AXES = ("memory_gib", "bandwidth_tb_s", "bf16_tflop_s", "fp8_tflop_s", "fp4_tflop_s", "scale_up_gb_s")


@dataclass(frozen=True)
class Limit:
    """The spec sheet's limit at one concurrency."""

    concurrency: int
    interactivity_tok_s_user: float
    total_tput_per_gpu_tok_s: float


@dataclass(frozen=True)
class Facts:
    """Known hardware and speculative settings by id, and one arm for each known checkpoint, by repository."""

    hardware: Mapping[str, Hardware]
    arms: Mapping[str, Arm]
    speculative: Mapping[str, Speculative]


def limits_of(fronts: Mapping[Series, Sequence[Row]], facts: Facts) -> dict[Series, list[tuple[int, list[Limit]]]]:
    """The limit line at each TP of the frontiers, for series whose facts are known, and that are one server."""
    found: dict[Series, list[tuple[int, list[Limit]]]] = {}
    for s, rows in fronts.items():
        if not _is_known(s, facts) or split_gpus(s.variant) is not None:
            continue
        mean = (1 + min(1.0, abs(s.range_ratio))) / 2
        for tp in sorted({r.tp for r in rows if r.tp > 0}):
            arm = dataclasses.replace(
                facts.arms[s.checkpoint],
                hardware=facts.hardware[s.hardware],
                speculative=facts.speculative[s.speculative],
                tp=tp,
                dp=spread_of(s.variant).get("dp", 1),
                ep=spread_of(s.variant).get("ep", 1),
            )
            found.setdefault(s, []).append((tp, limit_curve(arm, s.isl_tokens * mean, s.osl_tokens * mean)))
    return found


def _is_known(s: Series, facts: Facts) -> bool:
    if s.hardware not in facts.hardware or s.checkpoint not in facts.arms or s.speculative not in facts.speculative:
        return False
    checkpoint = facts.arms[s.checkpoint].checkpoint
    rates = {GEMM_RATE[checkpoint.precision], GEMM_RATE[checkpoint.dense_precision]}
    # if the hardware has no rate for this precision, the facts do not describe what ran there
    return min(s.isl_tokens, s.osl_tokens) > 0 and rates <= facts.hardware[s.hardware].tflop_s.keys()


IDEAL = dict.fromkeys(("bandwidth", "compute", "prefill_compute", "indexer"), 1.0) | {
    f.name: 0.0 for f in dataclasses.fields(Efficiency) if f.name.endswith("_s")
}
IDEAL["layer_s"] = 1e-12  # the type wants a positive number


def limit_curve(arm: Arm, isl_tokens: float, osl_tokens: float) -> list[Limit]:
    """The line that no server can exceed, by rising concurrency."""
    ideal = dataclasses.replace(arm.hardware.efficiency, **IDEAL)
    hardware = dataclasses.replace(arm.hardware, efficiency=ideal)
    model = StepModel(
        hardware,
        arm.checkpoint,
        arm.tp,
        arm.speculative,
        adapter(arm.engine).kv_dtype(hardware, "auto", is_sparse=arm.checkpoint.architecture.index_topk > 0),
        dp=arm.dp,
        ep=arm.ep,
    )
    steps = osl_tokens / acceptance_length(model)
    found = []
    for users in CONCURRENCIES:
        groups = min(arm.dp, users)  # as many prompts are prefilled at once
        prefill_s = model.prefill_s(groups * int(isl_tokens), groups * isl_tokens * isl_tokens / 2, groups) / groups
        context = users * (isl_tokens + osl_tokens / 2)
        sparse = users * attended(arm.checkpoint.architecture, isl_tokens + osl_tokens / 2)
        decode_s = steps * model.decode_s(users, context, sparse)
        cycle_s = users * prefill_s + decode_s  # every request waits for the prefills of the others
        tput = users * (isl_tokens + osl_tokens) / cycle_s / arm.tp
        found.append(Limit(users, osl_tokens / (cycle_s - prefill_s), tput))
    return found


def bounds_of(
    fronts: Iterable[Series],
    bases: Mapping[tuple[object, ...], Series],
    hardware: Mapping[str, Hardware],
    usd_per_gpu_h: Mapping[str, float | None],
) -> list[dict[str, Any]]:
    """The bounds of each hardware and precision, relative to the baseline of its workload."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for s in fronts:
        base = bases.get(s.workload)
        if base is None or s.hardware == base.hardware or s.hardware not in hardware or base.hardware not in hardware:
            continue
        told = bounds(hardware[s.hardware], hardware[base.hardware], usd_per_gpu_h, s.precision, base.precision)
        place = {"hardware": s.hardware, "baseline": base.hardware, "precision": f"{s.precision} over {base.precision}"}
        found[s.hardware, base.hardware, place["precision"]] = {**place, **told}
    return list(found.values())


def bounds(
    hardware: Hardware, base: Hardware, usd_per_gpu_h: Mapping[str, float | None], precision: str, base_precision: str
) -> dict[str, float | None]:
    """Each bound per dollar, relative to the baseline: the ratio of specifications divided by the ratio of prices; None without prices.

    Compute uses the rate for the precision of each side.
    """
    price, other = usd_per_gpu_h.get(hardware.id), usd_per_gpu_h.get(base.id)
    per_price = price / other if price and other else None
    ratios = {
        "compute": _ratio(*(h.tflop_s.get(GEMM_RATE.get(p, "")) for h, p in ((hardware, precision), (base, base_precision)))),
        "bandwidth": _ratio(hardware.bandwidth_tb_s, base.bandwidth_tb_s),
        "interconnect": _ratio(hardware.scale_up_gb_s, base.scale_up_gb_s),
    }
    return {name: r / per_price if r is not None and per_price else None for name, r in ratios.items()}


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a and b else None


def specifications(group: Sequence[Hardware]) -> dict[str, dict[str, float]]:
    """Each hardware's specifications relative to the best of the group, 0 to 1; 0 for a format that it does not support."""
    raw = {h.id: _specification(h) for h in group}
    best = {axis: max(values[axis] for values in raw.values()) or 1.0 for axis in AXES}
    return {id_: {axis: values[axis] / best[axis] for axis in AXES} for id_, values in raw.items()}


def _specification(h: Hardware) -> dict[str, float]:
    rates = {f"{name}_tflop_s": float(h.tflop_s.get(name, 0.0)) for name in ("bf16", "fp8", "fp4")}
    return {"memory_gib": h.memory_gib, "bandwidth_tb_s": h.bandwidth_tb_s, "scale_up_gb_s": h.scale_up_gb_s, **rates}
