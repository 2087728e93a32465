"""The tree of errors. A message is a full sentence; `where` and `next_step` complete it.

    BenchError                 exit 1   the answer is no
    ├── UsageError             exit 2   the request itself is wrong
    │   ├── SettingsError               a group, option or value that does not exist or cannot be
    │   └── ImpossibleError             every point asked for is impossible on that hardware
    ├── EnvironmentLacks       exit 3   the machine lacks something: a directory, a program, a port
    ├── ServerError            exit 1   the inference server did not start, died or fell silent
    ├── ClientError            exit 1   the load client could not reach the server
    ├── FileError              exit 1   a file is unreadable, foreign or damaged
    └── AnalysisError          exit 1   figures that contradict each other

Everything that this package raises on purpose is a BenchError; anything else is a defect of the package.
"""

from __future__ import annotations

from typing import Any


def printable(text: str) -> str:
    """The text without control characters: what archives and servers say is data from strangers, and goes to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


class BenchError(Exception):
    """An error that is fully described by its sentence, its place and the next step."""

    exit_code = 1

    def __init__(self, message: str, *, where: str = "", next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.next_step = next_step

    def __str__(self) -> str:
        lines = [f"{type(self).__name__}: {self.message}"]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.next_step:
            lines.append(f"  next: {self.next_step}")
        return "\n".join(printable(line) for text in lines for line in text.split("\n"))


class UsageError(BenchError):
    """The command asks for something that does not exist or contradicts itself."""

    exit_code = 2


class SettingsError(UsageError):
    """A group, an option or a value of the configuration is wrong."""


class ImpossibleError(UsageError):
    """Nothing of what was asked can be run on that hardware."""


class EnvironmentLacks(BenchError):
    """The machine lacks what the command needs."""

    exit_code = 3


class ServerError(BenchError):
    """The inference server failed; `failure_class` is the stable name of how."""

    def __init__(self, message: str, *, failure_class: str, where: str = "", next_step: str = "") -> None:
        super().__init__(message, where=where, next_step=next_step)
        self.failure_class = failure_class


class ClientError(BenchError):
    """The load client could not do its work against a server that lives."""

    failure_class = "client_error"


class FileError(BenchError):
    """A file is not what it should be; `path` names it."""

    def __init__(self, message: str, *, path: str, next_step: str = "") -> None:
        super().__init__(message, where=path, next_step=next_step)
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """It comes back whole from another process."""
        return _file_error, (self.message, self.path, self.next_step)


def _file_error(message: str, path: str, next_step: str) -> FileError:
    return FileError(message, path=path, next_step=next_step)


class AnalysisError(BenchError):
    """Figures contradict each other."""
