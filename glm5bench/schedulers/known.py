"""All known schedulers: those in the SCHEDULERS of the modules of this package."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from ..errors import SettingsError
from ..values.cluster import Cluster
from .scheduler import Scheduler

ROOM = __name__.rpartition(".")[0]


@functools.cache
def schedulers() -> dict[str, Scheduler]:
    """All schedulers by name. The name is the value of `executor` of a cluster."""
    names = [f"{m.name}.scheduler" if m.ispkg else m.name for m in pkgutil.iter_modules(importlib.import_module(ROOM).__path__)]
    found = [one for name in names for one in getattr(importlib.import_module(f"{ROOM}.{name}"), "SCHEDULERS", ())]
    return {scheduler.name: scheduler for scheduler in found}


def scheduler(cluster: Cluster) -> Scheduler:
    """The scheduler of a cluster. Raises SettingsError if its name is unknown."""
    found = schedulers().get(cluster.executor)
    if found is None:
        raise SettingsError(
            f"Unknown scheduler: cluster.executor={cluster.executor}.",
            where=f"cluster {cluster.id}",
            next_step=f"use one of {', '.join(sorted(schedulers()))}",
        )
    return found
