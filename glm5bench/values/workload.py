"""The workload: lengths, prompts, endpoint, when each request is due, and when the run ends. Values only.

A closed loop keeps `concurrency` requests in flight; this is the public protocol. In an open loop, each request is due at its own time, at
most `concurrency` requests are in flight, and a request's clock starts when it is due. Times are seconds of the server's clock: a simulated
server that runs 20 times faster than real time gets its requests 20 times faster.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import FiniteFloat

from .plain import ABSENT

if TYPE_CHECKING:
    import numpy as np

Natural = Annotated[int, Ge(0)]
Positive = Annotated[int, Ge(1)]
PositiveFloat = Annotated[FiniteFloat, Gt(0)]
Seconds = Annotated[FiniteFloat, Ge(0)]

Share = Annotated[FiniteFloat, Ge(0), Le(1)]
ENTRY = (0.25, 0.75)  # of AgentX

PER_USER = 10  # requests of the public protocol; kept by workloads that do not use them, so that it does not split their keys
OWN_HEADERS = ("accept", "accept-encoding", "authorization", "connection", "content-encoding", "content-length", "content-type", "cookie",
               "expect", "host", "keep-alive", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade",
               "user-agent", "x-api-key")  # fmt: skip
NO_PHYSICS = ("goodput", "file", "most_tokens", "most_pause_s")  # of the evaluation, or given by the file's hash
HEADER = re.compile(r"[A-Za-z0-9-]*")
OBJECTIVE = re.compile(r"(ttft|tpot|itl|e2el)<=([0-9]*\.?[0-9]+)(ms|s)")


@dataclass(frozen=True)
class Workload:
    """The load of an arm. Lengths are nominal: each request's length is uniform in [range_ratio L, L], unless it comes from a file."""

    id: str
    isl_tokens: Positive
    osl_tokens: Positive
    range_ratio: Annotated[FiniteFloat, Gt(0), Le(1)]
    endpoint: Literal["completions", "chat", "generate"]
    prompts_per_concurrency: Positive
    prompts: Positive | None  # a fixed number instead of prompts_per_concurrency x C
    warmups_per_concurrency: Natural
    content: Literal["random", "conversations", "trace", "sessions"] = "random"
    file: str | None = None  # a file of conversations, of a trace or of agent sessions
    file_sha256: str | None = None  # hash of the file's content, set when the settings are read
    prefix_tokens: Natural = 0  # shared beginning of every prompt; part of isl_tokens
    turns: Positive = 1  # turns of a conversation; each is sent with all turns before it
    think_time_s: Seconds = 0.0  # mean pause before each further turn, exponentially distributed
    arrivals: Literal["closed", "poisson", "gamma", "constant", "trace"] = "closed"
    rate_rps: PositiveFloat | None = None  # conversations due per second, in an open loop
    burstiness: PositiveFloat = 1.0  # gamma shape of the gaps: 1 is Poisson, below 1 is burstier
    ramp_s: Seconds = 0.0  # time until all users are active or the full rate is reached
    duration_s: PositiveFloat | None = None  # no new requests are sent after this time
    goodput: str = ""  # limits that a good request keeps, such as ttft<=2s,tpot<=50ms
    omit: tuple[Literal["ignore_eos", "continuous_usage_stats"], ...] = ()  # request fields to leave out because the server rejects them
    entry: tuple[Share, Share] = field(default=ENTRY, metadata=ABSENT)  # where in its requests the first session of each user begins
    idle_cap_s: PositiveFloat | None = field(default=None, metadata=ABSENT)  # longest pause in a session; longer ones are shortened to it
    session_header: str = field(default="", metadata=ABSENT)  # a header with a name for each play of a session, for routers
    most_tokens: Natural = field(default=0, metadata=ABSENT)  # prompt and answer of a file's longest request, set when the file is read
    most_pause_s: Seconds = field(default=0.0, metadata=ABSENT)  # the longest pause in a session, set when the file is read

    @property
    def is_open_loop(self) -> bool:
        """Whether each request is due at its own time."""
        return self.arrivals != "closed"

    @property
    def has_sessions(self) -> bool:
        """Whether agent sessions are replayed: `concurrency` is then the number of live sessions, and prompts are meant to be cached."""
        return self.content == "sessions"

    def n_prompts(self, concurrency: int) -> int:
        """The largest number of conversations that are measured at this concurrency."""
        return self.prompts if self.prompts is not None else self.prompts_per_concurrency * concurrency

    def n_warmups(self, concurrency: int) -> int:
        """How many requests are sent before the clock starts."""
        return self.warmups_per_concurrency * concurrency

    @property
    def mean_isl_tokens(self) -> float:
        """Mean realised prompt length of a first turn."""
        return self.isl_tokens * (1 + self.range_ratio) / 2

    @property
    def mean_osl_tokens(self) -> float:
        """Mean realised output length."""
        return self.osl_tokens * (1 + self.range_ratio) / 2

    @property
    def longest_tokens(self) -> int:
        """The number of positions that the longest request may need."""
        return self.most_tokens or self.turns * (self.isl_tokens + self.osl_tokens)

    def physics(self) -> dict[str, Any]:
        """The settings that change a measurement. Settings at their defaults are left out, so that new settings keep old keys."""
        values = dataclasses.asdict(self)
        first = {f.name: f.default for f in dataclasses.fields(self) if f.default is not dataclasses.MISSING}
        kept = {name: value for name, value in values.items() if name not in first or value != first[name]}
        return {name: "" if name == "id" else value for name, value in kept.items() if name not in NO_PHYSICS}

    def departures(self) -> tuple[str, ...]:
        """The differences from the public protocol, as words for the name of the curve."""
        physics = self.physics()
        names = ("omit", "arrivals", "rate_rps", "burstiness", "content", "file_sha256", "turns", "think_time_s", "prefix_tokens", "ramp_s")
        told = {**physics, "file_sha256": str(physics.get("file_sha256"))[:12], "omit": ",".join(self.omit)}
        if "entry" in physics:
            told["entry"] = "..".join(f"{share:g}" for share in self.entry)
        return tuple(f"{name}={told[name]}" for name in (*names, "duration_s", "entry", "idle_cap_s", "session_header") if name in physics)


