"""The lines below the tables of a terminal: an explanation of each column and mark on the screen, and of nothing else."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis import repeats
from ..analysis.reasons import ADVICE, is_code, meaning
from ..errors import printable
from .readable import prices_line
from .tables import Tables

LEFT_OUT = "Columns that do not fit (`--format md` prints all):"
MEANINGS = {
    "tok/s/user": "tok/s/user: interactivity, 1000 / median TPOT in ms",
    "tok/s/GPU": "tok/s/GPU: prompt and output tokens over the wall time, divided by the GPUs that the server uses",
    "conc.": "conc.: concurrency, the number of users",
    "TTFT": "TTFT: time to first token, median and 99th percentile (p99)",
    "TPOT": "TPOT: time per output token without the first, median",
    "$/Mtok": "$/Mtok: cost of a million prompt and output tokens at the prices below",
    "sessions/h": "sessions/h: sessions an hour; a request counts as its share of its session",
    "P90 tok/s": "P50, P90 tok/s: 1 / percentile of the time of a whole request over its output tokens",
    "hit": "hit: prompt tokens from the prefix cache; ideal: the same with an infinite cache",
    "fresh tok/s/GPU": "fresh, cached, output tok/s/GPU: computed and cached prompt tokens, and output tokens, in the window",
    "late ms": "late: p99 of sending a request after it was due, by the client",
    "whole node": "whole node: the cost if you also pay for the node's GPUs that the server leaves idle",
}
INTERVAL = (
    "95 %: interval over server starts, runs of one start, or requests of one run. Only `starts` can show that systems differ. "
    "inf: no upper bound"
)


def footer(t: Tables, body: str, rows: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """An explanation of each column and mark that is on the screen, the prices, and the flags with what to do about them."""
    body = re.sub(rf"^{re.escape(LEFT_OUT)}.*(\n  .*)*", "", body, flags=re.MULTILINE)
    words = set(body.split())
    lines = [text for name, text in MEANINGS.items() if name in words or (" " in name and name in body)]
    for sign, way in (("<", "below"), (">", "above")):
        marks = sorted({word for word in words if word.startswith(f"c{sign}")}, key=lambda m: int(m[2:]))
        if marks:
            bound = "the number" if len(marks) > 1 else marks[0][2:]
            lines.append(f"{', '.join(marks)}: not measured; it needs a concurrency {way} {bound}")
    if "none" in words:
        lines.append("none: not reached, even by a single user")
    if "no gain" in body:
        lines.append("no gain: measured, but the end of the frontier is better in both figures")
    if "× vs" in body:
        lines.append("× vs: tokens per dollar, compared with that system at the same interactivity")
    if "95 %" in body:
        lines.append(INTERVAL)
    if "$/Mtok" in body:
        lines.append(prices_line(t))
    if rows and "reasons" in rows[0]:
        by_all = flags_of_all(rows)
        for source, codes in by_all.items():
            n, kind = sum(r["source"] == source for r in rows), f"{source} " if len(by_all) > 1 else ""
            lines += [f"All {n} {kind}points are flagged {code}: {_explained(code)}" for code in sorted(codes)]
        some = dict.fromkeys(code for r in rows for code in flags(r) if code not in by_all[r["source"]])
        lines += [f"{code}: {_explained(code)}" for code in some if code in words]
    return [line for text in lines for line in textwrap.wrap(printable(text), width, subsequent_indent="  ")]


def _explained(code: str) -> str:
    """The meaning of a flag and what to do about it."""
    if code == repeats.LEFT_OUT:
        return "some repeats are invalid and not part of this mean. Advice: resubmit them."
    if not is_code(code):
        return "a flag of another version of glm5bench."
    return f"{meaning(code)}. Advice: {ADVICE[code]}." if code in ADVICE else f"{meaning(code)}."


def flags(r: Mapping[str, Any]) -> list[str]:
    """The reason codes of a row."""
    return [code for code in (r["reasons"] or "").split(",") if code]


def flags_of_all(rows: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    """For each source, the flags that all its rows have, if there are several rows."""
    of: dict[str, list[set[str]]] = {}
    for r in rows:
        of.setdefault(r["source"], []).append(set(flags(r)))
    return {source: set.intersection(*each) if len(each) > 1 else set() for source, each in of.items()}


def wrapped(text: str, width: int) -> str:
    """The text in lines of this width, the further ones indented."""
    return "\n".join(textwrap.wrap(printable(text), width, subsequent_indent="  "))
