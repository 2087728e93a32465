"""A difference as words, and as plain values for JSON. Here milliseconds begin."""

from __future__ import annotations

import math
from typing import Any

from ..analysis.difference import MOST_STARTS, Change, Difference, Setting
from ..analysis.rows import Row
from ..errors import printable
from .readable import markdown

NAMES = {
    "total_tput_per_gpu_tok_s": ("total tok/s/GPU", 1.0),
    "interactivity_tok_s_user": ("tok/s/user", 1.0),
    "ttft_median_s": ("TTFT median, ms", 1e3),
    "itl_chunk_p99_s": ("ITL p99, ms", 1e3),
}


def as_words(d: Difference, *, tolerance: float) -> str:
    """What differs in settings, then every pair of points."""
    parts = [_settings(d), ""]
    if d.changes:
        parts += [markdown([_cells(c) for c in d.changes]), ""]
    words = [c.word for c in d.changes]
    parts += [f"invalid in B: {_arm(r)}" for r in d.invalid_b]
    parts += [f"no figure of both to compare: {_arm(r)}" for r in d.unclear]
    parts += [f"only in {name}: {_arm(r)}" for name, rows in (("A", d.only_a), ("B", d.only_b)) for r in rows]
    if not words:
        return "\n".join(printable(line) for part in parts for line in part.split("\n"))
    told = ", ".join(f"{words.count(word)} {word}" for word in ("better", "worse", "same", "undecided") if word in words)
    parts.append(f"{told}. Tolerance {tolerance:.1%}.")
    parts.append(f"In brackets: the interval of the ratio over server starts, 95 % for all {len(words)} comparisons together.")
    if "undecided" in words:
        parts.append(
            "undecided: these starts show neither a change nor that there is none. `repeat=0,1,2` measures three starts of a server."
        )
    return "\n".join(printable(line) for part in parts for line in part.split("\n"))


def _settings(d: Difference) -> str:
    told = [f"{s.name} {', '.join(s.a) or 'none'} -> {', '.join(s.b) or 'none'}" for s in d.settings]
    if not told:
        return "no setting differs"
    return f"single variable: {told[0]}" if len(told) == 1 else f"{len(told)} settings differ: " + "; ".join(told)


def _arm(r: Row) -> str:
    tp, users = ("?" if n < 0 else n for n in (r.tp, r.concurrency))
    return f"{r.series.source} {r.series.name} tp{tp} concurrency {users}"


def _cells(c: Change) -> dict[str, str]:
    name, scale = NAMES[c.figure]
    between = f" [{c.low:.3f}, {c.high:.3f}]" if math.isfinite(c.low) else ""
    return {
        "point": _arm(c.b),
        "figure": name,
        "A": f"{getattr(c.a, c.figure) * scale:.2f}",
        "B": f"{getattr(c.b, c.figure) * scale:.2f}",
        "B/A": f"{c.ratio:.3f}{between}",
        "": c.word + (f" ({_starts(c)})" if c.word == "undecided" else ""),
    }


def _starts(c: Change) -> str:
    return f"{c.starts} starts each would decide" if c.starts else f"more than {MOST_STARTS} starts each would be needed"


def as_plain(d: Difference) -> dict[str, Any]:
    """One object: settings, changes, and what has no counterpart."""
    return {
        "settings": [_setting(s) for s in d.settings],
        "changes": [_plain(c) for c in d.changes],
        "only_a": [_arm(r) for r in d.only_a],
        "only_b": [_arm(r) for r in d.only_b],
        "invalid_b": [_arm(r) for r in d.invalid_b],
        "unclear": [_arm(r) for r in d.unclear],
    }


def _setting(s: Setting) -> dict[str, Any]:
    return {"name": s.name, "a": list(s.a), "b": list(s.b)}


def _plain(c: Change) -> dict[str, Any]:
    known = math.isfinite(c.low)
    values = {"a": getattr(c.a, c.figure), "b": getattr(c.b, c.figure), "ratio": c.ratio}
    between = {"low": c.low if known else None, "high": c.high if known else None}
    starts = {"starts_a": len(c.a.starts), "starts_b": len(c.b.starts), "starts_needed": c.starts}
    return {"point": _arm(c.b), "key_a": c.a.key, "key_b": c.b.key, "figure": c.figure, **values, **between, "change": c.word, **starts}
