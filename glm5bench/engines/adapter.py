"""The differences between engines, and the defaults for an engine that states none.

Each engine has one file in this folder, which defines `ENGINE`, and one file in conf/engine. Its flags, renames, phases and fatal log
lines are data in conf/; this folder holds what needs code. No other module compares engine names. Pure.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..values.groups import Hardware
from ..values.plain import number_of_version
from ..values.point import Arm, NodeJob
from . import with_key
from .log_lines import LogLines


@dataclass(frozen=True)
class Synonyms:
    """Different names for the same setting or value, in flags and in the settings that a server reports."""

    names: Mapping[str, str] = field(default_factory=dict)  # flag -> the name under which the server reports its value
    words: Mapping[str, str | None] = field(default_factory=dict)  # value -> the value that means the same
    renamed: tuple[tuple[str, str], ...] = ()  # parts of names, from version to version
    became: Mapping[str, str] = field(default_factory=dict)  # a flag that the server reports as off because it turned it into this setting
    divided: tuple[str, ...] = ()  # settings that it divides by its `dp_size` under `enable_dp_attention`, and then reports divided


@dataclass(frozen=True)
class Adapter:
    """An engine with default behaviour. Methods describe one server: its command, the settings it reports, and its log."""

    name: str  # in point files and tables
    follows: str = ""  # the engine whose scheduling it imitates, if it does
    is_simulated: bool = False  # needs no GPU, weights or image; its figures are not measurements
    endpoints: frozenset[str] = frozenset({"completions", "chat"})
    fraction_flags: tuple[str, ...] = ()  # flags for the share of a GPU's memory that it may use
    running_flags: tuple[str, ...] = ()  # flags for the number of requests that it runs at once
    chunk_flags: tuple[str, ...] = ()  # flags for the number of prompt tokens in one pass
    mixing_flags: tuple[str, ...] = ()  # flags that put prefill chunks and decoding requests into one pass
    cache_report_flags: tuple[str, ...] = ()  # flags with which every answer reports how many tokens of its prompt were cached
    reports_cache_places: bool = False  # whether answers can report whether cached tokens were in GPU memory, host memory or storage
    shares_index_since: str = ""  # first version that caches no index keys for layers that use another layer's index; empty: none
    pins_since: str = ""  # first version whose acceptance length can be pinned (`speculative.pinned`); empty: none
    poll_flags: tuple[str, ...] = ()  # flags for the number of decode passes between two looks at new requests
    most_running: int = 1024  # requests that it runs at once if no setting limits them
    limits_each_rank: bool = False  # its limits of requests and of prompt tokens are for each data-parallel rank, not for all together
    spans_nodes: bool = False  # whether one server on several nodes is supported
    has_roles: bool = False  # whether prefill and decode workers are supported
    spreads_experts_over_all: bool = False  # expert parallelism always uses all GPUs
    file_flags: tuple[str, ...] = ()  # flags whose value is the text of a configuration file; the node writes the file and passes its path
    variables: tuple[str, ...] = ()  # prefixes of environment variables that change its behaviour
    info_paths: tuple[str, ...] = ()  # URL paths that return its settings
    takes_key: bool = False  # it rejects requests without its API key; for other engines only the kernel shows who listens on the port
    health_path: str = "/health"  # returns 200 as soon as the server is ready
    flush_path: str | None = None  # a POST to it empties the prefix cache
    metrics: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name in client.metrics -> the engine's own names
    log: LogLines = field(default_factory=LogLines)
    synonyms: Synonyms = field(default_factory=Synonyms)
    parser: Callable[[], argparse.ArgumentParser] | None = None  # self-contained: its source is run where the engine is installed

    @property
    def source(self) -> str:
        """How its figures were obtained: measured or simulated."""
        return "simulated" if self.is_simulated else "measured"

    def is_server(self, info: Mapping[str, Any], owner: str) -> bool:
        """Whether a server with this `info`, and a model owned by `owner`, is this engine."""
        return owner == self.name

    def shares_index(self, version: str) -> bool:
        """Whether this version caches no index keys for layers that use the index of another layer."""
        return bool(self.shares_index_since) and number_of_version(version) >= number_of_version(self.shares_index_since)

    def kv_dtype(self, hardware: Hardware, asked: str, *, is_sparse: bool = True) -> str:
        """The type of the KV cache, fp8 or bf16, for this value of its flag. `is_sparse`: attention has an indexer."""
        return "fp8" if asked.startswith("fp8") else "bf16"

    def chunk_tokens(self, hardware: Hardware) -> int:
        """Prompt tokens of one pass, if no flag sets them."""
        return 8192

    def texts(self, argv: Sequence[str]) -> dict[int, str]:
        """Arguments that are the text of a configuration file, by their position."""
        return {i: word for i, word in enumerate(argv) if i and argv[i - 1] in self.file_flags and word.lstrip().startswith("{")}

    def flags_of_the_node(self, argv: Sequence[str]) -> list[str]:
        """Flags that the node adds to the recipe for every server, like the port."""
        return []

    def keyed(self, argv: list[str], key_file: Path) -> list[str]:
        """The command, changed so that the server can read the API key. The key itself is never in a command."""
        return argv

    def environment(self, key: str, key_file: Path) -> dict[str, str]:
        """Environment variables for every server, with the API key if the engine reads it from one."""
        return {}

    def needs(self, job: NodeJob) -> frozenset[str]:
        """What the image must contain besides the engine, by the names of checks.machine: `deep_gemm`."""
        return frozenset()

    def reports_verify_steps(self, arm: Arm) -> bool:
        """Whether every answer can report its number of verify steps."""
        return False

    def settings(self, log: str) -> dict[str, Any]:
        """Settings that its log reports, under the engine's own names."""
        return {}

    def stated(self, info: Mapping[str, Any], asked_tp: int) -> Mapping[str, Any]:
        """The settings that the server reports, limited to those that can be compared with its flags."""
        return info

    def admitted(self, info: Mapping[str, Any], settings: Mapping[str, Any], argv: Sequence[str]) -> int | None:
        """How many requests it runs at once, as the server reports it or its command sets it; None if unknown."""
        return None

    def kv_tokens(self, info: Mapping[str, Any]) -> int | None:
        """Tokens that its KV cache holds, summed over its data-parallel ranks; None if it does not report them."""
        return None

    def observed(self, info: Mapping[str, Any]) -> dict[str, Any]:
        """`capacity_tokens`, `peak_running` and `acceptance_length` after a run, if it reports them."""
        return {}

    def gpus(self, info: Mapping[str, Any]) -> int | None:
        """How many GPUs it uses; None if it does not report it."""
        return None


SCRIPT = with_key.__file__


def keyed_by_file(argv: list[str], key_file: Path) -> list[str]:
    """`python -m MODULE FLAGS` with the key as its last flag; the process itself reads the key from a file."""
    return [argv[0], SCRIPT, str(key_file), *argv[2:]] if argv[1:2] == ["-m"] else argv


def count(value: Any) -> int | None:
    """A positive integer that a server reports; None for anything else."""
    return value if type(value) is int and value > 0 else None


def ranks(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The settings that each data-parallel rank reports, if it does."""
    told = info.get("internal_states")
    return [rank for rank in told if isinstance(rank, dict)] if isinstance(told, list) else []
