"""Server commands against the engine's own parser, on this machine, before a job waits in a queue for them.

Enters: the node jobs of a plan. Leaves: for each command that differs what the parser said, each refused flag with the conf/ group that it
came from. The parser is that of the image where the cluster has one, without a GPU, else of an engine that is installed here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EnvironmentLacks
from ..images.record import lacking
from ..images.reference import reference
from ..node import engine_parser
from ..point import Arm, NodeJob, Recipe

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
    """One command. `version`: of the engine whose parser looked; empty where none could, and `said` why."""

    arm: str
    parser: str
    version: str
    refused: tuple[Refusal, ...]
    said: str = ""


def validations(jobs: Sequence[NodeJob]) -> list[Validation]:
    """What the engines' parsers say of every command of these node jobs, each different one once."""
    done: dict[tuple[str, str, tuple[str, ...]], Validation] = {}
    for job in jobs:
        for start in job.starts:
            same = (job.image_dir, start.recipe.image, start.recipe.argv)
            if same not in done:
                done[same] = _validation(job, start.recipe)
    return list(done.values())


def _validation(job: NodeJob, recipe: Recipe) -> Validation:
    arm = job.arm
    if arm.engine.simulated:
        return Validation(arm.label, "", "", (), "the simulated server takes every flag")
    try:
        parser, command = _parser(job, recipe)
        answer = _answer(command, {"flavor": arm.engine.flavor, "argv": _flags(recipe)})
    except EnvironmentLacks as error:
        return Validation(arm.label, "", "", (), error.message)
    refused = tuple(Refusal(tuple(r["words"]), _group(recipe, r["words"]), r["said"]) for r in answer["refused"])
    return Validation(arm.label, parser, answer["version"], refused)


def _flags(recipe: Recipe) -> list[str]:
    """What follows the program: `python3 -m sglang.launch_server`, `vllm serve`."""
    given = [GIVEN.get(word, word) for word in recipe.argv]
    return given[3:] if given[1:2] == ["-m"] else given[2:]


def _group(recipe: Recipe, words: Sequence[str]) -> str:
    groups = [recipe.origin.get(word, "engine.extra_args") for word in words if word.startswith("--")]
    return ", ".join(dict.fromkeys(groups))


def _parser(job: NodeJob, recipe: Recipe) -> tuple[str, list[str]]:
    """Whose parser it is, and the command that runs it. Raises EnvironmentLacks where there is none here."""
    script = engine_parser.__file__
    if job.image_dir and recipe.image:
        directory, ref = Path(job.image_dir), reference(recipe.image)
        lacks = "there is no apptainer on PATH" if shutil.which("apptainer") is None else lacking(directory, ref)
        if lacks:
            raise EnvironmentLacks(lacks)
        binds = ["--bind", f"{script}:{script}:ro", *(word for bind in job.binds for word in ("--bind", bind))]
        inside = ["apptainer", "exec", "--cleanenv", "--contain", *binds, str(directory / ref.sif)]
        return str(directory / ref.sif), [*inside, "python3", script]
    python = _python_of(job.arm)
    if python is None:
        raise EnvironmentLacks(
            f"cluster names no image_dir, and {job.arm.engine.program[0]} of this machine's PATH has no {job.arm.engine.flavor}"
        )
    return python, [python, script]


def _python_of(arm: Arm) -> str | None:
    """The Python of this host in which the engine is installed, that of the program's first line where it is a script."""
    program = shutil.which(arm.engine.program[0])
    if program is None:
        return None
    with open(program, "rb") as file:
        first = file.readline(500)
    python = first[2:].decode("utf-8", "replace").strip().split(" ")[0] if first.startswith(b"#!") else program
    find = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({arm.engine.flavor!r}) is None)"
    done = subprocess.run([python, "-c", find], capture_output=True, check=False)
    return python if done.returncode == 0 else None


def _answer(command: list[str], asked: dict[str, Any]) -> dict[str, Any]:
    """What the parser's process prints. Raises EnvironmentLacks where it ends without an answer."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("APPTAINERENV_", "SINGULARITYENV_"))}
    try:
        done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=PARSER_S, check=False, env=env)
    except subprocess.TimeoutExpired:
        raise EnvironmentLacks(f"the parser gave no answer within {PARSER_S:g} s") from None
    lines = [line for line in done.stdout.splitlines() if line.startswith(engine_parser.MARK)]
    if not lines:
        said = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")
        raise EnvironmentLacks(f"the engine's parser could not be loaded: {said.strip()[:300]}")
    answer: dict[str, Any] = json.loads(lines[-1].removeprefix(engine_parser.MARK))
    return answer
