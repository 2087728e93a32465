"""The simulated server, which has SGLang's flags and HTTP surface and needs no GPU (glm5bench.simulator)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..values.point import KEY_FILE_VARIABLE, Arm, NodeJob
from . import sglang
from .sglang import SGLang

PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])


@dataclass(frozen=True)
class Simulated(SGLang):
    """A simulated server."""

    def is_server(self, info: Mapping[str, Any], owner: str) -> bool:
        """Whether the server reports anywhere that it is simulated: a simulated measurement must never pass for a real one."""
        return bool(info.get("simulated")) or owner == "simulated" or "simulated" in str(info.get("version", ""))

    def flags_of_the_node(self, argv: Sequence[str]) -> list[str]:
        return []

    def keyed(self, argv: list[str], key_file: Path) -> list[str]:
        return argv

    def environment(self, key: str, key_file: Path) -> dict[str, str]:
        path = os.pathsep.join(p for p in (PACKAGE_ROOT, os.environ.get("PYTHONPATH", "")) if p)
        return {"PYTHONPATH": path, KEY_FILE_VARIABLE: str(key_file)}

    def needs(self, job: NodeJob) -> frozenset[str]:
        return frozenset()

    def reports_verify_steps(self, arm: Arm) -> bool:
        return False

    def stated(self, info: Mapping[str, Any], asked_tp: int) -> Mapping[str, Any]:
        """Only the number of its GPUs, because it reports what it simulates and not its flags."""
        return {"tp_size": info.get("tp_size", asked_tp)}


_OF_SGLANG = {f.name: getattr(sglang.ENGINE, f.name) for f in fields(sglang.ENGINE)}
ENGINE = Simulated(**{**_OF_SGLANG, "name": "simulated", "follows": sglang.ENGINE.name, "is_simulated": True, "parser": None})
