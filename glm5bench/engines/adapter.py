"""What differs from one engine to another, and what holds for an engine of which nothing is said.

An engine is one file in this room, with an `ENGINE`, and one file in conf/engine. Flags, renames, phases and fatal lines of its log are
data in conf/; this room has what needs code. Nothing outside it compares names of engines. Pure.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..values.groups import Hardware
from ..values.point import Arm, NodeJob
from . import with_key
from .log_lines import LogLines


@dataclass(frozen=True)
class Synonyms:
    """Different words for one thing, in flags and in what a server states of its settings."""

    names: Mapping[str, str] = field(default_factory=dict)  # flag -> the name under which its value is stated
    words: Mapping[str, str | None] = field(default_factory=dict)  # value -> the value that means the same
    renamed: tuple[tuple[str, str], ...] = ()  # parts of names, from version to version
    became: Mapping[str, str] = field(default_factory=dict)  # a flag that is stated as off once it has turned into another setting


@dataclass(frozen=True)
class Adapter:
    """An engine of which nothing is known but its name. Methods answer for one server: its command, what it states, its log."""

    name: str  # in point files and tables
    is_simulated: bool = False  # needs no GPU, no weights and no image, and its figures are no measurements
    endpoints: frozenset[str] = frozenset({"completions", "chat"})
    fraction_flags: tuple[str, ...] = ()  # of the share of a GPU's memory that it may take
    running_flags: tuple[str, ...] = ()  # of the number of requests that it runs at once
    file_flags: tuple[str, ...] = ()  # whose value is the text of a configuration file: the node writes it and gives its path
    variables: tuple[str, ...] = ()  # prefixes of environment variables that change what it does
    info_paths: tuple[str, ...] = ()  # where it describes itself
    takes_key: bool = False  # it refuses requests without its API key; of others only the kernel says that the listener is theirs
    health_path: str = "/health"  # answers 200 as soon as it serves
    flush_path: str | None = None  # POST there empties its prefix cache
    metrics: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name in client.metrics -> its own names
    log: LogLines = field(default_factory=LogLines)
    synonyms: Synonyms = field(default_factory=Synonyms)
    parser: Callable[[], argparse.ArgumentParser] | None = None  # runs where the engine is installed; self-contained: its source is sent

    @property
    def source(self) -> str:
        """What its figures are."""
        return "simulated" if self.is_simulated else "measured"

    def is_server(self, info: Mapping[str, Any], owner: str) -> bool:
        """Whether a server that describes itself so, and whose model is `owner`'s, is this engine."""
        return owner == self.name

    def kv_dtype(self, hardware: Hardware, asked: str) -> str:
        """The type of the KV cache, fp8 or bf16, under this value of its flag."""
        return "fp8" if asked.startswith("fp8") else "bf16"

    def texts(self, argv: Sequence[str]) -> dict[int, str]:
        """Words of the command that are the text of a configuration file, by their place."""
        return {i: word for i, word in enumerate(argv) if i and argv[i - 1] in self.file_flags and word.lstrip().startswith("{")}

    def flags_of_the_node(self, argv: Sequence[str]) -> list[str]:
        """Flags that every server gets beside its recipe, as it gets a port."""
        return []

    def keyed(self, argv: list[str], key_file: Path) -> list[str]:
        """The command with a way to the API key. The key itself is never in a command."""
        return argv

    def environment(self, key: str, key_file: Path) -> dict[str, str]:
        """Variables that every server gets, the API key among them if it is taken that way."""
        return {}

    def needs(self, job: NodeJob) -> frozenset[str]:
        """What it needs from its image beside itself, as checks.machine names it: `deep_gemm`."""
        return frozenset()

    def reports_verify_steps(self, arm: Arm) -> bool:
        """Whether every answer can say its number of verify steps."""
        return False

    def settings(self, log: str) -> dict[str, Any]:
        """Settings that its log states, by its own names."""
        return {}

    def stated(self, info: Mapping[str, Any], asked_tp: int) -> Mapping[str, Any]:
        """What it states of its settings, as far as that can be compared with its flags."""
        return info

    def admitted(self, info: Mapping[str, Any], settings: Mapping[str, Any], argv: Sequence[str]) -> int | None:
        """How many requests it runs at once, by its own account or its command; None if neither says."""
        return None

    def kv_tokens(self, info: Mapping[str, Any]) -> int | None:
        """Tokens that its KV cache holds, over its data-parallel ranks; None if it does not say."""
        return None

    def observed(self, info: Mapping[str, Any]) -> dict[str, Any]:
        """`capacity_tokens`, `peak_running` and `acceptance_length` after a run, if it states them."""
        return {}

    def gpus(self, info: Mapping[str, Any]) -> int | None:
        """How many GPUs it uses; None if it does not say."""
        return None


SCRIPT = with_key.__file__


def keyed_by_file(argv: list[str], key_file: Path) -> list[str]:
    """`python -m MODULE FLAGS` with the key as its last flag, read from a file by the process itself."""
    return [argv[0], SCRIPT, str(key_file), *argv[2:]] if argv[1:2] == ["-m"] else argv


def count(value: Any) -> int | None:
    """A positive integer that a server states; None for anything else."""
    return value if type(value) is int and value > 0 else None


def ranks(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What each data-parallel rank states, if it repeats its settings."""
    told = info.get("internal_states")
    return [rank for rank in told if isinstance(rank, dict)] if isinstance(told, list) else []
