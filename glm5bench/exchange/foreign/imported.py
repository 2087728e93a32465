"""The content of a foreign result, and the Measurement that is made from it.

Enters: what an importer read (`Told`), and the facts that the user gives (`--set`). Leaves: a Measurement whose point has every required
fact. A fact from neither source is `unstated` or None. A figure gets the name of an archive.summary column if both have the same
definition, and a separate name otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...analysis.metrics import Requests
from ...analysis.plausibility import Stated, of_stated
from ...archive.columns import BY_NAME
from ...archive.measurement import SOURCES, Measurement
from ...errors import FileError, SettingsError
from ...values.plain import digest_of
from .reading import MAX_TEXT, Entry, ForeignFile, Read

UNSTATED = "unstated"  # the same word as in `glm5bench load`
TEXTS: dict[str, str] = {
    "hardware": UNSTATED, "engine": UNSTATED, "engine_version": "", "image": "", "model": UNSTATED, "checkpoint": UNSTATED,
    "precision": UNSTATED, "speculative": UNSTATED, "endpoint": UNSTATED, "server_scope": UNSTATED, "variant": "",
}  # fmt: skip
COUNTS: dict[str, int | None] = {
    "tp": None, "gpus": None, "gpus_per_node": None, "concurrency": None, "isl_tokens": None, "osl_tokens": None,
    "repeat": 0, "seed": None, "binding": None,
}  # fmt: skip
FIGURES: dict[str, float | None] = {"range_ratio": None, "time_scale": None}
FACTS = (*TEXTS, *COUNTS, *FIGURES)
FROM_ZERO = ("repeat", "seed")
STATISTIC = re.compile(r"mean|median|std|min|max|p\d{1,2}(?:\.\d{1,3})?|p100")
TIMES_BY_SCALE = re.compile(r"_s$")
RATES_BY_SCALE = re.compile(r"_tok_s$|_tok_s_user$|_rps$|_per_s$")


@dataclass(frozen=True)
class Told:
    """The content of one entry. `point`: facts; `guessed`: facts that the user may override; `stated`: figures, in seconds and tokens."""

    client: str
    entry: int
    point: dict[str, Any] = field(default_factory=dict)
    guessed: dict[str, Any] = field(default_factory=dict)
    stated: dict[str, float] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)
    workload: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    requests: Requests | None = None
    source: str | None = None
    is_simulated_time: bool = False  # figures of a simulated server are already in simulated time
    summary: ForeignFile | None = None  # a second file of the same run, from which facts and figures come


Pair = tuple[Told, ForeignFile]


@dataclass(frozen=True)
class Results:
    """The entries of a file that could be read, and the errors of the others."""

    told: list[Told]
    bad: list[FileError]


def each(read: Read, told: Callable[[Entry], Told]) -> Results:
    """The results of `told` for all entries. A wrong entry affects only itself. Raises FileError if no entry is valid."""
    results = Results([], list(read.bad))
    for entry in read.entries:
        try:
            results.told.append(told(entry))
        except FileError as error:
            results.bad.append(error)
    if not results.told:
        raise results.bad[0]
    return results


@dataclass(frozen=True)
class Given:
    """What the user states about the files: facts, and the source."""

    facts: dict[str, Any] = field(default_factory=dict)
    source: str | None = None


def given(pairs: Sequence[str], source: str | None = None) -> Given:
    """The facts from `--set name=value`. Raises SettingsError for an unknown name or an invalid value."""
    facts: dict[str, Any] = {}
    for pair in pairs:
        name, has_value, value = pair.partition("=")
        if name not in FACTS or not has_value:
            raise SettingsError(f"--set {pair} is not NAME=VALUE with a known name.", next_step=f"use one of {', '.join(FACTS)}")
        try:
            said = fact(name, value)
        except ValueError as error:
            raise SettingsError(f"--set {pair}: {error}.", next_step=f"--set {name}=VALUE") from error
        if facts.setdefault(name, said) != said:
            raise SettingsError(f"--set {name}={facts[name]} and --set {pair} contradict each other.", next_step="give it once")
    if source is not None and source not in SOURCES:
        raise SettingsError(f"--source {source}: unknown source.", next_step=f"use one of {', '.join(SOURCES)}")
    return Given(facts, source)


def fact(name: str, value: Any) -> Any:
    """The value of a fact in its type, from a text or a JSON value. Raises ValueError with the expected kind of value."""
    if name in TEXTS:
        if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= MAX_TEXT:
            raise ValueError(f"{name} must be a text")
        return value
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if name in FIGURES:
        if not 0 < number < 1e9 or (name == "range_ratio" and number > 1):
            raise ValueError(f"{name} must be a number above 0" + (", and at most 1" if name == "range_ratio" else ""))
        return number
    lowest = 0 if name in FROM_ZERO else 1
    if not lowest <= number < 2**31 or number != int(number):
        raise ValueError(f"{name} must be a whole number from {lowest}")
    return int(number)


def facts_in(entry: Entry, names: Mapping[str, str]) -> dict[str, Any]:
    """The facts in a file. `names` maps its fields to facts. Raises FileError for values of another kind."""
    found = {}
    for key, name in names.items():
        if not entry.is_absent(key):
            try:
                found[name] = fact(name, entry.values[key])
            except ValueError as error:
                raise entry.error(f"{entry.path}{key} is {entry.values[key]!r:.60}, but {error}") from error
    return found


def metadata(entry: Entry, known: Sequence[str] = ()) -> tuple[dict[str, Any], dict[str, Any], str | None]:
    """Facts, further metadata, and the source, from the fields that are not `known`, which a user added to the file."""
    plain = metadata_words(entry, known)
    facts = facts_in(entry, {name: name for name in FACTS if name in plain})
    source = plain.get("source")
    kind = str(source) if source in SOURCES else None
    return facts, {k: v for k, v in plain.items() if k not in facts and not (k == "source" and kind)}, kind


def metadata_words(entry: Entry, known: Sequence[str]) -> dict[str, Any]:
    """The texts and numbers of an entry whose names are not `known`."""
    words = {key[:MAX_TEXT]: value for key, value in entry.values.items() if key not in known}
    return {key: _bounded(value) for key, value in words.items() if isinstance(value, str | int | float | bool)}


def _bounded(value: Any) -> Any:
    if isinstance(value, str):
        return value[:MAX_TEXT]
    return value if abs(value) < 2**63 else str(value)[:MAX_TEXT]  # infinity, NaN and integers that are too large for JSON readers


def measurement(told: Told, said: Given, file: ForeignFile, format_: str) -> Measurement:
    """The entry as a measurement. Raises SettingsError if the file and the user contradict each other."""
    where = f"{file.path}, entry {told.entry}"
    source = _source(told, said, where)
    point = _point(told, said, where)
    stated = told.stated
    if told.requests is None:
        scale = 1.0 if told.is_simulated_time else point["time_scale"] or 1.0
        stated = _with_per_gpu(with_totals(_scaled(stated, scale)), point["gpus"])
    _refuse_absurd(stated, where)
    judged = of_stated(stated, point)
    words = told.provenance.get("metadata", {})
    provenance = {
        "imported": {"format": format_, "file": file.name, "sha256": file.sha256, "entry": told.entry, **_summary(told)},
        "client_program": told.client,
        "definitions": {name: text for name, text in told.definitions.items() if name in stated},
        **told.provenance,
        **({"reasons": words["reasons"]} if isinstance(words.get("reasons"), str) else {}),
        **({"implausible": _implausible(judged)} if judged.left_out else {}),
    }
    stated = judged.figures
    server = {"acceptance_length": stated["acceptance_length"]} if "acceptance_length" in stated else {}
    key = digest_of([point, {name: value for name, value in provenance.items() if name != "imported"}])
    return Measurement(key, source, point, provenance, requests=told.requests, server=server, stated=stated)


def _summary(told: Told) -> dict[str, Any]:
    return {"summary": {"file": told.summary.name, "sha256": told.summary.sha256}} if told.summary else {}


def _implausible(judged: Stated) -> dict[str, Any]:
    """Figures that were left out because no real run can have them, and the reasons."""
    return {"left_out": judged.left_out, "reasons": [[why.code, why.text] for why in judged.reasons]}


def with_totals(stated: Mapping[str, float]) -> dict[str, float]:
    """The figures, with rates that the source does not state but that follow from others: counts per duration, and input plus output."""
    found = dict(stated)
    duration = found.get("duration_s", 0.0)
    sums = () if "sessions_per_h" in found else (("input", "prompt_tokens"), ("output", "output_tokens"))  # of sessions, none
    for kind, tokens in sums:
        if f"{kind}_tput_tok_s" not in found and tokens in found and duration > 0:
            found[f"{kind}_tput_tok_s"] = found[tokens] / duration
    rates = [found.get(f"{kind}_tput_tok_s") for kind in ("input", "output")]
    if "total_tput_tok_s" not in found and None not in rates:
        found["total_tput_tok_s"] = sum(rate for rate in rates if rate is not None)
    n = found["n_requests"] - found.get("n_failed", 0) if "n_requests" in found else found.get("ttft_n", 0)
    if "request_rate_rps" not in found and n > 0 and duration > 0:
        found["request_rate_rps"] = n / duration
    return found


SIGNED = ("hit_loss", "ttft_per_fresh_token_s", "ttft_base_s", "lateness_p99_s")  # differences, and a fitted line


def _refuse_absurd(stated: Mapping[str, float], where: str) -> None:
    for name, value in stated.items():
        if not math.isfinite(value) or (value < 0 and is_column(name) and name not in SIGNED):
            raise FileError(
                f"{name} is {value:g}, but must be finite and not below 0.",
                path=where,
                next_step="check what the tool wrote there",
            )


def _source(told: Told, said: Given, where: str) -> str:
    if told.source is not None and said.source not in (None, told.source):
        raise SettingsError(
            f"The source is {told.source} in the file, but --source is {said.source}.", where=where, next_step="remove --source"
        )
    return told.source or said.source or "measured"


def _point(told: Told, said: Given, where: str) -> dict[str, Any]:
    for name, value in said.facts.items():
        if name != "variant" and told.point.get(name, value) != value:
            raise SettingsError(
                f"The file has {name}={told.point[name]}, but --set has {name}={value}.",
                where=where,
                next_step=f"remove --set {name}",
            )
    point = {**TEXTS, **COUNTS, **FIGURES, **told.guessed, **told.point, **said.facts}
    words = [word for word in str(point["variant"]).split() if word]
    if not any(word.startswith("client=") for word in words):
        words.append(f"client={told.client.replace(' ', '_')}")
    words += [f"{name}={value}" for name, value in told.workload.items() if f"{name}={value}" not in words]
    point["variant"] = " ".join(words)
    return {**point, "arm": {"workload": told.workload}} if told.workload else point


def _scaled(stated: Mapping[str, float], scale: float) -> dict[str, float]:
    """The figures of a simulated server whose clock ran `scale` times faster, converted to simulated time."""
    factors = {name: 1 / scale if RATES_BY_SCALE.search(name) else scale if TIMES_BY_SCALE.search(name) else 1.0 for name in stated}
    return {name: value * factors[name] if factors[name] != 1 else value for name, value in stated.items()}


def _with_per_gpu(stated: dict[str, float], gpus: int | None) -> dict[str, float]:
    """The figures, with the throughput per GPU if the number of GPUs and the server's throughput are known."""
    if not gpus:
        return stated
    per_gpu = {
        f"{k}_tput_per_gpu_tok_s": stated[f"{k}_tput_tok_s"] / gpus for k in ("total", "input", "output") if f"{k}_tput_tok_s" in stated
    }
    return {**per_gpu, **stated}


