"""What the verbs share: the Typer application, the form of a command that takes Hydra's overrides, and where lines go."""

from __future__ import annotations

import contextlib
import difflib
import math
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import UsageError, printable

NAME = "glm5bench"
HYDRA = {"allow_extra_args": True, "ignore_unknown_options": True}

VALUES = (
    "concurrency=4,8 repeat=0,1,2 repeat_scope=start|run seed=0 server_scope=arm|point bind_concurrency=N name=NAME "
    "output_dir=DIR retries=N pack=true wait=true"
)


class Commands(TyperGroup):
    """The program: an unknown command gets a suggestion."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands in the order in which a campaign needs them."""
        return sorted(super().list_commands(ctx), key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command, as Typer finds it. Raises UsageError if there is none of this name."""
        word = args[0] if args else ""
        if word and not word.startswith("-") and word not in self.commands and not ctx.resilient_parsing:
            raise UsageError(
                f"Unknown command {word!r}.{suggested(word, self.commands)}", next_step="`glm5bench --help` lists the commands"
            )
        return super().resolve_command(ctx, args)


ORDER = (
    "plan", "predict", "sweep", "status", "resubmit", "cancel", "doctor", "images", "merge", "tables", "report", "diff", "check", "load",
    "import", "export", "simulate", "help",
)  # fmt: skip


class OverridesCommand(TyperCommand):
    """A command that takes Hydra overrides: its help lists the groups and their choices, and the shell completes them."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The usage line with its overrides."""
        return [*super().collect_usage_pieces(ctx), "OVERRIDES..."]

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Groups with their choices and defaults, values, and how both are typed."""
        from ..settings.typed import config_dir, defaults, groups
        from ..settings.validated import group_values

        folder, chosen = config_dir(sys.argv), defaults()
        with formatter.section("OVERRIDES: group=choice or setting=value. Commas make a sweep. * is the default"):
            rows = [(f"{g}=", " ".join(c + "*" * (c == chosen.get(g)) for c in group_values(g, folder))) for g in groups(folder)]
            formatter.write_dl([*rows, ("hydra/launcher=", "local* slurm plan")])
            formatter.write_dl(
                [("values:", VALUES), ("any setting:", "engine.time_scale=50 workload.prompts=64 price.usd_per_gpu_h.b200=2.5 ...")]
            )
            formatter.write_dl([("--config-dir DIR", "a directory with your own groups, read before conf/; with --help it lists them too")])
            formatter.write_dl([("all settings:", "glm5bench plan --show settings")])

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Options, groups, the choices of a group, and settings. bash passes `hardware=b` as the three words `hardware`, `=` and `b`."""
        typed = [*ctx.args, incomplete]
        if len(typed) > 2 and typed[-2] == "=":
            return [Word(c) for c in _choices(typed[-3], incomplete)]
        if not incomplete and ctx.args and _choices(ctx.args[-1], ""):  # Typer makes nothing of a single `=`
            return [Word(c) for c in _choices(ctx.args[-1], "")]
        group, has_value, part = incomplete.partition("=")
        words = [f"{group}={c}" for c in _choices(group, part)] if has_value else _names(incomplete)
        return [*super().shell_complete(ctx, incomplete), *map(Word, words)]


def suggested(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


class Word(NamedTuple):
    """A completion, as Typer's shells read it."""

    value: str
    type: str = "plain"
    help: str | None = None


def _names(incomplete: str) -> list[str]:
    """The groups and settings that begin so. If only one group does: its choices, so that the shell goes on without a space."""
    from ..settings.typed import config_dir, groups, setting_paths

    folder = config_dir(sys.argv)
    known = setting_paths(folder) if "." in incomplete else [*groups(folder), *FREE, LAUNCHER]
    found = [name for name in known if name.startswith(incomplete)]
    choices = _choices(found[0], "") if len(found) == 1 else []
    return [f"{found[0]}={c}" for c in choices] or [f"{name}=" for name in found]


def _choices(group: str, part: str) -> list[str]:
    """The choices of a group that complete this value; of several values behind commas the last one."""
    from ..settings.typed import config_dir, groups
    from ..settings.validated import group_values

    folder = config_dir(sys.argv)
    first, comma, last = part.rpartition(",")
    known = ["local", "slurm", "plan"] if group == LAUNCHER else group_values(group, folder) if group in groups(folder) else []
    return [f"{first}{comma}{c}" for c in known if c.startswith(last)]


LAUNCHER = "hydra/launcher"
FREE = tuple(word.partition("=")[0] for word in VALUES.split())
HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(cls=Commands, context_settings=HELP, pretty_exceptions_enable=False, rich_markup_mode=None)


def asked(ctx: typer.Context) -> list[str]:
    """The overrides as they were typed."""
    return list(ctx.args)


def one_of(option: str, value: str, choices: Any) -> None:
    """Raises UsageError if the value is not a choice of this option."""
    if value not in choices:
        raise UsageError(f"{option} {value}: unknown choice.{suggested(value, choices)}", next_step=f"one of {', '.join(choices)}")


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Positive numbers with commas between them, each once, rising. Raises UsageError for others."""
    try:
        found = tuple(sorted({float(word) for word in text.split(",") if word.strip()}))
    except ValueError:
        found = ()
    if not found or not all(0 < n < float("inf") for n in found):
        raise UsageError(f"{option} {text}: these are not positive numbers.", next_step=f"{option} 25,30,40")
    return found


def token_weights(text: str) -> tuple[float, float] | None:
    """The weights of a cached and of an output token, from `$/M computed,cached,output`; None for an empty text. Raises UsageError."""
    if not text:
        return None
    try:
        prices = [float(word) for word in text.split(",")]
    except ValueError:
        prices = []
    if len(prices) != 3 or not all(0 <= p < math.inf for p in prices) or prices[0] == 0:
        step = "three prices of a million tokens: computed prompt, cached prompt and output, such as 1.40,0.26,4.40"
        raise UsageError(f"--token-prices {text}: not three prices.", next_step=step)
    return prices[1] / prices[0], prices[2] / prices[0]


def tell_bad(bad: list[Any]) -> None:
    """Reports each skipped file, with the reason."""
    for error in bad:
        say(printable(f"skipped: {error.path}: {error.message}" + (f" Next: {error.next_step}." if error.next_step else "")))


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
