"""The answer of a search as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from .campaign import search_lines


def answer_text(told: Mapping[str, Any], width: int = 100) -> str:
    """The state of the search and, for a question of cost, both curves at equal interactivity. `told`: as `answer --json` gives it."""
    parts = ["Simulated: nothing of this was measured on a GPU."] if told["source"] == "simulated" else []
    parts += search_lines(told)
    if told["limits"]:
        parts += ["", *_wrapped(LIMITS, width)]
        return "\n".join(parts)
    for series in dict.fromkeys(row["series"] for row in told["rows"]):
        own = [row for row in told["rows"] if row["series"] == series]
        cells = [
            [
                f"{row['interactivity_tok_s_user']:g}",
                _number(row["calibrated_cost_usd_per_mtok"], "{:.3f}"),
                f"±{row['claim']:.1%}" if row["claim"] is not None and row["is_inside_claim"] else "no claim",
                _number(row["through_points_cost_usd_per_mtok"], "{:.3f}"),
                _number(row["perf_per_dollar_vs_first"], "{:.2f}") if series != told["baseline"] else "",
            ]
            for row in own
        ]
        heads = ["tok/s/user", "calibrated\n$/Mtok", "claim", "through points\n$/Mtok", "× per dollar"]
        parts += ["", series, tabulate(cells, headers=heads, tablefmt="plain", disable_numparse=True, stralign="right")]
    parts += ["", *_wrapped(MEANING.format(confidence=told["confidence"], baseline=told["baseline"], price=told["price"]), width)]
    return "\n".join(parts)


MEANING = (
    "calibrated: the step model with factors, a knee and a residual fitted to these points. claim: in {confidence:.0%} of campaigns the"
    " true cost is within it over the whole band; the first line has the claim for the ratios. through points: interpolated between"
    " measured points, as in `tables`. × per dollar: tokens per dollar compared with {baseline}, prices {price}."
)
LIMITS = (
    "The interval holds for runs on different server starts. In a closed loop all users begin together, so TTFT p99 is mostly that of the"
    " opening burst, and depends on workload.prompts_per_concurrency. workload.arrivals=poisson measures TTFT without the burst."
)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
