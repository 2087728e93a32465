"""What is sent: lengths, prompts, endpoint, when each request is due, and when it is over. Values only.

A closed loop keeps `concurrency` requests in flight: the public protocol. In an open one requests are due at times of their own, at most
`concurrency` of them in flight, and a request's clock starts when it was due. Times are seconds of the server's clock: a simulated
server that runs 20 times faster than life is sent them 20 times faster.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import FiniteFloat

Natural = Annotated[int, Ge(0)]
Positive = Annotated[int, Ge(1)]
PositiveFloat = Annotated[FiniteFloat, Gt(0)]
Seconds = Annotated[FiniteFloat, Ge(0)]

OBJECTIVE = re.compile(r"(ttft|tpot|itl|e2el)<=([0-9]*\.?[0-9]+)(ms|s)")


@dataclass(frozen=True)
class Workload:
    """Lengths are nominal: each request's are uniform in [range_ratio L, L], unless they come from a file."""

    id: str
    isl_tokens: Positive
    osl_tokens: Positive
    range_ratio: Annotated[FiniteFloat, Gt(0), Le(1)]
    endpoint: Literal["completions", "chat", "generate"]
    prompts_per_concurrency: Positive
    prompts: Positive | None  # a fixed number in place of prompts_per_concurrency x C
    warmups_per_concurrency: Natural
    content: Literal["random", "conversations", "trace"] = "random"
    file: str | None = None  # of conversations or of a trace
    file_sha256: str | None = None  # of its content, put in when the settings are read
    prefix_tokens: Natural = 0  # with which every prompt begins; part of isl_tokens
    turns: Positive = 1  # of a conversation, each sent with all that was said before
    think_time_s: Seconds = 0.0  # mean of the pause before each further turn, exponential
    arrivals: Literal["closed", "poisson", "gamma", "constant", "trace"] = "closed"
    rate_rps: PositiveFloat | None = None  # conversations due a second, in an open loop
    burstiness: PositiveFloat = 1.0  # shape of the gamma distribution of gaps: 1 is Poisson, less comes in bursts
    ramp_s: Seconds = 0.0  # until all users, or the whole rate, are there
    duration_s: PositiveFloat | None = None  # after it nothing new is sent
    goodput: str = ""  # what a good request keeps: ttft<=2s,tpot<=50ms
    omit: tuple[Literal["ignore_eos", "continuous_usage_stats"], ...] = ()  # fields of a request that the server rejects

    @property
    def is_open_loop(self) -> bool:
        """Whether requests are due at times of their own."""
        return self.arrivals != "closed"

    def n_prompts(self, concurrency: int) -> int:
        """How many conversations are measured at this concurrency, at the most."""
        return self.prompts if self.prompts is not None else self.prompts_per_concurrency * concurrency

    def n_warmups(self, concurrency: int) -> int:
        """How many requests are sent before the clock starts."""
        return self.warmups_per_concurrency * concurrency

    @property
    def mean_isl_tokens(self) -> float:
        """Mean realised prompt length, of a first turn."""
        return self.isl_tokens * (1 + self.range_ratio) / 2

    @property
    def mean_osl_tokens(self) -> float:
        """Mean realised output length."""
        return self.osl_tokens * (1 + self.range_ratio) / 2

    @property
    def longest_tokens(self) -> int:
        """Positions that the longest request may need."""
        return self.turns * (self.isl_tokens + self.osl_tokens)

    def physics(self) -> dict[str, Any]:
        """What of it changes a measurement. A setting that came later is left out at its first value: keys stay what they were."""
        values = dataclasses.asdict(self)
        first = {f.name: f.default for f in dataclasses.fields(self) if f.default is not dataclasses.MISSING}
        kept = {name: value for name, value in values.items() if name not in first or value != first[name]}
        return {name: "" if name == "id" else value for name, value in kept.items() if name not in ("goodput", "file")}

    def departures(self) -> tuple[str, ...]:
        """In what it differs from the public protocol, in words that stand in the name of its curve."""
        physics = self.physics()
        names = ("omit", "arrivals", "rate_rps", "burstiness", "content", "file_sha256", "turns", "think_time_s", "prefix_tokens", "ramp_s")
        told = {**physics, "file_sha256": str(physics.get("file_sha256"))[:12], "omit": ",".join(self.omit)}
        return tuple(f"{name}={told[name]}" for name in (*names, "duration_s") if name in physics)


@dataclass(frozen=True)
class Objective:
    """One bound that a good request keeps, in seconds."""

    metric: Literal["ttft", "tpot", "itl", "e2el"]
    limit_s: float


def objectives(goodput: str) -> tuple[Objective, ...]:
    """The bounds of `ttft<=2s,tpot<=50ms`. Raises ValueError that names what cannot be read."""
    found: list[Objective] = []
    for word in filter(None, (part.strip() for part in goodput.split(","))):
        match = OBJECTIVE.fullmatch(word.replace(" ", ""))
        if match is None:
            raise ValueError(f"{word!r} is no bound like ttft<=2s or tpot<=50ms")
        metric: Any = match[1]
        if metric in (o.metric for o in found):
            raise ValueError(f"{metric} has two bounds")
        found.append(Objective(metric, float(match[2]) * (1e-3 if match[3] == "ms" else 1.0)))
    return tuple(found)


def impossible(w: Workload) -> str:
    """What contradicts itself in the workload, with the setting that mends it; empty where nothing does."""
    try:
        objectives(w.goodput)
    except ValueError as error:
        return f"workload.goodput: {error}"
    needs_rate = w.arrivals in ("poisson", "gamma", "constant")
    checks = (
        (needs_rate and w.rate_rps is None, f"workload.arrivals={w.arrivals} needs workload.rate_rps"),
        (not needs_rate and w.rate_rps is not None, f"workload.rate_rps means nothing with workload.arrivals={w.arrivals}"),
        (w.burstiness != 1 and w.arrivals != "gamma", f"workload.burstiness means nothing with workload.arrivals={w.arrivals}"),
        (w.arrivals == "trace" and w.content != "trace", "workload.arrivals=trace needs workload.content=trace"),
        (w.arrivals == "trace" and w.ramp_s > 0, "workload.ramp_s means nothing with workload.arrivals=trace"),
        (w.content != "random" and not w.file, f"workload.content={w.content} needs workload.file"),
        (w.content == "random" and bool(w.file), "workload.file is read with workload.content=conversations or trace only"),
        (w.file_sha256 is not None and not w.file, "workload.file_sha256 is the hash of workload.file, and there is none"),
        (w.content == "trace" and w.turns > 1, "workload.turns: the requests of a trace have one turn"),
        (w.turns == 1 and w.think_time_s > 0, "workload.think_time_s is the pause between turns: it needs workload.turns"),
        (
            w.turns > 1 and w.endpoint != "chat" and w.content == "conversations",
            "recorded conversations of several turns need endpoint=chat",
        ),
        (
            w.prefix_tokens >= int(w.range_ratio * w.isl_tokens),
            f"workload.prefix_tokens={w.prefix_tokens} leaves nothing of the shortest prompt, {int(w.range_ratio * w.isl_tokens)} tokens",
        ),
        (w.prefix_tokens > 0 and w.content != "random", "workload.prefix_tokens is for workload.content=random"),
    )
    return next((why for is_wrong, why in checks if is_wrong), "")
