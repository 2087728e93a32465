"""Memory use and start-up times from an engine's log, over all ranks, for the target model and its draft model. Pure.

SGLang's GB are 2^30 bytes. Each figure is for one GPU: the highest over the ranks. Lines of the same kind from one rank are added,
because the target model and the draft model each write one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NEVER = re.compile(r"(?!)")


@dataclass(frozen=True)
class LogLines:
    """Regular expressions for an engine's log lines. Groups: `rank`, `s` (seconds), `gib` or `k` and `v` (GiB), `tokens`."""

    weights: re.Pattern[str] = NEVER
    cache: re.Pattern[str] = NEVER
    graphs: re.Pattern[str] = NEVER
    compiled: re.Pattern[str] = NEVER
    tokens: re.Pattern[str] = NEVER

    def memory(self, log: str) -> dict[str, float]:
        """`weights_gib`, `kv_gib`, `graphs_gib`, `load_s`, `graphs_s`, `compile_s` and `kv_tokens`, where the log contains them."""
        lines = log.splitlines()
        weights, cache, graphs, compiled = (list(_matches(lines, e)) for e in (self.weights, self.cache, self.graphs, self.compiled))
        found = {
            **_highest("weights_gib", map(_gib, weights)),
            **_highest("load_s", map(_seconds, weights)),
            **_highest("kv_gib", map(_gib, cache)),
            **_highest("graphs_gib", map(_gib, graphs)),
            **_highest("graphs_s", map(_seconds, graphs)),
            **_highest("compile_s", map(_seconds, compiled)),
        }
        tokens = [int(m["tokens"].replace(",", "")) for m in _matches(lines, self.tokens)]
        return found | ({"kv_tokens": float(sum(tokens))} if tokens else {})


def _matches(lines: Sequence[str], expression: re.Pattern[str]) -> Iterator[re.Match[str]]:
    return (m for line in lines if (m := expression.search(line)))


def _seconds(m: re.Match[str]) -> tuple[str, float]:
    return m["rank"] or "", float(m["s"])


def _gib(m: re.Match[str]) -> tuple[str, float]:
    told = m.groupdict()
    return m["rank"] or "", float(told["gib"]) if told["gib"] is not None else float(told["k"]) + float(told["v"])


def _highest(name: str, told: Iterator[tuple[str, float]]) -> dict[str, float]:
    """The sum of each rank's lines, and the highest of these sums."""
    sums: dict[str, float] = {}
    for rank, value in told:
        sums[rank] = sums.get(rank, 0.0) + value
    return {name: max(sums.values())} if sums else {}
