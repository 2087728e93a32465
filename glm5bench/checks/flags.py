"""Checks server commands with the engine's own parser on this machine, before any job waits in the queue.

Input: the node jobs of a plan. Output: the parser's result for each different command, and the conf/ group of each refused flag.
The parser comes from the image if the cluster has one, otherwise from an engine that is installed here. No GPU is needed.
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

PARSER_S = 600.0  # importing an engine takes seconds, or minutes from a cold shared disk
GIVEN = {"$HOST": "127.0.0.1", "$PORT": "30000", "$MODEL": "model"}


@dataclass(frozen=True)
class Refusal:
    """One flag, or a whole command, that the engine refuses."""

    words: tuple[str, ...]
    group: str
    said: str


@dataclass(frozen=True)
class Validation:
    """The result for one command. `version`: of the engine whose parser checked it, empty if it was not checked.

    `lacks`: why it was not checked. Empty if no check is needed.
    """

    arm: str
    parser: str
    version: str
    written_for: str
    refused: tuple[Refusal, ...]
    lacks: str = ""


def validations(jobs: Sequence[NodeJob]) -> list[Validation]:
    """The parsers' results for all different commands of these node jobs. Each engine is imported once."""
    started = [(job, recipe) for job in jobs for start in job.starts for recipe in start.recipe.started]
    commands = {(job.image_dir, recipe.image, recipe.argv): (job, recipe) for job, recipe in started}
    by_parser: dict[tuple[str, ...], list[tuple[NodeJob, Recipe]]] = {}
    for job, recipe in commands.values():
        e = job.arm.engine
        by_parser.setdefault((job.image_dir, recipe.image if job.image_dir else "", adapter(e).name), []).append((job, recipe))
    return [v for alike in by_parser.values() for v in _looked_at(alike)]


def _looked_at(alike: Sequence[tuple[NodeJob, Recipe]]) -> list[Validation]:
    """The results for commands that share one parser."""
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
    """The arguments after the program (`python3 -m sglang.launch_server` or `vllm serve`)."""
    texts = kind.texts(recipe.argv)  # these files do not exist yet, so they and their flags are not parsed
    given = [GIVEN.get(word, word) for i, word in enumerate(recipe.argv) if not {i, i + 1} & texts.keys()]
    return given[3:] if given[1:2] == ["-m"] else given[2:]


def _group(arm: Arm, recipe: Recipe, words: Sequence[str]) -> str:
    """The conf/ groups that set these flags. A user's own arguments come last, so they override the same flag of a group."""
    own = arm.engine.extra_args
    if any(own[i : i + len(words)] == tuple(words) for i in range(len(own))):
        return "engine.extra_args"
    groups = [recipe.origin.get(word, "engine.extra_args") for word in words if word.startswith("-")]
    return ", ".join(dict.fromkeys(groups))


def _parser(job: NodeJob, recipe: Recipe, home: str) -> tuple[str, list[str]]:
    """The path of the parser, and the command that runs it with this home directory. Raises EnvironmentLacks if this machine has none."""
    script = parsing.__file__
    if job.image_dir and recipe.image:
        image = Image(Path(job.image_dir), recipe.image, Path(home), job.binds, job.sif_sha256)
        lacks = image.lacks()
        if lacks:
            raise EnvironmentLacks(lacks)
        return str(image.sif), executed(["python3", script], image, home=Path(home), binds=[f"{script}:{script}:ro"])
    python = _python_of(job.arm)
    if python is None:
        raise EnvironmentLacks(
            f"the cluster sets no image_dir, and {job.arm.engine.program[0]} on this machine's PATH has no {job.arm.engine.flavor}"
        )
    return python, [python, script]


def _python_of(arm: Arm) -> str | None:
    """The Python on this host that has the engine. If the program is a script, this is the Python of its first line."""
    program = shutil.which(arm.engine.program[0])
    if program is None:
        return None
    with open(program, "rb") as file:
        words = file.readline(500).removeprefix(b"#!").decode("utf-8", "replace").split()
    named = [shutil.which(word) for word in words if "python" in word.rpartition("/")[2]]  # #!/opt/bin/python3, #!/usr/bin/env python3
    python = next((name for name in named if name), program)
    return python if has_module(python, arm.engine.flavor) else None


def _answer(command: list[str], asked: dict[str, Any]) -> dict[str, Any]:
    """The answer of the parser process. Raises EnvironmentLacks if it ends without one."""
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
