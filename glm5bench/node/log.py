"""A server's log as it grows: how far its start has come, and whether it has said its last word. Reads only what is new.

Enters: a file that another process appends to, and the expressions of conf/engine. Leaves: the phases of the start with their times,
and the first line that says that the server is dead.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MARGIN = 200  # bytes read before an end that is shown: the half of a key that they may begin with is not
MOST_BYTES = 2**22  # of one look: a log that grows faster is read on at the next


@dataclass(frozen=True)
class Phase:
    """From `at_s` seconds after the start on the server did this; the line of its log that says so."""

    name: str
    at_s: float
    line: str


@dataclass
class Log:
    """One server's log. `reached`: the phases of its start so far, each once, in order; `last_word`: the line that it died with."""

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
        self._looking = threading.Lock()  # a look that was cancelled goes on in its thread
        self._offset = self._start = self.path.stat().st_size if self.path.exists() else 0  # before it: another server's, of the same job

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
        *lines, self._rest = re.split(rb"[\r\n]+", self._rest + new)  # a progress bar goes on with a carriage return
        for line in lines:
            self._take(line.decode("utf-8", "replace"))
        self._heed(self._rest.decode("utf-8", "replace"))  # a last word need not end its line

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
        """What the server does now, as far as its log says; empty before its first known line."""
        return self.reached[-1].name if self.reached else ""

    def head(self, n_bytes: int = 2**22) -> str:
        """The beginning of the log, without the key: what its start said."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._start)
                return self.redacted(file.read(n_bytes).decode("utf-8", "replace"))
        except OSError:
            return ""

    def tail(self, n_bytes: int = 4000) -> str:
        """The end of the log, without the key."""
        try:
            with self.path.open("rb") as file:
                before = max(0, self.path.stat().st_size - n_bytes - MARGIN)
                file.seek(before)
                return self.redacted(file.read().decode("utf-8", "replace"))[MARGIN if before else 0 :]
        except OSError:
            return ""
