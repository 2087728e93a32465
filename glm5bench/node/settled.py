"""What a server became once it was ready: its memory and its start, by its own log, and whether it is the server that was asked for.

An engine may change a setting with no more than a line of its log. A server that runs with another one would measure another arm, and
for hours: it is refused before the first request.
"""

from __future__ import annotations

from typing import Any

from .. import recipe as recipes
from ..analysis.held import in_words, other_model, settings_changed
from ..engines.known import adapter
from ..values.point import Recipe
from .server import Server

PHASES = {
    "loading weights": "load",
    "compiling DeepGEMM kernels": "compile",
    "preparing kernels": "compile",
    "profiling memory": "compile",
    "capturing graphs": "graphs",
}  # of conf/engine -> what tables show; everything else is `other`


def start_facts(server: Server, recipe: Recipe) -> dict[str, Any]:
    """`startup`: seconds of its phases, and its memory in GiB a GPU; `settings`: what it says that it runs with; `model_path`: as asked."""
    arm, head, info = server.arm, server.log.head(), server.info()
    started: dict[str, float] = {"start_s": server.start_s, **_phases(server)}
    engine = adapter(arm.engine)
    told = engine.log.memory(head)
    capacity = engine.kv_tokens(info)
    if capacity is not None:
        told["kv_tokens"] = float(capacity)
    predicted = recipes.memory(arm, recipe).capacity_tokens
    return {
        "startup": {**started, **told, "kv_tokens_predicted": float(predicted)},
        "settings": engine.settings(head),
        "model_path": server.place.model_path,
    }


def _phases(server: Server) -> dict[str, float]:
    """Seconds of each phase: `image` until the first line that is known, the others until the next begins, the last until it was ready."""
    reached = server.log.reached
    ends = [phase.at_s for phase in reached[1:]] + [server.start_s]
    found = {"image_s": reached[0].at_s} if reached else {}
    for phase, end in zip(reached, ends, strict=True) if reached else ():
        name = f"{PHASES.get(phase.name, 'other')}_s"
        found[name] = found.get(name, 0.0) + max(0.0, end - phase.at_s)
    return found


def refuse_other_settings(server: Server, recipe: Recipe, facts: dict[str, Any]) -> None:
    """Raises ServerError with what the server runs with in place of what was asked."""
    stated = adapter(server.arm.engine).stated({**server.info(), **facts["settings"]}, server.arm.tp)
    changed = [*settings_changed(recipe.argv, stated, server.arm.engine.settings_may_differ), *other_model(facts["model_path"], stated)]
    if changed:
        raise server.error(in_words(changed), "server_settings")
