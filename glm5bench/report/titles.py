"""The names of series as people write them: `B200 NVFP4 MTP, published`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..analysis.rows import Series, names
from .records import FAILED, series_row

Key = tuple[Any, ...]


def titles(rows: Iterable[Mapping[str, Any]], *, with_source: bool) -> dict[Key, str]:
    """A title for the series of each of these flat rows. The engine is part of it only if its workload has several.

    `with_source` appends `, published` or `, simulated` to what was not measured.
    """
    rows = list(rows)
    engines: dict[Key, set[str]] = {}
    for r in rows:
        engines.setdefault(_workload(r), set()).add(r["engine"])
    of = {_key(r): _title(r, has_engines=len(engines[_workload(r)]) > 1) for r in rows}
    return {key: f"{title}, {key[0]}" if with_source and key[0] != "measured" else title for key, title in of.items()}


def series_titles(series: Iterable[Series], *, with_source: bool) -> dict[Series, str]:
    """The same for series."""
    series = list(series)
    named = names(series)
    rows = {s: series_row(s, named) for s in series}
    made = titles(rows.values(), with_source=with_source)
    return {s: made[_key(r)] for s, r in rows.items()}


def _workload(r: Mapping[str, Any]) -> Key:
    return (r["source"], r["model"], r["isl_tokens"], r["osl_tokens"], r["range_ratio"], r["endpoint"])


def _key(r: Mapping[str, Any]) -> Key:
    return (*_workload(r), r["series"])


def title_of(named: Mapping[Key, str], r: Mapping[str, Any]) -> str:
    """The title of a row's series, with a mark if it failed its accuracy gate."""
    return named[_key(r)] + (FAILED if r.get("accuracy") else "")


def _title(r: Mapping[str, Any], *, has_engines: bool) -> str:
    label = " ".join((r["hardware"], r["engine"], r["precision"], r["speculative"]))
    speculative = "no MTP" if r["speculative"] == "off" else r["speculative"].upper()
    words = [r["hardware"].upper(), *([r["engine"]] if has_engines else []), r["precision"].upper(), speculative]
    words = [word for word in words if word.lower() != "unstated"] or ["server of load"]
    return " ".join([*words, *r["series"].removeprefix(label).split()])


def session_titles(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Short titles of rows of agent sessions. File, window and source are part of them only if they differ between the rows."""
    rows = list(rows)
    has_engines = len({r["engine"] for r in rows}) > 1
    told = [_session_words(r, has_engines=has_engines) for r in rows]
    differing = {name for name in ("file", "window", "source") if len({words[name] for words in told}) > 1}
    return [", ".join([w["system"], *(w[name] for name in ("file", "window", "source") if name in differing)]) for w in told]


def _session_words(r: Mapping[str, Any], *, has_engines: bool) -> dict[str, str]:
    words = dict(word.split("=", 1) for word in r["variant"].split() if "=" in word)
    title = _title(r, has_engines=has_engines).split()
    own = [word for word in title if word.partition("=")[0] not in ("content", "file_sha256", "duration_s")]
    window = f"{float(words.get('duration_s') or 0):g} s"
    return {"system": " ".join(own), "file": f"file {words.get('file_sha256', '')[:6]}", "window": window, "source": str(r["source"])}
