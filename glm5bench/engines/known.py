"""All known engines: the modules of this folder that define ENGINE."""

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
    """Every engine by its name, sorted."""
    found = [getattr(importlib.import_module(f"{ROOM}.{m.name}"), "ENGINE", None) for m in pkgutil.iter_modules(HOME)]
    return {engine.name: engine for engine in found if isinstance(engine, Adapter)}


def adapter(engine: Engine) -> Adapter:
    """The adapter for an engine of conf/. Raises SettingsError if the name is unknown."""
    found = engines().get("simulated" if engine.simulated else engine.flavor)
    if found is None:
        raise SettingsError(
            f"engine.flavor={engine.flavor}: unknown engine.",
            where=f"engine {engine.id}",
            next_step=f"use one of {', '.join(engines())}",
        )
    return found


def serving(info: Mapping[str, Any], owner: str) -> Adapter | None:
    """The engine of a server with this `info`; None if unknown. `owner`: the owner of its model according to /v1/models."""
    found = [engine for engine in engines().values() if engine.is_server(info, owner)]
    return next(iter(sorted(found, key=lambda engine: not engine.is_simulated)), None)
