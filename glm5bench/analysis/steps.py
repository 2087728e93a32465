"""The curves of several series at the same interactivities, and the steps from one to another, one setting at a time."""

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
    """One setting changed on the way from the baseline. `also`: what else differs between the two series of the step."""

    setting: str
    ratio: float  # of costs
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Curve:
    """A series on the grid, all (M,). Costs are interpolated; throughput and concurrency follow from them, so that a row agrees."""

    cost: NDArray[np.float64]
    unit_cost: NDArray[np.float64]  # of a GPU at $1 an hour
    throughput: NDArray[np.float64]
    per_mw: NDArray[np.float64]
    concurrency: NDArray[np.float64]
    node_cost: NDArray[np.float64]  # with the idle GPUs of the node paid
    has_idle_gpus: bool
    status: list[str]
    beyond: list[str]
    served_by: list[Mapping[str, frozenset[object]]]  # what the points beside each interactivity were served by


class Curves(dict[Series, Curve]):
    """The curves by their series; which series share a workload, and which share what a step holds still."""

    def __init__(self, curves: Mapping[Series, Curve]) -> None:
        super().__init__(curves)
        self.peers: dict[tuple[object, ...], list[Series]] = {}
        self.alike: dict[tuple[object, ...], list[Series]] = {}
        for s in curves:
            self.peers.setdefault(s.workload, []).append(s)
            self.alike.setdefault((s.workload, s.engine, *(getattr(s, name) for name in STEP_ORDER)), []).append(s)


def steps(base: Series, target: Series, curves: Curves, i: int) -> tuple[Step, ...]:
    """The way from the baseline to the target, one setting at a time: hardware, precision, speculative, or as the arms allow."""
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
    """What differs between the two but the setting: of each, and of what their points were served by, where they have nothing in common."""
    told = [name for name in (*STEP_ORDER, "engine", "checkpoint", "variant") if getattr(here, name) != getattr(following, name)]
    for name in ("engine_version", "image", "protocol"):
        one, other = getattr(here, name), getattr(following, name)
        told += [name] if one and other and one != other else []
    one, other = curves[here].served_by[i], curves[following].served_by[i]
    told += [name for name in one if one[name] and other[name] and not one[name] & other[name]]
    return tuple(name for name in told if name != setting)


def _changed(here: Series, target: Series, setting: str, curves: Curves) -> Series | None:
    """The series like `here` but for one setting, which is the target's. A precision brings its own checkpoint."""
    wanted = {name: getattr(target if name == setting else here, name) for name in STEP_ORDER}
    fits = curves.alike.get((here.workload, target.engine, *(wanted[name] for name in STEP_ORDER)), [])
    kept = ("checkpoint", "engine_version", "image", "protocol", "variant")
    return min(fits, key=lambda s: (s != target, *(getattr(s, name) != getattr(here, name) for name in kept)), default=None)
