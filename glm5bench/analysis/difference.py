"""Compares two sets of points: which settings differ, and which points got better or worse beyond their intervals.

Input: rows of A and of B. Output: the settings that differ with their values on both sides, and pairs of configurations that are otherwise
equal. Only several server starts can show whether two systems differ, so a pair with fewer than two starts on a side is undecided. The
interval of a ratio is Welch's over starts. All comparisons of a call are corrected together (Bonferroni), so two identical systems get a
`worse` in at most 5 % of calls. Source: benchmarks/coverage.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .repeats import configurations, level, of_starts, student
from .resampling import welch_half
from .rows import Row, series_order

Word = Literal["better", "worse", "same", "undecided"]
ASSUMED = 0.02  # assumed spread from start to start, as a share, if no pair has two starts
MOST_STARTS = 30  # a larger number of starts is not reported
SETTINGS: dict[str, Callable[[Row], object]] = {
    "source": lambda r: r.series.source,
    "hardware": lambda r: r.series.hardware,
    "engine": lambda r: r.series.engine,
    "engine_version": lambda r: r.engine_version,
    "image": lambda r: r.image,
    "model": lambda r: r.series.model,
    "checkpoint": lambda r: r.series.checkpoint,
    "precision": lambda r: r.series.precision,
    "speculative": lambda r: r.series.speculative,
    "workload": lambda r: f"{r.series.isl_tokens}/{r.series.osl_tokens} from {r.series.range_ratio:g} over {r.series.endpoint}",
    "time_scale": lambda r: r.series.time_scale,
    "variant": lambda r: r.series.variant,
    "tp": lambda r: r.tp,
    "concurrency": lambda r: r.concurrency,
    "seed": lambda r: r.seed,
    "server_scope": lambda r: r.server_scope,
    "binding": lambda r: r.binding,
    "requests": lambda r: r.series.protocol,
}
TOLD_OTHERWISE = ("id", "file", "isl_tokens", "osl_tokens", "range_ratio", "endpoint")  # fields of a workload that SETTINGS already covers
OF_THE_NODE = ("--model-path", "--model", "--host", "--port", "--facts", "--served-model-name", "--tensor-parallel-size", "--tp-size",
               "--dist-init-addr", "--nnodes", "--node-rank", "--disaggregation-bootstrap-port")  # fmt: skip
HOW_SERVED = ("engine_version", "image", "variant", "requests")
NEVER_PAIRED_OVER = ("tp", "concurrency", "seed")  # different values are different points, not a changed setting
FIGURES = {"total_tput_per_gpu_tok_s": 1, "interactivity_tok_s_user": 1, "ttft_median_s": -1, "itl_chunk_p99_s": -1}  # 1: more is better


@dataclass(frozen=True)
class Setting:
    """One setting that differs: its values in A and in B."""

    name: str
    a: tuple[str, ...]
    b: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """One figure of one pair. `ratio` is B over A; `low`, `high`: its interval at the corrected level, NaN without two starts per side.

    `starts`: if undecided, the number of starts on each side that would decide it; None if that is more than 30.
    """

    a: Row
    b: Row
    figure: str
    ratio: float
    low: float
    high: float
    word: Word
    starts: int | None = None


@dataclass(frozen=True)
class Difference:
    """The differences between A and B.

    `only_a`, `only_b`: configurations without a counterpart. `invalid_b`: configurations of A whose counterpart in B is invalid.
    `unclear`: configurations of A that have a counterpart but no figure in common with it.
    """

    settings: tuple[Setting, ...]
    changes: tuple[Change, ...]
    only_a: tuple[Row, ...]
    only_b: tuple[Row, ...]
    invalid_b: tuple[Row, ...]
    unclear: tuple[Row, ...]

    @property
    def is_worse(self) -> bool:
        """Whether any point of B is worse, invalid or not comparable."""
        return bool(self.invalid_b or self.unclear) or any(c.word == "worse" for c in self.changes)


def difference(a: Sequence[Row], b: Sequence[Row], *, tolerance: float) -> Difference:
    """The differences of B from A. A change within `tolerance` (a share) is never better or worse; `same` means surely within it."""
    ours, theirs = configurations(a), configurations(b)
    settings = _settings(ours, theirs)
    free = {s.name for s in settings if len(s.a) == len(s.b) == 1} - {*NEVER_PAIRED_OVER}
    place_of = _place_function(ours, theirs, free)
    here, there = _by_place(ours, place_of), _by_place(theirs, place_of)
    invalid = _by_place([r for r in b if r.validity == "invalid"], place_of)
    pairs = [pair for place in here.keys() & there.keys() for pair in itertools.product(here[place], there[place])]
    told = [(row, other, name) for row, other in pairs for name in FIGURES if _is_told(row, name) and _is_told(other, name)]
    unclear = [
        row for row, other in pairs if row.digest != other.digest and not any(row is a and other is b for a, b, _ in told)
    ]  # the same point is no difference, whichever figures it has
    spreads = {name: _pooled([_spread(r, name) for a, b, n in told if n == name for r in (a, b)]) for name in FIGURES}
    changes = [_change(row, other, name, tolerance, 0.025 / len(told), spreads[name]) for row, other, name in told]
    alone = _order([r for place, rows in here.items() if place not in there for r in rows])
    lost = [r for place, rows in here.items() if place not in there and place in invalid for r in rows]
    return Difference(
        tuple(_settings([row for row, _ in pairs], [other for _, other in pairs]) if pairs else settings),
        tuple(sorted(changes, key=lambda c: (_place_of(c.a), c.b.key, list(FIGURES).index(c.figure)))),
        tuple(r for r in alone if r not in lost),
        tuple(_order([r for place, rows in there.items() if place not in here for r in rows])),
        tuple(_order(lost)),
        tuple(_order(unclear)),
    )


def differing(a: Sequence[Mapping[str, str]], b: Sequence[Mapping[str, str]]) -> tuple[Setting, ...]:
    """The settings in which points of A and of B differ, with the values on each side; `none` for points without the setting."""
    found = []
    for name in dict.fromkeys(name for told in (*a, *b) for name in told):
        left, right = ({told.get(name, "none") for told in side} for side in (a, b))
        if left != right:
            found.append(Setting(name, tuple(sorted(left)), tuple(sorted(right))))
    return tuple(found)


def settings_told(point: Mapping[str, Any]) -> dict[str, str]:
    """Every setting of a point that is not in SETTINGS: of its workload, its server's flags and its environment.

    A flag that the engine sets by itself is treated like a flag in the command.
    """
    arm, recipe = point.get("arm") or {}, point.get("recipe") or {}
    workload = {f"workload.{k}": str(v) for k, v in (arm.get("workload") or {}).items() if k not in TOLD_OTHERWISE}
    environment = {f"env {k}": str(v) for k, v in (recipe.get("env") or {}).items()}
    by_itself = {flag: "set" if value is True else str(value) for flag, value in (point.get("set_by_engine") or {}).items()}
    found = {**workload, **by_itself, **_flags([str(word) for word in recipe.get("argv") or ()]), **environment}
    for part in recipe.get("roles") or ():  # the command is then the router's
        role, own = str(part["role"]), part["recipe"]
        found |= {f"{role} {flag}": value for flag, value in _flags([str(word) for word in own.get("argv") or ()]).items()}
        found |= {f"{role} env {k}": str(v) for k, v in (own.get("env") or {}).items()}
    return found


def _flags(argv: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    flag = ""
    for word in argv:
        if word.startswith("--"):
            flag, has_value, value = word.partition("=")
            found[flag] = value if has_value else ""
        elif flag:
            found[flag] = f"{found[flag]} {word}".strip()
    return {flag: value or "set" for flag, value in found.items() if flag not in OF_THE_NODE}


def _order(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=_place_of)


def _place_of(r: Row) -> tuple[object, ...]:
    return (*series_order(r.series), r.tp, r.concurrency, r.seed, r.key, r.digest)


def _settings(a: Sequence[Row], b: Sequence[Row]) -> list[Setting]:
    found = []
    for name, of in SETTINGS.items():
        left, right = ({str(of(r)) for r in rows} for rows in (a, b))
        if left != right:
            found.append(Setting(name, tuple(sorted(left)), tuple(sorted(right))))
    return found


def _place_function(a: Sequence[Row], b: Sequence[Row], free: set[str]) -> Callable[[Row], tuple[object, ...]]:
    """A function that returns the values that two rows must share to be compared: all settings except the free ones.

    The settings of HOW_SERVED may differ too, unless one side has several rows that differ only in them.
    """
    held = [of for name, of in SETTINGS.items() if name not in free and name not in HOW_SERVED]
    served = [SETTINGS[name] for name in HOW_SERVED if name not in free]

    def place(row: Row) -> tuple[object, ...]:
        return tuple(of(row) for of in held)

    def how(row: Row) -> tuple[object, ...]:
        return tuple(of(row) for of in served)

    crowded = set()
    for side in (a, b):
        seen: dict[tuple[object, ...], set[tuple[object, ...]]] = {}
        for row in side:
            seen.setdefault(place(row), set()).add(how(row))
        crowded |= {where for where, hows in seen.items() if len(hows) > 1}
    return lambda row: (*place(row), *(how(row) if place(row) in crowded else ()))


def _by_place(rows: Sequence[Row], place_of: Callable[[Row], tuple[object, ...]]) -> dict[tuple[object, ...], list[Row]]:
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(place_of(row), []).append(row)
    return found


def _is_told(row: Row, figure: str) -> bool:
    return bool(0 < getattr(row, figure) < math.inf)


def _spread(row: Row, figure: str) -> tuple[float, int]:
    """The standard deviation from start to start, as a share, and its degrees of freedom; NaN and 0 for one start."""
    values = [v for v in of_starts(row, figure) if 0 < v < math.inf] if level(row) == "starts" else []
    return (float(np.log(values).std(ddof=1)), len(values) - 1) if len(values) > 1 else (math.nan, 0)


def spread_between_starts(rows: Sequence[Row]) -> tuple[float, int] | None:
    """The spread of throughput and interactivity from run to run on different starts, as a share, and its degrees of freedom.

    It is the upper end of a one-sided 80 % interval, because few starts often show less spread than there is. None without two starts.
    """
    from scipy.stats import chi2  # imported here: it takes 0.5 s

    spreads = [_spread(row, name) for row in configurations(rows) for name in ("total_tput_per_gpu_tok_s", "interactivity_tok_s_user")]
    degrees = sum(n for _, n in spreads) // 2  # the two figures of a run vary together
    return (_pooled(spreads) * math.sqrt(degrees / float(chi2.ppf(0.2, degrees))), degrees) if degrees else None


def _pooled(spreads: Sequence[tuple[float, int]]) -> float:
    """The pooled standard deviation of all spreads."""
    degrees = sum(n for _, n in spreads)
    return math.sqrt(sum(n * sd**2 for sd, n in spreads if n) / degrees) if degrees else ASSUMED


def _change(a: Row, b: Row, figure: str, tolerance: float, tail: float, typical: float) -> Change:
    """The change of one figure. `tail`: each side of the corrected interval. `typical`: spread between starts if this pair has none."""
    shift = math.log(getattr(b, figure) / getattr(a, figure))
    (one, n), (other, m) = _spread(a, figure), _spread(b, figure)
    half = welch_half(one / math.sqrt(n + 1), n, other / math.sqrt(m + 1), m, tail) if n and m else math.nan
    low, high = shift - half, shift + half
    is_within = -_room(tolerance) <= shift <= math.log1p(tolerance)
    word: Word = "undecided"
    if not is_within and not low <= 0 <= high and math.isfinite(half):
        word = "better" if (shift > 0) == (FIGURES[figure] > 0) else "worse"
    elif low >= -_room(tolerance) and high <= math.log1p(tolerance):
        word = "same"
    starts = None
    if word == "undecided":
        sd = _pooled([(one, n), (other, m)]) if n and m else typical
        wanted = min(shift + _room(tolerance), math.log1p(tolerance) - shift) if is_within else abs(shift)
        starts = _starts_needed(wanted, sd, tail)
    return Change(a, b, figure, math.exp(shift), math.exp(low), math.exp(high), word, starts)


def _room(tolerance: float) -> float:
    """How far below 1 a ratio may be within the tolerance, as a logarithm."""
    return -math.log1p(-tolerance) if tolerance < 1 else math.inf


def _starts_needed(wanted: float, sd: float, tail: float) -> int | None:
    """The number of starts on each side that make half the interval smaller than `wanted`, if starts differ by `sd`; None above 30."""
    enough = (n for n in range(2, MOST_STARTS + 1) if student(2 * (n - 1), tail) * sd * math.sqrt(2 / n) < wanted)
    return next(enough, None)
