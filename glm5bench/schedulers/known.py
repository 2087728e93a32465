"""The schedulers that there are: those of the modules of this room that have SCHEDULERS."""

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
    """Every scheduler by its name, which is a cluster's `executor`."""
    names = [f"{m.name}.scheduler" if m.ispkg else m.name for m in pkgutil.iter_modules(importlib.import_module(ROOM).__path__)]
    found = [one for name in names for one in getattr(importlib.import_module(f"{ROOM}.{name}"), "SCHEDULERS", ())]
    return {scheduler.name: scheduler for scheduler in found}


def scheduler(cluster: Cluster) -> Scheduler:
    """The one that a cluster names. Raises SettingsError where there is none of that name."""
    found = schedulers().get(cluster.executor)
    if found is None:
        raise SettingsError(
            f"cluster.executor={cluster.executor}: there is no such scheduler.",
            where=f"cluster {cluster.id}",
            next_step=f"one of {', '.join(sorted(schedulers()))}",
        )
    return found
