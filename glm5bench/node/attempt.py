"""What is kept of an attempt at a point: the record beside its file, and what stands inside it of the arm and of the server.

Enters: a node job's values and what the server says of itself. Leaves: plain JSON. It knows no load and no signal.
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
    """Who made an attempt, and where."""

    job_id: str
    node_job: str
    node: str


class Watch:
    """When a measurement began and ended, by three clocks. It begins when it is made."""

    def __init__(self) -> None:
        self._began_utc, self._wall_s, self._clock_s = now_utc(), time.time(), time.monotonic()

    def told(self, load: Measured) -> dict[str, Any]:
        """What is kept of it now, at the end, and of how well the client did."""
        return {
            "start_utc": self._began_utc,
            "end_utc": now_utc(),
            "start_monotonic_ns": load.start_ns,
            "clock_step_s": (time.time() - self._wall_s) - (time.monotonic() - self._clock_s),
            "client_lag_p99_s": load.health.loop_lag_p99_s,
            "client": asdict(load.health),
        }


def record_failure(campaign: Campaign, trace: Trace, key: str, class_: str, message: str) -> None:
    """The record of a failed attempt at a point. Raises EnvironmentLacks where it cannot be written."""
    record = {"status": "failed", "class": class_, "message": message}
    record_attempt(campaign, trace, key, campaign.next_attempt(key), record)


def record_attempt(campaign: Campaign, trace: Trace, key: str, attempt: int, record: dict[str, Any]) -> None:
    """What became of the attempt: a file beside the point's, and a line in the job's own list, which is quicker to read."""
    full = {"format": ATTEMPT_FORMAT, "key": key, "attempt": attempt, **asdict(trace), "ended_utc": now_utc(), **record}
    write_json(campaign.attempt_file(key, attempt), full)
    campaign.append_attempt(trace.job_id, full)


def point_record(job: NodeJob, start: ServerStart, point: Point) -> dict[str, Any]:
    """What /point holds: the facts that tables need, flat, and everything that was resolved."""
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
        "tp": arm.tp,
        "gpus": arm.tp,
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
    """What makes two curves of the same name different: packing, and a digest of the user's own flags and variables, and of the facts
    simulated with.
    """
    own = [list(arm.engine.extra_args), arm.engine.env] if arm.engine.extra_args or arm.engine.env else []
    own += [arm.engine.image] if arm.engine.image else []
    facts = simulated_facts(arm) if arm.engine.simulated else None
    words = [*([f"packed{lanes}"] if lanes > 1 else []), *arm.workload.departures()]
    return " ".join([*words, digest_of([own, facts], 8)] if own or facts else words)


def observed(info: dict[str, Any], server: Server, counted: Counted | None, facts: dict[str, Any]) -> dict[str, Any]:
    """What the server said of itself after the run, with the numbers that the verdict needs taken out; `facts`: of its start."""
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
    """The record of a whole attempt: its verdict, a summary, and what the file is known by."""
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
    """Now, as records write it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
