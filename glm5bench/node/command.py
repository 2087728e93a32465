"""The command line and environment of a server on this node, and the errors if it cannot start here.

Enters: a bound recipe, an arm, and the paths on this node. Leaves: argv and environment for one process. Placeholders are replaced only
here, so that recipes contain no paths and no keys. This module does not start the server.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..engines import adapter as seam
from ..engines.known import adapter, engines
from ..errors import ServerError
from ..files import write_text
from ..machine import checkpoint, container, gpus
from ..machine.programs import has_module, program_lacking
from ..values.point import Arm, Recipe
from ..values.secrets import by_name

COMMUNICATION = ("NCCL_", "RCCL_")  # prefixes of variables that every engine reads
PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
NEXT_STEPS = {
    "server_oom": "lower the memory fraction, or the concurrency that replaces $C",
    "server_start_timeout": "raise engine.start_timeout_s, or check in the log what the server waits for",
    "server_hung": "raise engine.stall_timeout_s if the server is only slow",
    "server_settings": "request the settings that it uses, or list the flags in engine.settings_may_differ if the values are equivalent",
    "image_missing": "run `glm5bench images pull` with the same overrides (docs/cluster.md), or use engine=simulated",
    "checkpoint_missing": "download it there, or set cluster.checkpoint_dir",
    "node_fault": "run this arm on a node that has these GPUs, or use engine=simulated",
}


class Stopped(Exception):
    """The job must stop because of a signal or its time limit, not because of a fault."""


@dataclass(frozen=True)
class Place:
    """Where a server runs: its folder for facts, key and log, the model's path, and the image (None: no container).

    `is_stopped` returns whether the job must stop. `begun` is called with the phase of the start whenever it changes.
    `scratch`: the server's own directory on the node; None: not created yet.
    """

    folder: Path
    model_path: str
    host_name: str
    is_stopped: Callable[[], bool]
    image: container.Image | None = None
    begun: Callable[[str], None] = lambda doing: None
    scratch: Path | None = None
    devices: Mapping[str, str] = field(default_factory=dict)  # variables that show the server only some of the job's GPUs on this node


def command(recipe: Recipe, arm: Arm, place: Place, given: Mapping[str, str], key_file: Path) -> list[str]:
    """The server's command line on this node. Raises ServerError if the program, image or GPUs are missing, or if the GPUs are in use."""
    engine = adapter(arm.engine)
    argv = with_files(engine, [*(given.get(word, word) for word in recipe.argv), *engine.flags_of_the_node(recipe.argv)], place.folder)
    if place.image is not None:
        return _contained(argv, arm, place, place.image, key_file)
    if engine.is_simulated:
        return [sys.executable, *argv[1:]]
    lacks = program_lacking(argv)
    if lacks:
        raise cannot_start(arm, place, lacks, "image_missing")
    _refuse_wrong_node(arm, place)
    return engine.keyed([shutil.which(argv[0]) or argv[0], *argv[1:]], key_file)


def router(recipe: Recipe, arm: Arm, place: Place, given: Mapping[str, str], key_file: Path) -> list[str]:
    """The command line of the router in front of several servers. Raises ServerError if its program or image is missing."""
    argv = seam.keyed_by_file([given.get(word, word) for word in recipe.argv], key_file)
    if place.image is not None:
        lacks = place.image.lacks()
        if lacks:
            raise cannot_start(arm, place, lacks, "image_missing")
        scratch = place.scratch or place.folder
        return container.inside(argv, place.image, arm.hardware, reads=[seam.SCRIPT], folder=place.folder, scratch=scratch, has_gpus=False)
    python = sys.executable if adapter(arm.engine).is_simulated else shutil.which(argv[0])
    if python is None or not has_module(python, recipe.argv[2].partition(".")[0]):
        why = f"{recipe.argv[2].partition('.')[0]} is not installed for {python or argv[0]}"
        raise cannot_start(arm, place, why, "image_missing")
    return [python, *argv[1:]]


def with_files(engine: seam.Adapter, argv: Sequence[str], folder: Path) -> list[str]:
    """The command line in which the text of a configuration file is replaced by the path of a file that contains it."""
    words = list(argv)
    for i, text in engine.texts(argv).items():
        path = folder / f"{words[i - 1].lstrip('-')}.yaml"  # JSON is YAML
        write_text(path, text)
        words[i] = str(path)
    return words


def _contained(argv: list[str], arm: Arm, place: Place, image: container.Image, key_file: Path) -> list[str]:
    lacks = image.lacks()
    if lacks:
        raise cannot_start(arm, place, lacks, "image_missing")
    engine = adapter(arm.engine)
    if not engine.is_simulated:
        _refuse_wrong_node(arm, place)
    reads = checkpoint.directories(Path(place.model_path)) if place.model_path.startswith("/") else []
    reads += [PACKAGE_ROOT] if engine.is_simulated else [seam.SCRIPT]
    return container.inside(
        engine.keyed(argv, key_file),
        image,
        arm.hardware,
        reads=reads,
        folder=place.folder,
        scratch=place.scratch or place.folder,
        has_gpus=not engine.is_simulated,
    )


def _refuse_wrong_node(arm: Arm, place: Place) -> None:
    wrong = gpus.wrong(arm.hardware, min(arm.tp, arm.hardware.gpus_per_node))
    if wrong:
        raise cannot_start(arm, place, wrong, "node_fault")
    if place.devices:
        return  # another server of the job may already use the rest of this node
    held = gpus.still_in_use(arm.hardware, place.is_stopped)
    if place.is_stopped():
        raise Stopped
    if held:
        raise cannot_start(arm, place, f"its GPUs are not free after {gpus.FREE_S:g} s: {held}", "node_fault")


def cannot_start(arm: Arm, place: Place, why: str, failure_class: str) -> ServerError:
    """The error for a server that cannot start on this node."""
    return ServerError(
        f"{arm.engine.id} cannot start on node {place.host_name}: {why}.",
        failure_class=failure_class,
        next_step=NEXT_STEPS[failure_class],
    )


def resolved(name: str, value: str) -> str:
    """The value of a variable. One that is passed by name (`$HF_TOKEN`) is read from the job's own environment.

    Raises ServerError if the job does not have it.
    """
    source = by_name(value)
    if not source:
        return value
    if source not in os.environ:
        raise ServerError(
            f"The variable {source} is not set in the job, and engine.env.{name} passes it by name.",
            failure_class="node_fault",
            next_step=f"export {source} before you submit, and check that the site passes variables on to jobs",
        )
    return os.environ[source]


def environment(
    own: Mapping[str, str], arm: Arm, key: str, key_file: Path, *, is_contained: bool = False, devices: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The server's environment: the recipe's variables, and the node's except those that would change the engine unrecorded.

    A container gets only the recipe's variables and the node's selection of GPUs. `devices`: a selection for this server alone.
    """
    env = {**{name: resolved(name, value) for name, value in own.items()}, **adapter(arm.engine).environment(key, key_file)}
    if is_contained:
        env |= devices or {name: os.environ[name] for name in gpus.VARIABLES if name in os.environ}
        return container.environment(env)
    prefixes = (*COMMUNICATION, *(prefix for engine in engines().values() for prefix in engine.variables))
    given = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    if devices:
        given = {name: value for name, value in given.items() if name not in gpus.VARIABLES} | dict(devices)
    return given | env
