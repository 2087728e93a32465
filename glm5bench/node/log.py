"""A server's log as it grows: the phases of the start, and whether it contains a fatal line. Reads only new text.

Enters: a file that another process appends to, and the expressions of conf/engine. Leaves: the phases of the start with their times,
and the first line that shows that the server is dead.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MARGIN = 200  # extra bytes read before a shown tail, then cut off: they may begin with half a key
MOST_BYTES = 2**22  # read per look; the next look continues there


@dataclass(frozen=True)
class Phase:
    """A phase of the start, which began `at_s` seconds after it. `line`: the line of the log that shows it."""

    name: str
    at_s: float
    line: str


@dataclass
class Log:
    """One server's log. `reached`: the phases of its start so far, each once, in order; `last_word`: its fatal line, or empty."""

    path: Path
    phases: Mapping[str, str]
    fatal: Sequence[str]
    redacted: Callable[[str], str]
    began: float = field(default_factory=time.monotonic)
    reached: list[Phase] = field(default_factory=list)
    last_word: str = ""
    _offset: int = 0
    _rest: bytes = b""

    def __post_init__(self) -> None:
        self._phases = [(re.compile(expression), name) for expression, name in self.phases.items()]
        self._fatal = re.compile("|".join(f"(?:{expression})" for expression in self.fatal) or r"(?!)")
        self._looking = threading.Lock()  # a cancelled look continues in its thread
        self._offset = self._start = self.path.stat().st_size if self.path.exists() else 0  # skip text of an earlier server of the job

    def look(self) -> None:
        """Reads what was written since the last look."""
        with self._looking:
            self._look()

    def _look(self) -> None:
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                new = file.read(MOST_BYTES)
        except OSError:
            return
        self._offset += len(new)
        *lines, self._rest = re.split(rb"[\r\n]+", self._rest + new)  # progress bars use carriage returns
        for line in lines:
            self._take(line.decode("utf-8", "replace"))
        self._heed(self._rest.decode("utf-8", "replace"))  # a fatal line may be incomplete

    def _heed(self, line: str) -> None:
        if not self.last_word and self._fatal.search(line):
            self.last_word = self.redacted(line.strip())[:300]

    def _take(self, line: str) -> None:
        self._heed(line)
        for expression, name in self._phases:
            if expression.search(line) and name not in (phase.name for phase in self.reached):
                self.reached.append(Phase(name, time.monotonic() - self.began, self.redacted(line.strip())[:300]))

    @property
    def has_begun(self) -> bool:
        """Whether the server has written anything."""
        return self._offset > self._start

    @property
    def doing(self) -> str:
        """The current phase according to the log; empty before the first known line."""
        return self.reached[-1].name if self.reached else ""

    def head(self, n_bytes: int = 2**22) -> str:
        """The beginning of the log, which covers the start, with the key redacted."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._start)
                return self.redacted(file.read(n_bytes).decode("utf-8", "replace"))
        except OSError:
            return ""

    def tail(self, n_bytes: int = 4000) -> str:
        """The end of the log, with the key redacted."""
        try:
            with self.path.open("rb") as file:
                before = max(0, self.path.stat().st_size - n_bytes - MARGIN)
                file.seek(before)
                return self.redacted(file.read().decode("utf-8", "replace"))[MARGIN if before else 0 :]
        except OSError:
            return ""
