"""What the verbs share: the Typer application, the form of a command that takes Hydra's overrides, and where lines go."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from ..errors import UsageError, printable

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
NAME = "glm5bench"
HYDRA = {"allow_extra_args": True, "ignore_unknown_options": True}

GROUPS = ("experiment", "hardware", "checkpoint", "tp", "speculative", "engine", "workload", "cluster", "price", "failure",
          "accuracy")  # fmt: skip
VALUES = (
    "concurrency=4,8 repeat=0,1,2 repeat_scope=start|run seed=0 server_scope=arm|point bind_concurrency=N name=NAME "
    "output_dir=DIR retries=N pack=true wait=true"
)


class OverridesCommand(TyperCommand):
    """A command that takes Hydra overrides: its help lists what conf/ holds."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Groups with their choices, values, and how both are typed."""
        from ..settings.validated import group_values

        with formatter.section("OVERRIDES are Hydra's: group=choice or path.to.value=value; commas sweep"):
            formatter.write_dl([(f"{group}=", " ".join(group_values(group))) for group in GROUPS])
            formatter.write_dl(
                [("values:", VALUES), ("anything:", "engine.time_scale=50 workload.prompts=64 price.usd_per_gpu_h.b200=2.5 ...")]
            )
            formatter.write_dl([("--config-dir DIR", "a directory with conf groups of your own, found before the shipped ones")])


def asked(ctx: typer.Context) -> list[str]:
    """The overrides as they were typed."""
    return list(ctx.args)


def one_of(option: str, value: str, choices: Any) -> None:
    """Raises UsageError where the value is no choice of this option."""
    if value not in choices:
        raise UsageError(f"{option} {value}: there is no such choice.", next_step=f"one of {', '.join(choices)}")


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Positive numbers with commas between them, each once, rising. Raises UsageError for others."""
    try:
        found = tuple(sorted({float(word) for word in text.split(",") if word.strip()}))
    except ValueError:
        found = ()
    if not found or not all(0 < n < float("inf") for n in found):
        raise UsageError(f"{option} {text}: these are no positive numbers.", next_step=f"{option} 25,30,40")
    return found


def tell_bad(bad: list[Any]) -> None:
    """Names what was left out, and why."""
    for error in bad:
        say(printable(f"left out: {error.path}: {error.message}" + (f" Next: {error.next_step}." if error.next_step else "")))


def say(text: str) -> None:
    """A line of progress."""
    print(as_called(text), file=sys.stderr, flush=True)


def as_called(text: str) -> str:
    """The text with every command of this program as it was called, so that it can be pasted: `.venv/bin/glm5bench tables ...`."""
    verbs = "|".join(str(c.name or getattr(c.callback, "__name__", "")) for c in app.registered_commands)
    groups = "|".join(str(g.name) for g in app.registered_groups)
    name = _program()
    return text if name == NAME else re.sub(rf"(?<![\w./-]){NAME} (?=({verbs}|{groups}|--help)\b)", lambda _: f"{name} ", text)


def _program() -> str:
    """How this program was called: by its name, by the path of its script, or as a module of a Python."""
    if Path(sys.argv[0]).name == "__main__.py":
        return shlex.join(sys.orig_argv[: sys.orig_argv.index("-m") + 2]) if "-m" in sys.orig_argv else NAME
    found = shutil.which(NAME)
    is_on_path = found is not None and Path(found).exists() and Path(sys.argv[0]).exists() and Path(found).samefile(sys.argv[0])
    return NAME if is_on_path or "/" not in sys.argv[0] else shlex.quote(sys.argv[0])


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function to tell how much of how much is done: a bar on a terminal, elsewhere a line each tenth of long work."""
    if not sys.stderr.isatty():
        yield _in_lines(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _in_lines(what: str) -> Callable[[int, int], None]:
    told = 0

    def tick(done: int, total: int) -> None:
        nonlocal told
        if total >= MANY and done * 10 // total > told * 10 // total:
            told = done
            say(f"{what}: {done:,} of {total:,}")

    return tick


MANY = 1000
