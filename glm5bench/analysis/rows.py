"""What tables, plots and comparisons are made of: a point as a row, and the series whose curve it lies on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Series:
    """What one curve is drawn of."""

    source: str
    hardware: str
    engine: str
    checkpoint: str
    precision: str
    speculative: str
    isl_tokens: int  # lengths and ratio below 0: an import that does not say
    osl_tokens: int
    range_ratio: float = 1.0
    endpoint: str = "completions"
    model: str = "GLM-5"
    variant: str = ""  # a digest of overridden facts and flags that the other fields do not show
    time_scale: float | None = None  # of a simulated one

    @property
    def workload(self) -> tuple[object, ...]:
        """Only series with the same of this are compared: the kind of number, the model, and what was sent."""
        sent = (self.isl_tokens, self.osl_tokens, self.range_ratio)
        nobody_knows = (self.label, self.checkpoint, self.variant) if min(sent) < 0 else ()
        return (self.source, self.model, *sent, self.endpoint, self.time_scale, *nobody_knows)

    @property
    def label(self) -> str:
        """The series in a few words."""
        return f"{self.hardware} {self.engine} {self.precision} {self.speculative}"


@dataclass(frozen=True)
class Row:
    """One point as tables see it. NaN where a source does not give a figure; throughput and TPOT as DESIGN defines them."""

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
    interactivity_tok_s_user: float  # 1 / median TPOT, or as a source states it: it may round it apart from its TPOT
    tpot_median_s: float
    ttft_median_s: float
    ttft_p99_s: float
    n_requests: int
    validity: str
    reasons: tuple[str, ...]
    origin: str
    mean_isl_tokens: float = float("nan")  # as the server counted them
    mean_osl_tokens: float = float("nan")
    steady_tput_per_gpu_tok_s: float = float("nan")  # total tokens, while all users had a request in flight
    peak_output_tput_per_gpu_tok_s: float = float("nan")  # of the best full second
    goodput_rps: float = float("nan")  # requests within the workload's bounds
    total_tput_per_gpu_se_tok_s: float = float("nan")  # standard errors within the run, over its requests
    interactivity_se_tok_s_user: float = float("nan")
    itl_chunk_p99_s: float = float("nan")
    mean_concurrency: float = float("nan")  # requests in flight, over the whole time
    acceptance_length: float = float("nan")
    engine_version: str = ""
    image: str = ""
    node: str = ""
    job_id: str = ""
    started_utc: str = ""
    beside: Mapping[str, float] = field(default_factory=dict, compare=False)  # figures that few points have, by the summary's names
    repeats: tuple[Row, ...] = ()  # the rows that this one is the mean of; none: it is one run

    def of(self, figure: str) -> float:
        """A figure of `beside`; NaN where it is not known."""
        return self.beside.get(figure, float("nan"))

    @property
    def n_repeats(self) -> int:
        """How many runs it stands for."""
        return max(1, len(self.repeats))


def series_order(s: Series) -> tuple[object, ...]:
    """The order in which tables show series: by workload, then by hardware and recipe."""
    workload = (s.source, s.model, s.isl_tokens, s.osl_tokens, s.range_ratio, s.endpoint, s.time_scale or 0.0)
    return (*workload, s.hardware, s.engine, s.checkpoint, s.precision, s.speculative, s.variant)