@dataclass(frozen=True)
class Objective:
    """One limit that a good request keeps, in seconds."""

    metric: Literal["ttft", "tpot", "itl", "e2el"]
    limit_s: float


def objectives(goodput: str) -> tuple[Objective, ...]:
    """The limits in a text like `ttft<=2s,tpot<=50ms`. Raises ValueError that names the invalid part."""
    found: list[Objective] = []
    for word in filter(None, (part.strip() for part in goodput.split(","))):
        match = OBJECTIVE.fullmatch(word.replace(" ", ""))
        if match is None:
            raise ValueError(f"{word!r} is not a limit like ttft<=2s or tpot<=50ms")
        metric: Any = match[1]
        if metric in (o.metric for o in found):
            raise ValueError(f"{metric} has two limits")
        found.append(Objective(metric, float(match[2]) * (1e-3 if match[3] == "ms" else 1.0)))
    return tuple(found)


def impossible(w: Workload) -> str:
    """The first contradiction in the workload, with the setting that fixes it; empty if there is none."""
    try:
        objectives(w.goodput)
    except ValueError as error:
        return f"workload.goodput: {error}"
    needs_rate = w.arrivals in ("poisson", "gamma", "constant")
    checks = (
        (needs_rate and w.rate_rps is None, f"workload.arrivals={w.arrivals} needs workload.rate_rps"),
        (not needs_rate and w.rate_rps is not None, f"workload.rate_rps has no effect with workload.arrivals={w.arrivals}"),
        (w.burstiness != 1 and w.arrivals != "gamma", f"workload.burstiness has no effect with workload.arrivals={w.arrivals}"),
        (w.arrivals == "trace" and w.content != "trace", "workload.arrivals=trace needs workload.content=trace"),
        (w.arrivals == "trace" and w.ramp_s > 0, "workload.ramp_s has no effect with workload.arrivals=trace"),
        (w.content != "random" and not w.file, f"workload.content={w.content} needs workload.file"),
        (w.content == "random" and bool(w.file), "workload.file needs workload.content=conversations or trace"),
        (w.file_sha256 is not None and not w.file, "workload.file_sha256 needs workload.file"),
        (w.content == "trace" and w.turns > 1, "workload.turns must be 1 with workload.content=trace"),
        (w.turns == 1 and w.think_time_s > 0, "workload.think_time_s is the pause between turns and needs workload.turns above 1"),
        (
            w.turns > 1 and w.endpoint != "chat" and w.content == "conversations",
            "recorded conversations with several turns need workload.endpoint=chat",
        ),
        (
            w.prefix_tokens >= int(w.range_ratio * w.isl_tokens),
            f"workload.prefix_tokens={w.prefix_tokens} must be less than the shortest prompt, {int(w.range_ratio * w.isl_tokens)} tokens",
        ),
        (w.prefix_tokens > 0 and w.content != "random", "workload.prefix_tokens needs workload.content=random"),
        *_of_sessions(w),
    )
    return next((why for is_wrong, why in checks if is_wrong), "")


def _of_sessions(w: Workload) -> tuple[tuple[bool, str], ...]:
    """Contradictions with agent sessions, and settings that need them."""
    if not w.has_sessions:
        return (
            (w.entry != ENTRY, "workload.entry needs workload.content=sessions"),
            (w.idle_cap_s is not None, "workload.idle_cap_s needs workload.content=sessions"),
            (bool(w.session_header), "workload.session_header needs workload.content=sessions"),
        )
    return (
        (w.duration_s is None, "workload.content=sessions needs workload.duration_s: sessions are replayed over a time window"),
        (w.is_open_loop, "workload.content=sessions is a closed loop: a session begins when another has ended (workload.arrivals=closed)"),
        (w.endpoint == "chat", "workload.content=sessions sends token ids: workload.endpoint must be completions or generate"),
        (w.prompts is not None, "workload.prompts has no effect with workload.content=sessions: workload.duration_s ends the load"),
        (
            w.prompts_per_concurrency != PER_USER,
            "workload.prompts_per_concurrency has no effect with workload.content=sessions: workload.duration_s ends the load",
        ),
        (w.turns > 1, "workload.turns has no effect with workload.content=sessions: the file has the turns"),
        (w.ramp_s > 0, "workload.ramp_s has no effect with workload.content=sessions"),
        ("ignore_eos" in w.omit, "workload.content=sessions forces the recorded lengths of answers: workload.omit cannot have ignore_eos"),
        (w.entry[0] > w.entry[1], f"workload.entry=[{w.entry[0]:g},{w.entry[1]:g}] must begin with the smaller share"),
        (HEADER.fullmatch(w.session_header) is None, f"workload.session_header={w.session_header!r} is not a name of an HTTP header"),
        (w.session_header.lower() in OWN_HEADERS, f"workload.session_header={w.session_header} has a meaning of its own in HTTP"),
    )


def lengths(rng: np.random.Generator, nominal: int, range_ratio: float, n: int) -> np.ndarray:
    """N token counts uniform in [range_ratio x nominal, nominal], as the public workload draws them. Shape: (n,)."""
    low = max(1, int(range_ratio * nominal))
    return rng.integers(low, nominal + 1, size=n)
