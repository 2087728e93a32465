"""A point for exporters: its summary, with None for absent values, and the facts for which other formats have no field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...archive.columns import BY_NAME, COLUMNS, STATISTICS
from ..foreign.imported import UNSTATED

FROM_ONE = ("gpus", "gpus_per_node")  # counts for which 0 means unknown
FACTS = (
    "hardware", "engine", "engine_version", "image", "model", "checkpoint", "precision", "speculative", "endpoint", "server_scope",
    "variant", "tp", "gpus", "gpus_per_node", "nodes", "isl_tokens", "osl_tokens", "range_ratio", "repeat", "seed", "binding",
)  # fmt: skip


@dataclass(frozen=True)
class SummaryRow:
    """One point."""

    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def ms(self, name: str) -> float | None:
        """A time in milliseconds."""
        value = self.values[name]
        return None if value is None else value * 1e3

    def statistics(self, ours: str, theirs: str, *, unit: float = 1e3, suffix: str = "_ms") -> dict[str, float | None]:
        """The statistics of a latency under another tool's names, such as mean_ttft_ms."""
        told = {kind: self.values[f"{ours}_{kind}_s"] for kind in STATISTICS}
        return {f"{kind}_{theirs}{suffix}": None if value is None else value * unit for kind, value in told.items()}

    @property
    def request_rate(self) -> float | None:
        """Requests due per second; infinite for a closed loop, None if it is unknown how requests were scheduled."""
        is_unknown = self.values["concurrency"] is None or "arrivals=trace" in self.values["variant"]
        return self.values["rate_rps"] or (None if is_unknown else math.inf)

    def backend(self, names: Mapping[str, str]) -> str | None:
        """Another tool's name for the client of this endpoint."""
        endpoint = self.values["endpoint"]
        return None if endpoint == UNSTATED else names.get(endpoint, endpoint)

    @property
    def n_whole(self) -> int | None:
        """Number of requests with a complete answer."""
        n: int | None = self.values["n_requests"]
        whole: int | None = self.values["ttft_n"]
        return whole if n is None else n - (self.values["n_failed"] or 0)

    @property
    def tag(self) -> str | None:
        """`simulated` for a simulated point, else None."""
        return "simulated" if self.values["source"] == "simulated" else None

    def facts(self) -> dict[str, Any]:
        """The known facts of the point, its source, and its reason codes, under glm5bench's names."""
        known = {name: self.values[name] for name in FACTS if self.values[name] not in (None, "", UNSTATED)}
        told = {"source": self.values["source"], **known, "key": self.values["key"]}
        scale = {"simulated_time_scale": self.values["time_scale"]} if self.values["time_scale"] is not None else {}
        return told | scale | {name: self.values[name] for name in ("reasons", "few_samples") if self.values[name]}


def summary_row(values: Mapping[str, Any]) -> SummaryRow:
    """The row for a point's summary."""
    return SummaryRow({c.name: present(c.name, values[c.name]) for c in COLUMNS})


def present(name: str, value: Any) -> Any:
    """The value of a column; None if it is absent."""
    kind = BY_NAME[name].kind
    if kind == "text":
        return str(value)
    if kind == "count":
        return None if value < (1 if name in FROM_ONE else 0) else int(value)
    return None if math.isnan(value) else float(value)
