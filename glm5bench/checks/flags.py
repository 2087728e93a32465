"""Server commands against the engine's own parser, on this machine, before a job waits in a queue for them.

Enters: the node jobs of a plan. Leaves: for each command that differs what the parser said, each refused flag with the conf/ group that it
came from. The parser is that of the image where the cluster has one, without a GPU, else of an engine that is installed here.
"""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engines import parsing
from ..engines.adapter import Adapter
from ..engines.known import adapter
from ..errors import EnvironmentLacks
from ..machine.container import Image, environment, executed
from ..machine.programs import has_module
from ..values.point import Arm, NodeJob, Recipe

PARSER_S = 600.0  # importing an engine takes seconds, from a cold shared disk minutes
GIVEN = {"$HOST": "127.0.0.1", "$PORT": "30000", "$MODEL": "model"}


@dataclass(frozen=True)
class Refusal:
    """One flag, or a whole command, that the engine would not take."""

    words: tuple[str, ...]
    group: str
    said: str


@dataclass(frozen=True)
class Validation:
    """One command. `version`: of the engine whose parser looked; empty where none did: `lacks` says why, or that none need to."""

    arm: str
    parser: str
    version: str
    written_for: str
    refused: tuple[Refusal, ...]
    lacks: str = ""


def validations(jobs: Sequence[NodeJob]) -> list[Validation]:
    """What the engines' parsers say of every command of these node jobs, each different one once. An engine is imported once."""
    commands = {(job.image_dir, start.recipe.image, start.recipe.argv): (job, start.recipe) for job in jobs for start in job.starts}
    by_parser: dict[tuple[str, ...], list[tuple[NodeJob, Recipe]]] = {}
    for job, recipe in commands.values():
        e = job.arm.engine
        by_parser.setdefault((job.image_dir, recipe.image if job.image_dir else "", adapter(e).name), []).append((job, recipe))
    return [v for alike in by_parser.values() for v in _looked_at(alike)]


def _looked_at(alike: Sequence[tuple[NodeJob, Recipe]]) -> list[Validation]:
    """The commands that one parser looks at."""
    job, first = alike[0]
    engine = job.arm.engine
    kind = adapter(engine)
    if kind.parser is None:
        return [Validation(j.arm.label, "", "", engine.version, ()) for j, _ in alike]
    try:
        with tempfile.TemporaryDirectory(prefix="glm5bench-") as home:
            parser, command = _parser(job, first, home)
            answer = _answer(
                command,
                {"package": kind.name, "source": inspect.getsource(kind.parser), "commands": [_flags(recipe, kind) for _, recipe in alike]},
            )
    except EnvironmentLacks as error:
        return [Validation(j.arm.label, "", "", engine.version, (), error.message) for j, _ in alike]
    return [
        Validation(j.arm.label, parser, answer["version"], j.arm.engine.version, tuple(_refusal(j.arm, recipe, said) for said in refused))
        for (j, recipe), refused in zip(alike, answer["refused"], strict=True)
    ]


def _refusal(arm: Arm, recipe: Recipe, refused: dict[str, Any]) -> Refusal:
    return Refusal(tuple(refused["words"]), _group(arm, recipe, refused["words"]), refused["said"])


def _flags(recipe: Recipe, kind: Adapter) -> list[str]:
    """What follows the program: `python3 -m sglang.launch_server`, `vllm serve`."""
    texts = kind.texts(recipe.argv)  # files that do not exist yet: neither they nor their flags are parsed
    given = [GIVEN.get(word, word) for i, word in enumerate(recipe.argv) if not {i, i + 1} & texts.keys()]
    return given[3:] if given[1:2] == ["-m"] else given[2:]


def _group(arm: Arm, recipe: Recipe, words: Sequence[str]) -> str:
    """Where the words stand: a user's own come last and have the last word of a flag that a group sets, too."""
    own = arm.engine.extra_args
    if any(own[i : i + len(words)] == tuple(words) for i in range(len(own))):
        return "engine.extra_args"
    groups = [recipe.origin.get(word, "engine.extra_args") for word in words if word.startswith("-")]
    return ", ".join(dict.fromkeys(groups))


def _parser(job: NodeJob, recipe: Recipe, home: str) -> tuple[str, list[str]]:
    """Whose parser it is, and the command that runs it with this home inside. Raises EnvironmentLacks where there is none here."""
    script = parsing.__file__
    if job.image_dir and recipe.image:
        image = Image(Path(job.image_dir), recipe.image, Path(home), job.binds)
        lacks = image.lacks()
        if lacks:
            raise EnvironmentLacks(lacks)
        return str(image.sif), executed(["python3", script], image, home=Path(home), binds=[f"{script}:{script}:ro"])
    python = _python_of(job.arm)
    if python is None:
        raise EnvironmentLacks(
            f"the cluster names no image_dir, and {job.arm.engine.program[0]} of this machine's PATH has no {job.arm.engine.flavor}"
        )
    return python, [python, script]


def _python_of(arm: Arm) -> str | None:
    """The Python of this host in which the engine is installed, that of the program's first line where it is a script."""
    program = shutil.which(arm.engine.program[0])
    if program is None:
        return None
    with open(program, "rb") as file:
        words = file.readline(500).removeprefix(b"#!").decode("utf-8", "replace").split()
    named = [shutil.which(word) for word in words if "python" in word.rpartition("/")[2]]  # #!/opt/bin/python3, #!/usr/bin/env python3
    python = next((name for name in named if name), program)
    return python if has_module(python, arm.engine.flavor) else None


def _answer(command: list[str], asked: dict[str, Any]) -> dict[str, Any]:
    """What the parser's process prints. Raises EnvironmentLacks where it ends without an answer."""
    try:
        done = subprocess.run(
            command, input=json.dumps(asked), capture_output=True, text=True, timeout=PARSER_S, check=False, env=environment({})
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentLacks(f"the parser gave no answer within {PARSER_S:g} s") from None
    lines = [line for line in done.stdout.splitlines() if line.startswith(parsing.MARK)]
    if not lines:
        said = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")
        raise EnvironmentLacks(f"the engine's parser could not be loaded: {said.strip()[:300]}")
    answer: dict[str, Any] = json.loads(lines[-1].removeprefix(parsing.MARK))
    return answer
