"""The record of an attempt at a point, and the facts of the arm and the server that the point's file contains.

Enters: a node job's values and the server's own information. Leaves: plain JSON. It handles no load and no signals.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..analysis.metrics import Figures
from ..analysis.reasons import Verdict
from ..archive.sealed import seal_of
from ..client.counters import Counted
from ..client.endpoint import redacted_deeply
from ..client.protocol import Measured
from ..directory import ATTEMPT_FORMAT, Campaign
from ..engines.known import adapter
from ..files import write_json
from ..recipe import set_by_itself
from ..values.plain import digest_of, plain
from ..values.point import Arm, NodeJob, Point, ServerStart, simulated_facts
from .server import Server


@dataclass(frozen=True)
class Trace:
    """The job and the node that made an attempt."""

    job_id: str
    node_job: str
    node: str


class Watch:
    """The start and end of a measurement on three clocks. The measurement starts when the object is created."""

    def __init__(self) -> None:
        self._began_utc, self._wall_s, self._clock_s = now_utc(), time.time(), time.monotonic()

    def told(self, load: Measured) -> dict[str, Any]:
        """The record at the end of the measurement: times, clock steps and the client's health."""
        return {
            "start_utc": self._began_utc,
            "end_utc": now_utc(),
            "start_monotonic_ns": load.start_ns,
            "clock_step_s": (time.time() - self._wall_s) - (time.monotonic() - self._clock_s),
            "client_lag_p99_s": load.health.loop_lag_p99_s,
            "client": asdict(load.health),
        }


def record_failure(campaign: Campaign, trace: Trace, key: str, class_: str, message: str) -> None:
    """Writes the record of a failed attempt at a point. Raises EnvironmentLacks if it cannot be written."""
    record = {"status": "failed", "class": class_, "message": message}
    record_attempt(campaign, trace, key, campaign.next_attempt(key), record)


def record_attempt(campaign: Campaign, trace: Trace, key: str, attempt: int, record: dict[str, Any]) -> None:
    """Writes the record of an attempt: a file next to the point's file, and a line in the job's own list, which is faster to read."""
    full = {"format": ATTEMPT_FORMAT, "key": key, "attempt": attempt, **asdict(trace), "ended_utc": now_utc(), **record}
    write_json(campaign.attempt_file(key, attempt), full)
    campaign.append_attempt(trace.job_id, full)


def point_record(job: NodeJob, start: ServerStart, point: Point) -> dict[str, Any]:
    """The content of /point: the facts that tables need, as flat fields, and the resolved arm and recipe."""
    arm: Arm = job.arm
    return {
        "hardware": arm.hardware.id,
        "engine": adapter(arm.engine).name,
        "engine_version": arm.engine.version,
        "image": start.recipe.image,
        "model": arm.checkpoint.model,
        "checkpoint": arm.checkpoint.repository,
        "precision": arm.checkpoint.precision,
        "speculative": arm.speculative.id,
        "tp": arm.servers[-1].arm.tp,
        "gpus": arm.gpus,
        **{name: n for name, n in (("dp", arm.dp), ("ep", arm.ep), ("nodes", arm.nodes)) if n > 1},
        "gpus_per_node": arm.hardware.gpus_per_node,
        "isl_tokens": arm.workload.isl_tokens,
        "osl_tokens": arm.workload.osl_tokens,
        "range_ratio": arm.workload.range_ratio,
        "endpoint": arm.workload.endpoint,
        "concurrency": point.concurrency,
        "repeat": point.repeat,
        "seed": point.seed,
        "server_scope": job.server_scope,
        "binding": point.binding,
        "packed": job.lanes,
        "departures": list(start.recipe.notes),
        "set_by_engine": set_by_itself(arm),
        "time_scale": arm.engine.time_scale if arm.engine.simulated else None,
        "variant": variant(arm, job.lanes),
        "arm": plain(arm),
        "recipe": plain(start.recipe),
    }


def variant(arm: Arm, lanes: int = 1) -> str:
    """Distinguishes curves of the same name: packing, workload changes, and a digest of the user's settings and the simulated facts."""
    own = [list(arm.engine.extra_args), arm.engine.env] if arm.engine.extra_args or arm.engine.env else []
    own += [arm.engine.image] if arm.engine.image else []
    facts = simulated_facts(arm) if arm.engine.simulated else None
    pinned = [f"pinned={arm.speculative.pinned:g}"] if arm.speculative.pinned is not None else []
    words = [*arm.spread, *([f"packed{lanes}"] if lanes > 1 else []), *pinned, *arm.workload.departures()]
    return " ".join([*words, digest_of([own, facts], 8)] if own or facts else words)


def observed(info: dict[str, Any], server: Server, counted: Counted | None, facts: dict[str, Any]) -> dict[str, Any]:
    """The server's information after the run, and the numbers from it that the verdict needs. `facts`: those of its start."""
    engine, lag = adapter(server.arm.engine), info.get("lag") or {}
    return {
        **facts,
        "info": redacted_deeply(info, server),
        "counted_tokens": asdict(counted) if counted is not None else None,
        "start_phases": [asdict(phase) for phase in server.log.reached],
        "max_running": engine.admitted(info, facts.get("settings") or {}, server.recipe.argv),
        **dict.fromkeys(("capacity_tokens", "peak_running", "acceptance_length")),
        **engine.observed(info),
        "simulator_late_share": lag["late_steps"] / max(1, lag["steps"]) if lag else None,
        "version": str(info["version"]) if info.get("version") and not info.get("simulated") else None,
    }


def whole(path: Path, digest: str, f: Figures, v: Verdict) -> dict[str, Any]:
    """The record of a complete attempt: its verdict, a summary, and the digest, seal, size and time that identify its file."""
    summary = {
        "n_requests": f.n_requests,
        "n_failed": f.n_failed,
        "total_tput_tok_s": f.total_tput_tok_s,
        "interactivity_tok_s_user": f.interactivity_tok_s_user,
        "duration_s": f.duration_s,
    }
    finite = {k: x for k, x in summary.items() if math.isfinite(x)}
    return {
        "status": "whole",
        "digest": digest,
        "seal": seal_of(path),
        "size_bytes": path.stat().st_size,
        "mtime_ns": path.stat().st_mtime_ns,
        "validity": v.validity,
        "reasons": [asdict(r) for r in v.reasons],
        "summary": finite,
    }


def now_utc() -> str:
    """The current UTC time, in the format of the records."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
