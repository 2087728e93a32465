"""The data of tables, plots and comparisons: a point as a row, and the series whose curve it belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Series:
    """The properties that all points of one curve share."""

    source: str
    hardware: str
    engine: str
    checkpoint: str
    precision: str
    speculative: str
    isl_tokens: int  # lengths and ratio below 0: an import that does not state them
    osl_tokens: int
    range_ratio: float = 1.0
    endpoint: str = "completions"
    model: str = "GLM-5"
    variant: str = ""  # a digest of overridden facts and flags that the other fields do not show
    time_scale: float | None = None  # of a simulated series
    engine_version: str = ""  # as the server reports it, else the version asked for
    image: str = ""  # with its digest if known
    protocol: str = ""  # rule for the number of requests at a concurrency; empty: the source gives none

    @property
    def has_sessions(self) -> bool:
        """Whether agent sessions were replayed. Their input is mostly cached, so their curves are not those of other workloads."""
        return "content=sessions" in self.variant.split()

    @property
    def workload(self) -> tuple[object, ...]:
        """The values that two series must share to be compared: the source of the figures, the model, and what was sent."""
        sent = (self.isl_tokens, self.osl_tokens, self.range_ratio)
        nobody_knows = (self.label, self.checkpoint, self.variant) if min(sent) < 0 else ()
        return (self.source, self.model, *sent, self.endpoint, self.time_scale, *nobody_knows)

    @property
    def label(self) -> str:
        """The series in a few words."""
        return f"{self.hardware} {self.engine} {self.precision} {self.speculative}"

    @property
    def name(self) -> str:
        """The label, and the words of the variant that readers are shown."""
        return " ".join([self.label, *filter(is_told, self.variant.split())])


@dataclass(frozen=True)
class Row:
    """One point as shown in tables. NaN if a source does not give a figure; throughput and TPOT as defined in docs/design.md."""

    series: Series
    key: str
    digest: str
    tp: int
    gpus: int
    gpus_per_node: int
    concurrency: int
    repeat: int
    seed: int
    server_scope: str
    binding: int | None
    total_tput_per_gpu_tok_s: float
    input_tput_per_gpu_tok_s: float
    output_tput_per_gpu_tok_s: float
    interactivity_tok_s_user: float  # 1 / median TPOT, or as a source states it (it may be rounded separately from TPOT)
    tpot_median_s: float
    ttft_median_s: float
    ttft_p99_s: float
    n_requests: int
    validity: str
    reasons: tuple[str, ...]
    origin: str
    mean_isl_tokens: float = float("nan")  # as the server counted them
    mean_osl_tokens: float = float("nan")
    steady_tput_per_gpu_tok_s: float = float("nan")  # total tokens, in the window in which all users had a request in flight
    peak_output_tput_per_gpu_tok_s: float = float("nan")  # of the best full second
    goodput_rps: float = float("nan")  # requests within the workload's bounds
    total_tput_per_gpu_se_tok_s: float = float("nan")  # standard errors within the run, over its requests
    interactivity_se_tok_s_user: float = float("nan")
    itl_chunk_p99_s: float = float("nan")
    mean_concurrency: float = float("nan")  # requests in flight, mean over the whole time
    acceptance_length: float = float("nan")
    node: str = ""
    job_id: str = ""
    started_utc: str = ""
    nodes: int = 1
    server_start: str = ""  # which start of a server it was measured on; empty: unknown
    beside: Mapping[str, float] = field(default_factory=dict, compare=False)  # figures that only some points have, by the summary's names
    repeats: tuple[Row, ...] = ()  # the runs whose mean this row is; empty: it is one run

    def of(self, figure: str) -> float:
        """A figure of `beside`; NaN if unknown."""
        return self.beside.get(figure, float("nan"))

    @property
    def engine_version(self) -> str:
        """The engine version of its series."""
        return self.series.engine_version

    @property
    def image(self) -> str:
        """The image of its series."""
        return self.series.image

    @property
    def n_repeats(self) -> int:
        """The number of runs in this row."""
        return max(1, len(self.repeats))

    @property
    def starts(self) -> list[Sequence[Row]]:
        """Its runs by server start. Runs of unknown starts count as runs of one start."""
        found: dict[str, list[Row]] = {}
        for row in self.repeats or (self,):
            found.setdefault(row.server_start, []).append(row)
        return list(found.values())


PART = re.compile(r"\b([PD])(\d+)xtp(\d+)(?:dp(\d+))?(?:ep(\d+))?")
PARALLELISM = re.compile(rf"(?:dp|ep)\d+|{PART.pattern}(?:\+{PART.pattern})*")
TELLING = ("checkpoint", "engine_version", "image", "protocol")  # fields that are part of a name only if two series differ in them


def names(series: Iterable[Series]) -> dict[Series, str]:
    """A name for each series, unique in its workload: its label, plus every field in which series with the same label differ."""
    peers: dict[tuple[object, ...], list[Series]] = {}
    for s in dict.fromkeys(series):
        peers.setdefault((s.workload, s.name), []).append(s)
    return {s: " ".join([s.name, *_told_apart(s, alike)]) for alike in peers.values() for s in alike}


def _told_apart(s: Series, alike: Sequence[Series]) -> list[str]:
    differing = [name for name in TELLING if len({getattr(other, name) for other in alike}) > 1]
    words = [_short(getattr(s, name)) or f"unknown {name.replace('_', ' ')}" for name in differing]
    return words + ([w for w in s.variant.split() if not is_told(w)] if len({other.variant for other in alike}) > 1 else [])


def _short(text: str) -> str:
    """An image's reference with a shortened digest."""
    name, has_digest, digest = text.partition("@sha256:")
    return f"{name}@{digest[:12]}" if has_digest else text


