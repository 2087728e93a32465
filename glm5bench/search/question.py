"""The question of a search, from its settings."""

from __future__ import annotations

import re

from ..errors import SettingsError
from ..values.search import Limit, Question, Search

ASSUMED_SPREAD = 0.03  # from run to run on different starts, as a share, if nothing is measured
FIGURES = ("ttft_median", "ttft_p99", "tpot_median", "tpot_p99")
LIMIT = re.compile(r"([a-z0-9_]+)<=([0-9]+(?:[.][0-9]+)?)(ms|s)")


def question_of(asked: Search) -> Question | None:
    """The question; None if every concurrency is measured. Raises SettingsError for settings that contradict each other."""
    if asked.band is None and asked.slo is None:
        if asked != Search(asked.id):
            raise SettingsError(f"search={asked.id} has no settings.", where="search", next_step="choose search=frontier or search=slo")
        return None
    if asked.band is not None and asked.slo is not None:
        raise SettingsError("A search has a band or limits, not both.", where="search", next_step="remove search.band or search.slo")
    low, high = asked.band or (0.0, 0.0)
    limits = limits_of(asked.slo) if asked.slo is not None else ()
    if not low < high and not limits:
        raise SettingsError(f"search.band=[{low:g},{high:g}] is empty.", next_step="lowest first: search.band=[25,84]")
    if asked.candidates[0] >= asked.candidates[1]:
        raise SettingsError("search.candidates is empty.", next_step="lowest and highest concurrency: search.candidates=[1,512]")
    spread = asked.spread if asked.spread is not None else ASSUMED_SPREAD
    source = "assumed" if asked.spread is None else f"from {asked.repeats}" if asked.repeats else "set"
    return Question(low, high, asked.tolerance or 0.08, asked.confidence, spread, asked.most_points, asked.budget.node_h, source, limits)


def limits_of(text: str) -> tuple[Limit, ...]:
    """The limits in a text like `ttft_p99<=2s,tpot_p99<=50ms`. Raises SettingsError that names the invalid part."""
    found = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        match = LIMIT.fullmatch(word.replace(" ", ""))
        if match is None or match[1] not in FIGURES:
            raise SettingsError(
                f"search.slo: {word!r} is not a limit like ttft_p99<=2s.",
                where="search.slo",
                next_step=f"FIGURE<=NUMBER with the unit s or ms; FIGURE is {', '.join(FIGURES)}",
            )
        seconds = float(match[2]) * (1e-3 if match[3] == "ms" else 1.0)
        if seconds <= 0:
            raise SettingsError(f"search.slo: {word!r} allows no time.", where="search.slo", next_step="a limit above 0")
        found.append(Limit(match[1], seconds, match[0]))
    if not found:
        raise SettingsError("search=slo needs its limits.", where="search.slo", next_step="'search.slo=ttft_p99<=2s,tpot_p99<=50ms'")
    if len({limit.figure for limit in found}) < len(found):
        raise SettingsError("search.slo limits one figure twice.", where="search.slo", next_step="one limit for each figure")
    return tuple(found)
