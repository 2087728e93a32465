"""Checks commands with an engine's own argument parser. Runs in the engine's Python, in its image or on this host.

Standard input is one JSON object: `package`, `source` (of the adapter's function `parser`) and `commands` (for each, the words after the
program). Standard output is a line that begins with MARK, followed by a JSON object: `version`, and for each command in `refused` the
rejected words and the parser's message. This file imports only the standard library and the engine, nothing from this package.
It checks the syntax of flags only: errors that an engine finds once it sees its GPUs are not found here.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import sys
from typing import Any

MARK = "GLM5BENCH-PARSED "


def refused(parser: argparse.ArgumentParser, argv: list[str]) -> list[dict[str, Any]]:
    """Each flag that the parser rejects by itself; the whole command if it rejects only the combination."""
    whole = said_of(parser, argv)
    if not whole:
        return []
    base, flags = units(argv)
    model = [unit for unit in flags if unit[0] in ("--model-path", "--model")]
    required = base + [word for unit in model for word in unit]
    found = [{"words": unit, "said": said} for unit in flags if unit not in model and (said := said_of(parser, required + unit))]
    return found or [{"words": argv, "said": whole}]


def units(argv: list[str]) -> tuple[list[str], list[list[str]]]:
    """The words before the first flag, and each flag with its values."""
    base: list[str] = []
    flags: list[list[str]] = []
    for word in argv:
        if word.startswith("-") and not word[1:2].isdigit():  # -1 is a value
            flags.append([word])
        elif flags:
            flags[-1].append(word)
        else:
            base.append(word)
    return base, flags


def said_of(parser: argparse.ArgumentParser, argv: list[str]) -> str:
    """The parser's error message for a command; empty if it accepts the command."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            parser.parse_args(argv)
    except SystemExit:
        lines = [line for line in said.getvalue().splitlines() if "error:" in line]
        return (lines or said.getvalue().splitlines() or ["it ended without a message"])[-1].partition("error: ")[2] or "refused"
    except Exception as error:  # a value that makes a parser's own type function fail
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # this file's own folder has modules that are named like engines
    os.environ.update(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", VLLM_LOGGING_LEVEL="ERROR")
    asked = json.load(sys.stdin)
    scope: dict[str, Any] = {"argparse": argparse}
    exec(asked["source"], scope)  # noqa: S102  this package's own source: the image has no glm5bench to import it from
    made = scope["parser"]()
    answer = {"version": importlib.metadata.version(asked["package"]), "refused": [refused(made, argv) for argv in asked["commands"]]}
    print(MARK + json.dumps(answer), flush=True)
