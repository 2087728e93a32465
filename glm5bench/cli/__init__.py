"""The program: one short pipeline a verb. Errors become their sentence and exit code here, and nowhere else.

`sweep`, `plan`, `predict`, `doctor`, `images` and `simulate` take Hydra overrides; the others take ordinary options. Standard output holds
the answer, standard error the progress and the errors; with --json standard output is one JSON object.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from typing import Annotated

import typer

from .. import __version__
from ..errors import BenchError, EnvironmentLacks, UsageError
from ..trust import refuse_group_writes
from . import (  # noqa: F401  each adds its verbs
    answer,
    archives,
    campaigns,
    doctor,
    exchange,
    images,
    load,
    plan,
    predict,
    report,
    sessions,
    simulated,
)
from .app import app, as_called


def main() -> int:
    """The entry point: the exit code, 0, 1, 2, 3, 70 or 130, as the help of the program lists them."""
    refuse_group_writes()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character gets a question mark, and the rest
    try:
        result = app(standalone_mode=False)
        sys.stdout.flush()
        return int(result) if isinstance(result, int) else 0
    except BenchError as error:
        print(as_called(str(error)), file=sys.stderr)
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `glm5bench tables ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(EnvironmentLacks(f"{error.strerror or error}.", where=str(error.filename or "standard output")), file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered cannot be written either
        return EnvironmentLacks.exit_code
    except Exception as error:
        return _usage_or_defect(error)


def _usage_or_defect(error: Exception) -> int:
    shown = getattr(error, "format_message", None)  # click's own errors of usage
    if shown is not None and type(error).__name__ == "NoArgsIsHelpError":
        print(shown())
        return 0
    if shown is not None:
        context = getattr(error, "ctx", None)
        words = str(context.command_path).split()[1:] if context is not None else []
        print(as_called(str(UsageError(shown(), next_step=f"`{' '.join(['glm5bench', *words, '--help'])}`"))), file=sys.stderr)
        return int(getattr(error, "exit_code", 2))
    traceback.print_exc()
    print(f"This is a defect of glm5bench {__version__}: please report it with the lines above.", file=sys.stderr)
    return 70


@app.callback(invoke_without_command=True)
def program(ctx: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """What it costs to serve GLM-5: plan, measure, merge and compare serving recipes.

    Exit codes: 0 done; 1 the answer is no; 2 wrong usage; 3 something is missing on this machine; 70 a defect of
    glm5bench; 130 interrupted.
    """
    if version:
        print(__version__)
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
        raise typer.Exit


@app.command("help")
def help_command(ctx: typer.Context, command: Annotated[str, typer.Argument(help="A command.")] = "") -> None:
    """Print the help of the program or of one command."""
    group = ctx.find_root()
    if not command:
        print(group.get_help())
        return
    _, found, _ = group.command.resolve_command(group, [command])  # type: ignore[attr-defined]
    with found.make_context(command, [], parent=group, resilient_parsing=True) as of:
        print(found.get_help(of))