def is_told(word: str) -> bool:
    """Whether a word of a variant is shown to readers: parallelism, packing, the load by itself, a difference from the public protocol."""
    return word.startswith("packed") or word == "load" or "=" in word or bool(PARALLELISM.fullmatch(word))


def spread_of(variant: str) -> dict[str, int]:
    """`dp` and `ep` of a server, from the words of its variant; those that are 1 are missing."""
    return {name: int(n) for name, n in re.findall(r"(?<!\S)(dp|ep)(\d+)(?!\S)", variant)}


@dataclass(frozen=True)
class Workers:
    """The equal servers of one role."""

    workers: int
    tp: int
    dp: int
    ep: int

    @property
    def gpus(self) -> int:
        """The GPUs of all of them."""
        return self.workers * self.tp


def parts_of(variant: str) -> dict[str, Workers]:
    """The `prefill` and `decode` workers of a system of several roles, from `P1xtp8+D2xtp4`; empty for others."""
    told = {role: Workers(*(int(n or 1) for n in numbers)) for role, *numbers in PART.findall(variant)}
    return {name: told[name[0].upper()] for name in ("prefill", "decode") if name[0].upper() in told}


def split_gpus(variant: str) -> tuple[int, int] | None:
    """The GPUs that prefill and those that decode, if these are different servers: from `P1xtp8+D2xtp4`, or as imports state them."""
    found = {name[0].upper(): part.gpus for name, part in parts_of(variant).items()}
    if not found:
        found = {name[0].upper(): int(n) for name, n in re.findall(r"\b(prefill|decode)_gpus=(\d+)", variant)}
    return (found["P"], found["D"]) if found.get("P") and found.get("D") else None


def with_protocols(rows: Sequence[Row]) -> list[Row]:
    """The same rows. A series without a rule for its number of requests is divided if no single rule fits all its rows.

    A rule is either the same number at every concurrency, or the same number for each user.
    """
    of: dict[Series, set[tuple[int, float]]] = {}
    for r in rows:
        if not r.series.protocol and not r.series.has_sessions and r.n_requests > 0 and r.concurrency > 0:
            of.setdefault(r.series, set()).add((r.n_requests, round(r.n_requests / r.concurrency, 2)))
    mixed = {s for s, told in of.items() if min(len({n for n, _ in told}), len({each for _, each in told})) > 1}
    return [_with_protocol(r) if r.series in mixed else r for r in rows]


def _with_protocol(r: Row) -> Row:
    if r.concurrency <= 0 or r.n_requests <= 0:
        return r
    return replace(r, series=replace(r.series, protocol=f"requests={r.n_requests / r.concurrency:.3g}xC"))


SOURCE_ORDER = ("measured", "simulated", "published")  # your own come first


def series_order(s: Series) -> tuple[object, ...]:
    """The order in which tables show series: by workload, then by hardware and recipe."""
    rank = SOURCE_ORDER.index(s.source) if s.source in SOURCE_ORDER else len(SOURCE_ORDER)
    workload = (rank, s.source, s.model, s.isl_tokens, s.osl_tokens, s.range_ratio, s.endpoint, s.time_scale or 0.0)
    return (*workload, s.hardware, s.engine, s.checkpoint, s.precision, s.speculative, s.variant,
            s.engine_version, s.image, s.protocol)  # fmt: skip
