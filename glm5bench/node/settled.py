"""What a server became once it was ready: its memory and its start, by its own log, and whether it is the server that was asked for.

An engine may change a setting with no more than a line of its log. A server that runs with another one would measure another arm, and
for hours: it is refused before the first request.
"""

from __future__ import annotations

from typing import Any

from .. import recipe as recipes
from ..analysis.held import settings_changed
from ..point import Recipe
from . import engine_log
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
    told = engine_log.memory(head, arm.engine.flavor)
    capacity = info.get("max_total_num_tokens")
    states = info.get("internal_states")
    if isinstance(states, list) and len(states) > 1:  # data-parallel ranks have caches of their own
        each = [state.get("memory_usage", {}).get("token_capacity") for state in states if isinstance(state, dict)]
        capacity = sum(each) if all(isinstance(n, int) for n in each) else capacity
    if isinstance(capacity, int):
        told["kv_tokens"] = float(capacity)
    predicted = recipes.memory(arm, recipe).capacity_tokens
    return {
        "startup": {**started, **told, "kv_tokens_predicted": float(predicted)},
        "settings": engine_log.settings(head) if arm.engine.flavor == "vllm" else {},
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
    """Raises ServerError with what the server runs with in place of what was asked. The simulated one states what it simulates."""
    if server.arm.engine.simulated:
        return
    stated = {**server.info(), **facts["settings"]}
    changed = [*settings_changed(recipe.argv, stated, server.arm.engine.settings_may_differ), *other_model(facts["model_path"], stated)]
    if changed:
        told = ", ".join(f"{flag} {asked} became {has}" for flag, asked, has in changed)
        raise server.error(f"runs with other settings than asked: {told}", "server_settings")


def other_model(asked: str, stated: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(checkpoint, asked, has) where the server says that it serves another."""
    has = stated.get("model_path") or stated.get("model")
    return [("the checkpoint", asked, str(has))] if isinstance(has, str) and has != asked else []
