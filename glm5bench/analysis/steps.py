"""The curves of several series at the same interactivities, and the steps between series, one setting at a time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .rows import Series

STEP_ORDER = ("hardware", "precision", "speculative")


@dataclass(frozen=True)
class Step:
    """One change of a setting on the way from the baseline. `also`: what else differs between the two series of the step."""

    setting: str
    ratio: float  # of costs
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Curve:
    """A series on the grid, all (M,). Costs are interpolated; throughput and concurrency are computed from them, so a row is consistent."""

    cost: NDArray[np.float64]
    unit_cost: NDArray[np.float64]  # cost at $1 per GPU and hour
    throughput: NDArray[np.float64]
    per_mw: NDArray[np.float64]
    concurrency: NDArray[np.float64]
    node_cost: NDArray[np.float64]  # including the node's idle GPUs
    has_idle_gpus: bool
    status: list[str]
    beyond: list[str]
    served_by: list[Mapping[str, frozenset[object]]]  # how the points next to each interactivity were served (their TPs)


class Curves(dict[Series, Curve]):
    """The curves by series. `peers`: series of the same workload; `alike`: also of the same engine and STEP_ORDER settings."""

    def __init__(self, curves: Mapping[Series, Curve]) -> None:
        super().__init__(curves)
        self.peers: dict[tuple[object, ...], list[Series]] = {}
        self.alike: dict[tuple[object, ...], list[Series]] = {}
        for s in curves:
            self.peers.setdefault(s.workload, []).append(s)
            self.alike.setdefault((s.workload, s.engine, *(getattr(s, name) for name in STEP_ORDER)), []).append(s)


def steps(base: Series, target: Series, curves: Curves, i: int) -> tuple[Step, ...]:
    """The steps from the baseline to the target: hardware, precision, speculative, or another order if the arms require it."""
    differing = [setting for setting in STEP_ORDER if getattr(base, setting) != getattr(target, setting)]
    ways = (_way(base, target, order, curves, i) for order in itertools.permutations(differing))
    return next((way for way in ways if way), ())


def _way(base: Series, target: Series, order: Sequence[str], curves: Curves, i: int) -> tuple[Step, ...]:
    steps, here = [], base
    for setting in order:
        following = _changed(here, target, setting, curves)
        if following is None:
            return ()
        ratio = float(curves[here].cost[i] / curves[following].cost[i])
        steps.append(Step(setting, ratio, _also(here, following, setting, curves, i)))
        here = following
    is_whole = here == target and all(np.isfinite(step.ratio) for step in steps)
    return tuple(steps) if is_whole else ()


def _also(here: Series, following: Series, setting: str, curves: Curves, i: int) -> tuple[str, ...]:
    """What differs between the two series besides the setting, including how their points were served if that has nothing in common."""
    told = [name for name in (*STEP_ORDER, "engine", "checkpoint", "variant") if getattr(here, name) != getattr(following, name)]
    for name in ("engine_version", "image", "protocol"):
        one, other = getattr(here, name), getattr(following, name)
        told += [name] if one and other and one != other else []
    one, other = curves[here].served_by[i], curves[following].served_by[i]
    told += [name for name in one if one[name] and other[name] and not one[name] & other[name]]
    return tuple(name for name in told if name != setting)


def _changed(here: Series, target: Series, setting: str, curves: Curves) -> Series | None:
    """The series that equals `here` except for one setting, which is the target's. Another precision has another checkpoint."""
    wanted = {name: getattr(target if name == setting else here, name) for name in STEP_ORDER}
    fits = curves.alike.get((here.workload, target.engine, *(wanted[name] for name in STEP_ORDER)), [])
    kept = ("checkpoint", "engine_version", "image", "protocol", "variant")
    return min(fits, key=lambda s: (s != target, *(getattr(s, name) != getattr(here, name) for name in kept)), default=None)
