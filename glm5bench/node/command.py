"""The process of a server on this node: its command line, its environment, and why it cannot be started here.

Enters: a bound recipe, an arm, and where things are on this node. Leaves: argv and environment for one process; placeholders are
replaced here and nowhere else, so that no path and no key enters a recipe. It starts no server.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engines import adapter as seam
from ..engines.known import adapter, engines
from ..errors import ServerError
from ..files import write_text
from ..machine import checkpoint, container, gpus
from ..machine.programs import program_lacking
from ..values.point import Arm, Recipe

COMMUNICATION = ("NCCL_", "RCCL_")  # prefixes of variables that every engine heeds
PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
NEXT_STEPS = {
    "server_oom": "lower the memory fraction or the concurrency that $C is bound to",
    "server_start_timeout": "raise engine.start_timeout_s, or look for what the log waits for",
    "server_hung": "raise engine.stall_timeout_s if the server is only slow",
    "server_settings": "ask for what it runs with, or name the flags in engine.settings_may_differ where that is the same thing",
    "image_missing": "`glm5bench images pull` with the same overrides puts it there (docs/cluster.md), or use engine=simulated",
    "checkpoint_missing": "fetch it there, or set cluster.checkpoint_dir",
    "node_fault": "run this arm on a node that has these GPUs, or use engine=simulated",
}


class Stopped(Exception):
    """The job was asked to stop: by a signal, not by a fault."""


@dataclass(frozen=True)
class Place:
    """Where this server runs: its folder for facts, key and log, the model's path, who may say stop, the image (None: no container).

    `begun` is called with what the server does, whenever that changes while it starts. `scratch`: its own on the node; None: none yet.
    """

    folder: Path
    model_path: str
    host_name: str
    is_stopped: Callable[[], bool]
    image: container.Image | None = None
    begun: Callable[[str], None] = lambda doing: None
    scratch: Path | None = None


def command(recipe: Recipe, arm: Arm, place: Place, given: Mapping[str, str], key_file: Path) -> list[str]:
    """The server's command line here. Raises ServerError where the program, image, checkpoint or GPUs are not there, or are not free."""
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


def with_files(engine: seam.Adapter, argv: Sequence[str], folder: Path) -> list[str]:
    """The command in which the text of a configuration file is replaced by the path of a file that holds it."""
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
    wrong = gpus.wrong(arm.hardware, arm.tp)
    if wrong:
        raise cannot_start(arm, place, wrong, "node_fault")
    held = gpus.still_in_use(arm.hardware, place.is_stopped)
    if place.is_stopped():
        raise Stopped
    if held:
        raise cannot_start(arm, place, f"its GPUs are not free after {gpus.FREE_S:g} s: {held}", "node_fault")


def cannot_start(arm: Arm, place: Place, why: str, failure_class: str) -> ServerError:
    """The error of a server that was not started."""
    return ServerError(
        f"{arm.engine.id} cannot start on node {place.host_name}: {why}.",
        failure_class=failure_class,
        next_step=NEXT_STEPS[failure_class],
    )


def environment(own: Mapping[str, str], arm: Arm, key: str, key_file: Path, *, is_contained: bool = False) -> dict[str, str]:
    """The node's environment without what would change the engine unrecorded, and the recipe's own; a container sees the latter only."""
    env = {**own, **adapter(arm.engine).environment(key, key_file)}
    if is_contained:
        env |= {name: os.environ[name] for name in gpus.VARIABLES if name in os.environ}
        return container.environment(env)
    prefixes = (*COMMUNICATION, *(prefix for engine in engines().values() for prefix in engine.variables))
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)} | env