def latency(metric: str, statistic: str) -> str:
    """The name of a statistic of a latency, in seconds. It is a column's name if there is one: p50 is the median, p100 the maximum."""
    if STATISTIC.fullmatch(statistic) is None:
        raise ValueError(f"{statistic} is not a known statistic")
    return f"{metric}_{ {'p50': 'median', 'p100': 'max'}.get(statistic, statistic) }_s"


def figures_in(entry: Entry, names: Mapping[str, str]) -> dict[str, float]:
    """Figures and counts of an entry. `names` maps its fields to glm5bench's names."""
    found: dict[str, float] = {}
    for key, name in names.items():
        is_count = name in BY_NAME and BY_NAME[name].kind == "count"
        value = entry.count(key) if is_count else entry.number(key)
        if value is not None:
            found[name] = value
    return found


def defined(stated: Mapping[str, float], notes: Mapping[str, str], client: str) -> dict[str, str]:
    """The definition of each figure, unless a column's name is enough: the first note whose name is a prefix, else the tool's own."""
    found = {name: next((text for start, text in notes.items() if name.startswith(start)), "") for name in stated}
    return {name: text or f"as {client} defines it" for name, text in found.items() if text or not is_column(name)}


def is_column(name: str) -> bool:
    """Whether this is the name of a column of the summary."""
    return name in BY_NAME
