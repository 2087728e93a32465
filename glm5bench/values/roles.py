"""The servers that act as one system: their roles, their numbers, and the nodes that they run on. Frozen values from conf/roles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .groups import Rule, Word
from .workload import Positive


@dataclass(frozen=True)
class Part:
    """The workers of one role, which are equal servers. None: the arm's value. `speculates`: False switches speculation off."""

    workers: Positive = 1
    tp: Positive | None = None
    dp: Positive | None = None
    ep: Positive | None = None
    speculates: bool = True


@dataclass(frozen=True)
class Router:
    """The program that distributes requests to the workers. The node adds its address and those of the workers."""

    program: tuple[Word, ...]


@dataclass(frozen=True)
class Roles:
    """How many servers there are and what each does. Without parts it is one server.

    `spans_nodes`: one server may use the GPUs of several nodes. With `prefill` and `decode`, prefill workers compute the cache of a prompt
    and pass it to a decode worker; a router sends each request to one worker of both kinds.
    """

    id: str
    spans_nodes: bool = False
    prefill: Part | None = None
    decode: Part | None = None
    router: Router | None = None
    recipe: tuple[Rule, ...] = ()

    @property
    def parts(self) -> tuple[tuple[str, Part], ...]:
        """The roles with their workers, in the order in which they are placed; empty for one server."""
        named = (("prefill", self.prefill), ("decode", self.decode))
        return tuple((name, part) for name, part in named if part is not None)


SINGLE = Roles("single")


@dataclass(frozen=True)
class Placement:
    """Where one rank of one worker runs: the number of the node in the job, and its GPUs there."""

    role: str  # empty if there is only one server
    worker: int
    rank: int  # within the worker; rank 0 answers requests
    node: int
    first_gpu: int
    gpus: int


def placed(sizes: Sequence[tuple[str, int, int]], gpus_per_node: int) -> tuple[Placement, ...]:
    """The placements of workers on nodes. `sizes`: (role, number of workers, GPUs of each).

    A worker that needs more than a node begins on an empty one and gets whole nodes. Smaller ones share a node if they fit.
    """
    found: list[Placement] = []
    node, used = 0, 0
    for role, workers, gpus in sizes:
        for worker in range(workers):
            if used and used + gpus > gpus_per_node:
                node, used = node + 1, 0
            for rank in range(-(-gpus // gpus_per_node)):
                here = min(gpus - rank * gpus_per_node, gpus_per_node)
                found.append(Placement(role, worker, rank, node + rank, used, here))
            node, used = node + (gpus - 1) // gpus_per_node, used + gpus if gpus <= gpus_per_node else gpus_per_node
    return tuple(found)
