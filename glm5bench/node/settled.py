"""The state of a ready server: its memory and start phases according to its log, and whether its settings are those requested.

An engine may change a setting and only report it in one line of its log. A server with other settings would measure another arm for
hours, so it is refused before the first request.
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
}  # phases of conf/engine -> phases in tables; all others are `other`


def start_facts(server: Server, recipe: Recipe) -> dict[str, Any]:
    """`startup`: seconds of each phase, and memory in GiB per GPU; `settings`: those in the server's log; `model_path`: as requested."""
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
    """Seconds of each phase: `image` until the first known line, each other phase until the next, the last until the server is ready."""
    reached = server.log.reached
    ends = [phase.at_s for phase in reached[1:]] + [server.start_s]
    found = {"image_s": reached[0].at_s} if reached else {}
    for phase, end in zip(reached, ends, strict=True) if reached else ():
        name = f"{PHASES.get(phase.name, 'other')}_s"
        found[name] = found.get(name, 0.0) + max(0.0, end - phase.at_s)
    return found


def refuse_other_settings(server: Server, facts: dict[str, Any]) -> None:
    """Raises ServerError with the settings that differ, if a server does not use those requested."""
    for arm, recipe, info in server.parts():
        stated = adapter(arm.engine).stated({**info, **facts["settings"]}, arm.tp)
        changed = [*settings_changed(recipe.argv, stated, arm.engine.settings_may_differ), *other_model(facts["model_path"], stated)]
        if changed:
            raise server.error(f"{arm.role} {in_words(changed)}".strip(), "server_settings")
