"""One measurement as a value: what a point file holds, whatever file it stands in.

`point` and `provenance` are plain JSON; `requests` are raw times; a published point has stated figures in place of times. The
content digest is over the values, not over HDF5's bytes, so that the same measurement has the same digest in every archive.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..analysis.comparison import Row, Series
from ..analysis.held import settings_changed
from ..analysis.metrics import Figures, Requests, figures
from ..analysis.validity import Circumstances, Verdict, published_verdict, verdict
from ..analysis.windows import goodput_rps, peak_output_tput_tok_s, steady
from ..errors import AnalysisError, FileError
from ..point import canonical_json
from ..workload import objectives

SOURCES = ("measured", "simulated", "published")
TIMES = ("due_ns", "sent_ns", "first_byte_ns", "first_token_ns", "last_token_ns", "end_ns")
COUNTS = ("prompt_tokens", "output_tokens", "asked_tokens", "status")


@dataclass(frozen=True)
class Measurement:
    """One whole measurement, or one published point."""

    key: str
    source: str
    point: dict[str, Any]
    provenance: dict[str, Any]
    requests: Requests | None = None
    server: dict[str, Any] = field(default_factory=dict)
    log: str = ""
    stated: dict[str, float] = field(default_factory=dict)

    @property
    def time_scale(self) -> float:
        """How much faster than life the clock ran: 1 but for the simulator."""
        return float(self.point.get("time_scale") or 1.0)

    def figures(self) -> Figures | None:
        """Recomputed from the raw times; None for a published point."""
        if self.requests is None:
            return None
        return figures(self.requests, time_scale=self.time_scale, from_due=self.is_open_loop)

    @property
    def workload(self) -> dict[str, Any]:
        """The settings of what was sent, as they were resolved; empty where they are not told."""
        told = self.point.get("arm", {}).get("workload", {})
        return told if isinstance(told, dict) else {}

    @property
    def is_open_loop(self) -> bool:
        """Whether requests were due at times of their own, from which their clocks ran."""
        return str(self.workload.get("arrivals", "closed")) != "closed"

    @property
    def keeps_concurrency(self) -> bool:
        """Whether as many requests are in flight as there are users: a closed loop without pauses."""
        return not self.is_open_loop and not self.workload.get("think_time_s")

    @property
    def ramp_s(self) -> float:
        """Seconds over which the users came, or the rate grew."""
        return float(self.workload.get("ramp_s") or 0.0)

    def verdict(self) -> Verdict:
        """Recomputed from the raw times and what was observed."""
        f = self.figures()
        if f is None or self.requests is None:
            return published_verdict()
        return verdict(self.requests, f, self._circumstances())

    def _circumstances(self) -> Circumstances:
        s, p = self.server, self.provenance
        client = p.get("client")
        client = client if isinstance(client, dict) else {}
        return Circumstances(
            concurrency=int(self.point["concurrency"]),
            server_max_running=s.get("max_running"),
            server_capacity_tokens=s.get("capacity_tokens"),
            server_peak_running=s.get("peak_running"),
            client_lag_p99_s=p.get("client_lag_p99_s"),
            clock_step_s=p.get("clock_step_s"),
            simulator_late_share=s.get("simulator_late_share"),
            engine_version=(str(self.point["engine_version"]), str(s["version"])) if s.get("version") else None,
            has_no_container=p.get("container") == "none" and bool(self.point.get("image")) and self.source == "measured",
            neighbours=_neighbours(p),
            counted_tokens=_counted(s),
            settings_changed=self._settings_changed(),
            keeps_concurrency=self.keeps_concurrency,
            ramp_s=self.ramp_s / self.time_scale,
            late_sends=int(client.get("late_sends", 0)) if self.is_open_loop else 0,
            late_send_max_s=float(client.get("late_send_max_s", 0.0)),
            is_complete=bool(p.get("is_complete", True)),
        )

    def _settings_changed(self) -> tuple[tuple[str, str, str], ...]:
        """Of a real engine: the simulated one states what it simulates, not its flags."""
        if self.source != "measured":
            return ()
        return settings_changed(self.point.get("recipe", {}).get("argv", ()), self.server.get("info", {}))

    def digest(self) -> str:
        """SHA-256 over everything that was measured, 64 hex digits."""
        h = hashlib.sha256()
        parts = [self.key, self.source, self.point, self.provenance, self.server, self.log, self.stated]
        h.update(canonical_json(parts).encode())
        if self.requests is not None:
            for name in (*TIMES, *COUNTS, "chunk_ns", "chunk_tokens", "chunk_offsets"):
                h.update(np.ascontiguousarray(getattr(self.requests, name), dtype="<i8").tobytes())
            if self.requests.asked_prompt_tokens is not None:
                h.update(np.ascontiguousarray(self.requests.asked_prompt_tokens, dtype="<i8").tobytes())
            h.update(canonical_json(list(self.requests.error)).encode())
        return h.hexdigest()

    def row(self, digest: str, origin: str) -> Row:
        """The point as tables see it. Raises FileError when a field that every point has is missing."""
        try:
            return self._row(digest, origin)
        except AnalysisError as error:
            raise FileError(error.message, path=origin) from error
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise FileError(f"The point {self.key} lacks or garbles {error}.", path=origin) from error

    def _windows(self, f: Figures | None, gpus: float) -> dict[str, float]:
        """The columns of a row that are of parts of the run."""
        r = self.requests
        if f is None or r is None or f.n_failed == f.n_requests:
            return {}
        n, scale = f.n_requests - f.n_failed, self.time_scale
        window = steady(r, int(self.point["concurrency"]), time_scale=scale, ramp_s=self.ramp_s) if self.keeps_concurrency else None
        limits: dict[str, float] = {o.metric: o.limit_s for o in objectives(str(self.workload.get("goodput", "")))}
        return {
            "mean_isl_tokens": f.prompt_tokens / n,
            "mean_osl_tokens": f.output_tokens / n,
            "steady_tput_per_gpu_tok_s": window.total_tput_tok_s / gpus if window else float("nan"),
            "peak_output_tput_per_gpu_tok_s": peak_output_tput_tok_s(r, time_scale=scale) / gpus,
            "goodput_rps": goodput_rps(r, f, limits, time_scale=scale, from_due=self.is_open_loop),
        }

    def _row(self, digest: str, origin: str) -> Row:
        p, f, v = self.point, self.figures(), self.verdict()
        nan = float("nan")
        gpus = int(p["gpus"]) if p["gpus"] is not None else 0  # 0: nobody said how many GPUs the server has
        names = ("hardware", "engine", "checkpoint", "precision", "speculative")
        series = Series(
            source=self.source,
            **{name: str(p[name]) for name in names},
            isl_tokens=int(p["isl_tokens"]),
            osl_tokens=int(p["osl_tokens"]),
            range_ratio=float(p["range_ratio"]),
            endpoint=str(p["endpoint"]),
            model=str(p["model"]),
            variant=str(p.get("variant", "")),
            time_scale=float(p["time_scale"]) if p.get("time_scale") else None,
        )
        if p["gpus"] is not None and (gpus < 1 or int(p["gpus_per_node"]) < 1):
            raise ValueError("a number of GPUs below 1")
        stated = {name: float(value) for name, value in self.stated.items()}
        return Row(
            series=series,
            key=self.key,
            digest=digest,
            tp=int(p["tp"]),
            gpus=gpus,
            gpus_per_node=max(gpus, int(p["gpus_per_node"] or 0) // int(p.get("packed", 1))),  # its share of a node that others use too
            concurrency=int(p["concurrency"]),
            repeat=int(p["repeat"]),
            seed=int(p["seed"]),
            server_scope=p["server_scope"],
            binding=p.get("binding"),
            total_tput_per_gpu_tok_s=f.total_tput_tok_s / (gpus or nan) if f else stated.get("total_tput_per_gpu_tok_s", nan),
            input_tput_per_gpu_tok_s=f.input_tput_tok_s / (gpus or nan) if f else nan,
            output_tput_per_gpu_tok_s=f.output_tput_tok_s / (gpus or nan) if f else stated.get("output_tput_per_gpu_tok_s", nan),
            tpot_median_s=f.tpot.median if f else stated.get("tpot_median_s", nan),
            ttft_median_s=f.ttft.median if f else nan,
            ttft_p99_s=f.ttft.p99 if f and f.ttft.has_p99 else nan,
            n_requests=f.n_requests if f else 0,
            **self._windows(f, gpus or nan),
            validity=v.validity,
            reasons=v.codes,
            origin=origin,
            stated_interactivity=stated.get("interactivity_tok_s_user"),
        )


def _counted(server: dict[str, Any]) -> tuple[int, int] | None:
    told = server.get("counted_tokens")
    return (int(told["prompt_tokens"]), int(told["generation_tokens"])) if told else None


def _neighbours(provenance: dict[str, Any]) -> tuple[int, int]:
    """How many servers were to be under load on the same node, and the fewest that were, at the start or the end of the window."""
    lanes = int(provenance.get("lanes", 1))
    seen = [provenance.get(name, []) for name in ("beside_before", "beside_after")]
    return lanes - 1, min(sum(str(said).endswith(("measuring", "warm-up")) for said in told) for told in seen) if lanes > 1 else 0
