"""The tree of errors. A message is a full sentence; `where` and `next_step` complete it.

    BenchError                 exit 1   the command failed
    ├── UsageError             exit 2   the command itself is wrong
    │   ├── SettingsError               an unknown group or option, or an invalid value
    │   └── ImpossibleError             no requested point can run on that hardware
    ├── EnvironmentLacks       exit 3   something is missing on the machine, such as a directory, a program or a port
    ├── ServerError            exit 1   the inference server did not start, crashed or stopped answering
    ├── ClientError            exit 1   the load client failed against a running server
    ├── FileError              exit 1   a file is unreadable, damaged, or from another tool
    └── AnalysisError          exit 1   figures contradict each other

Every error that this package raises on purpose is a BenchError. Any other exception is a bug in the package.
"""

from __future__ import annotations

from typing import Any


def counted(n: int, noun: str) -> str:
    """`1 point`, `2 points`."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def printable(text: str) -> str:
    """The text without control characters. Texts from archives and servers are untrusted, and are printed to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


class BenchError(Exception):
    """An error that is fully described by its message, its place and the next step."""

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
    """The command asks for something that does not exist, or contradicts itself."""

    exit_code = 2


class SettingsError(UsageError):
    """A group, an option or a value of the configuration is invalid."""


class ImpossibleError(UsageError):
    """None of the requested points can run on that hardware."""


class EnvironmentLacks(BenchError):
    """Something that the command needs is missing on the machine."""

    exit_code = 3


class ServerError(BenchError):
    """The inference server failed; `failure_class` is the stable name of the kind of failure.

    `node`: the node of the job where it failed; empty for the one that reports it.
    """

    def __init__(self, message: str, *, failure_class: str, where: str = "", next_step: str = "", node: str = "") -> None:
        super().__init__(message, where=where, next_step=next_step)
        self.failure_class, self.node = failure_class, node


class ClientError(BenchError):
    """The load client failed although the server was running."""

    failure_class = "client_error"


class FileError(BenchError):
    """A file is not as expected; `path` names it."""

    def __init__(self, message: str, *, path: str, next_step: str = "") -> None:
        super().__init__(message, where=path, next_step=next_step)
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """Makes the error picklable, so that all its fields survive the way from another process."""
        return _file_error, (self.message, self.path, self.next_step)


def _file_error(message: str, path: str, next_step: str) -> FileError:
    return FileError(message, path=path, next_step=next_step)


class AnalysisError(BenchError):
    """Figures contradict each other."""
