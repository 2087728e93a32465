"""The engines that there are: the modules of this room that have an ENGINE."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from ..errors import SettingsError
from ..values.groups import Engine
from .adapter import Adapter

ROOM = __name__.rpartition(".")[0]
HOME = importlib.import_module(ROOM).__path__


@functools.cache
def engines() -> dict[str, Adapter]:
    """Every engine by its name, in the order of names."""
    found = [getattr(importlib.import_module(f"{ROOM}.{m.name}"), "ENGINE", None) for m in pkgutil.iter_modules(HOME)]
    return {engine.name: engine for engine in found if isinstance(engine, Adapter)}


def adapter(engine: Engine) -> Adapter:
    """The engine of an arm, which conf/ names. Raises SettingsError if there is none of this name."""
    found = engines().get("simulated" if engine.simulated else engine.flavor)
    if found is None:
        raise SettingsError(
            f"engine.flavor={engine.flavor}: there is no such engine.",
            where=f"engine {engine.id}",
            next_step=f"one of {', '.join(engines())}",
        )
    return found


def serving(info: Mapping[str, Any], owner: str) -> Adapter | None:
    """The engine of a server that describes itself so; None if it is none of them. `owner`: of its model, as /v1/models says."""
    found = [engine for engine in engines().values() if engine.is_server(info, owner)]
    return next(iter(sorted(found, key=lambda engine: not engine.is_simulated)), None)
