"""Two sets of points over time: which settings differ, and which points got better or worse beyond their intervals.

Enters: rows of A and of B. Leaves: settings with their values on both sides, and pairs of configurations that are the same but for them.
A pair is told apart where the interval of its ratio leaves 1 out: Welch's, over repeats or over the requests of single runs. Without
either there is only the tolerance, and a latency beyond it is `unsure`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .repeats import NORMAL_975, configurations, standard_error, student_975
from .rows import Row, series_order

Word = Literal["better", "worse", "same", "unsure"]
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
}
NEVER_PAIRED_OVER = ("tp", "concurrency", "seed")  # other points, not another setting
FIGURES = {"total_tput_per_gpu_tok_s": 1, "interactivity_tok_s_user": 1, "ttft_median_s": -1, "itl_chunk_p99_s": -1}  # 1: more is better


@dataclass(frozen=True)
class Setting:
    """One setting that differs: its values in A and in B."""

    name: str
    a: tuple[str, ...]
    b: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """One figure of one pair. `ratio` B over A; `low` and `high` its 95 % interval, NaN where there is too little to say."""

    a: Row
    b: Row
    figure: str
    ratio: float
    low: float
    high: float
    word: Word


@dataclass(frozen=True)
class Difference:
    """What differs. `only_a`, `only_b`: configurations without a counterpart; `invalid_b`: those of A whose counterpart is invalid.

    `unclear`: those of A that have a counterpart and no figure in common with it.
    """

    settings: tuple[Setting, ...]
    changes: tuple[Change, ...]
    only_a: tuple[Row, ...]
    only_b: tuple[Row, ...]
    invalid_b: tuple[Row, ...]
    unclear: tuple[Row, ...]

    @property
    def is_worse(self) -> bool:
        """Whether B is worse somewhere, or cannot be told from worse."""
        return bool(self.invalid_b or self.unclear) or any(c.word == "worse" for c in self.changes)


def difference(a: Sequence[Row], b: Sequence[Row], *, tolerance: float) -> Difference:
    """B against A. A change within `tolerance` (a share) is none, however sure."""
    ours, theirs = configurations(a), configurations(b)
    settings = tuple(_settings(ours, theirs))
    free = {s.name for s in settings if len(s.a) == len(s.b) == 1} - {*NEVER_PAIRED_OVER}
    if "image" in free or "engine_version" in free:  # one comes with the other
        free |= {"image", "engine_version"}
    here, there = _by_place(ours, free), _by_place(theirs, free)
    invalid = _by_place([r for r in b if r.validity == "invalid"], free)
    changes: list[Change] = []
    unclear: list[Row] = []
    for place in here.keys() & there.keys():
        for row, other in itertools.product(here[place], there[place]):
            told = [c for name, sign in FIGURES.items() if (c := _change(row, other, name, sign, tolerance)) is not None]
            changes += told
            unclear += [row] * (not told)
    alone = _order([r for place, rows in here.items() if place not in there for r in rows])
    lost = [r for place, rows in here.items() if place not in there and place in invalid for r in rows]
    return Difference(
        settings,
        tuple(sorted(changes, key=lambda c: (_place_of(c.a), c.b.key, list(FIGURES).index(c.figure)))),
        tuple(r for r in alone if r not in lost),
        tuple(_order([r for place, rows in there.items() if place not in here for r in rows])),
        tuple(_order(lost)),
        tuple(_order(unclear)),
    )


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


def _by_place(rows: Sequence[Row], free: set[str]) -> dict[tuple[object, ...], list[Row]]:
    """Rows by everything but the free settings: one a place, or several measurements of one configuration, all of which are compared."""
    held = [of for name, of in SETTINGS.items() if name not in free]
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(of(row) for of in held), []).append(row)
    return found


def _change(a: Row, b: Row, figure: str, sign: int, tolerance: float) -> Change | None:
    before, after = getattr(a, figure), getattr(b, figure)
    if not (0 < before < math.inf and 0 < after < math.inf):
        return None
    ratio, half = after / before, _half_of_ratio(a, b, figure)
    low, high = ratio - half, ratio + half
    is_beyond = abs(ratio - 1) > tolerance and not low <= 1 <= high  # NaN: no interval, the tolerance alone
    word: Word = "same" if not is_beyond else "better" if (ratio > 1) == (sign > 0) else "worse"
    if is_beyond and sign < 0 and not math.isfinite(half):  # a single run's latency varies, and nobody knows how far
        word = "unsure"
    return Change(a, b, figure, ratio, low, high, word)


def _half_of_ratio(a: Row, b: Row, figure: str) -> float:
    """Half the 95 % interval of B over A, by Welch over relative errors; NaN where one of them has no error."""
    (one, n), (other, m) = _relative_error(a, figure), _relative_error(b, figure)
    error = math.hypot(one, other)
    if not math.isfinite(error):
        return math.nan
    parts = [(e, k - 1) for e, k in ((one, n), (other, m)) if k > 1 and e > 0]
    weight = sum(e**4 / k for e, k in parts)
    quantile = student_975(max(1, int(error**4 / weight))) if weight else NORMAL_975
    return float(quantile * error * getattr(b, figure) / getattr(a, figure))


def _relative_error(row: Row, figure: str) -> tuple[float, int]:
    """The standard error as a share, and of how many runs; of one run over its requests, where they say it."""
    if row.repeats:
        values = np.array([getattr(r, figure) for r in row.repeats])
        return float(values.std(ddof=1) / math.sqrt(len(values)) / values.mean()), len(values)
    return standard_error(row, figure) / getattr(row, figure), 1
