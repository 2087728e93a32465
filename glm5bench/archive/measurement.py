"""One measurement as a value: the content of a point, independent of the file that contains it.

`point` and `provenance` are plain JSON. `requests` are raw times. A published point has stated figures instead of times. The content
digest covers the values, not the bytes of HDF5, so the same measurement has the same digest in every archive.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..analysis.acceptance import disagreeing, unpinned
from ..analysis.energy import Energy, energy, faults, missing
from ..analysis.held import other_model, settings_changed
from ..analysis.metrics import Figures, Requests, figures
from ..analysis.reasons import Reason, Verdict, judged
from ..analysis.sessions import OF_CACHE, WITHHOLDING, SessionFigures, session_faults, session_figures
from ..analysis.telemetry import SERVER, Telemetry
from ..analysis.validity import Circumstances, published_verdict, verdict, with_stated
from ..values.plain import canonical_json

SOURCES = ("measured", "simulated", "published")
PAGE_TOKENS = 64  # of a prefix cache, if the server does not say
FULL = 0.9  # share of the KV cache in use, above which requests wait for space
SEEN_OFTEN = 5  # fewest readings of a server in a window for which their maximum is used
TIMES = ("due_ns", "sent_ns", "first_byte_ns", "first_token_ns", "last_token_ns", "end_ns")
COUNTS = ("prompt_tokens", "output_tokens", "asked_tokens", "status")
OF_ANSWERS = ("cached_tokens", "hidden_tokens", "first_tokens")  # in the server's facts: format 2 has no columns for them


@dataclass(frozen=True)
class Measurement:
    """One complete measurement, or one published point."""

    key: str
    source: str
    point: dict[str, Any]
    provenance: dict[str, Any]
    requests: Requests | None = None
    server: dict[str, Any] = field(default_factory=dict)
    log: str = ""
    stated: dict[str, float] = field(default_factory=dict)
    telemetry: Telemetry | None = None

    @property
    def time_scale(self) -> float:
        """How much faster than real time the clock ran. 1 except in the simulator."""
        return float(self.point.get("time_scale") or 1.0)

    def figures(self) -> Figures | None:
        """The figures, computed from the raw times; None for a point without times."""
        if self.requests is None:
            return None
        return figures(self.requests, time_scale=self.time_scale, from_due=self.is_open_loop)

    @property
    def workload(self) -> dict[str, Any]:
        """The resolved settings of the workload; empty if they are unknown."""
        told = self.point.get("arm", {}).get("workload", {})
        return told if isinstance(told, dict) else {}

    @property
    def is_open_loop(self) -> bool:
        """Whether each request had its own due time, from which its latency is measured."""
        return str(self.workload.get("arrivals", "closed")) != "closed"

    @property
    def has_sessions(self) -> bool:
        """Whether agent sessions were replayed."""
        return self.workload.get("content") == "sessions"

    @property
    def keeps_concurrency(self) -> bool:
        """Whether a known, constant number of requests is in flight: a closed loop of users without pauses."""
        if self.has_sessions:
            return False
        return not self.is_open_loop and not self.workload.get("think_time_s") and self.point["concurrency"] is not None

    @property
    def _prompts_are_new(self) -> bool:
        """Whether no prompt and no prefix was meant to be sent twice."""
        w = self.workload
        return bool(w) and w.get("content", "random") == "random" and not w.get("prefix_tokens") and int(w.get("turns") or 1) == 1

    @property
    def ramp_s(self) -> float:
        """Seconds over which the users arrived or the rate grew."""
        return float(self.workload.get("ramp_s") or 0.0)

    def energy(self, until_s: float = 0.0) -> Energy | None:
        """Energy of the server's GPUs over the window of the requests; None if the point has no telemetry or no window.

        `until_s`: over the first seconds of the server's clock instead.
        """
        told, window = self.provenance.get("telemetry"), (0, round(until_s / self.time_scale * 1e9)) if until_s else self.window_ns
        if not isinstance(told, dict) or window is None:
            return None
        devices, gpus = self.devices, self.point["gpus"]
        if self.telemetry is None or not devices:
            return missing(str(told.get("why_none") or "no GPU was read"))
        if len(set(devices)) != gpus:
            return missing(f"{len(set(devices))} of the server's {gpus} GPUs were read")
        return energy(self.telemetry, devices, *window, time_scale=self.time_scale)

    @property
    def devices(self) -> list[str]:
        """UUIDs of the server's GPUs that were read."""
        told = self.provenance.get("telemetry")
        return [str(d["uuid"]) for d in told.get("devices", [])] if isinstance(told, dict) else []

    @property
    def window_ns(self) -> tuple[int, int] | None:
        """From the first request sent to the last end, in ns on the clock of the requests; None if a time is missing."""
        r = self.requests
        if r is None or not (r.sent_ns >= 0).any() or not (r.end_ns >= 0).any():
            return None
        return int(r.sent_ns[r.sent_ns >= 0].min()), int(r.end_ns.max())

    def session_figures(self) -> SessionFigures | None:
        """The figures of agent sessions; None for other workloads. Those of the cache are left out if they cannot be right."""
        r, told = self.requests, self.provenance.get("sessions")
        if r is None or r.plays is None or not isinstance(told, dict):
            return None
        lengths, window_s = np.array(told["lengths"], dtype=np.int64), float(self.workload["duration_s"])
        found = session_figures(r, r.plays, lengths, window_s, time_scale=self.time_scale)
        is_wrong = any(reason.code in WITHHOLDING for reason in self._session_faults())
        return dataclasses.replace(found, **dict.fromkeys(OF_CACHE, math.nan)) if is_wrong else found

    def _session_faults(self) -> tuple[Reason, ...]:
        """What is wrong with the cached tokens of agent sessions."""
        r = self.requests
        if r is None or r.plays is None:
            return ()
        page, counts = self.server.get("info", {}).get("page_size"), self.server.get("counted_tokens") or {}
        page_tokens = page if isinstance(page, int) and page > 0 else PAGE_TOKENS
        return tuple(session_faults(r, r.plays, page_tokens=page_tokens, counted_cached=counts.get("cache_hits")))

    def verdict(self) -> Verdict:
        """The verdict, computed from the raw times and the observed circumstances."""
        return self._verdict

    @functools.cached_property
    def _verdict(self) -> Verdict:
        f = self.figures()
        if f is None or self.requests is None:
            told = published_verdict(self.stated, self.point)
        else:
            told = verdict(self.requests, f, self._circumstances())
        return with_stated(self._with_implausible(told), self._stated_reasons())

    def _with_implausible(self, v: Verdict) -> Verdict:
        """The verdict with the reasons for implausible figures that an import left out."""
        found = self.provenance.get("implausible") or {}
        reasons = [Reason(str(code), str(text)) for code, text in found.get("reasons", []) if code not in v.codes]
        return judged((*v.reasons, *reasons)) if reasons else v

    def _stated_reasons(self) -> list[str]:
        """Reason codes of an imported point, and `incomplete` if its source reports that."""
        if "imported" not in self.provenance:
            return []
        codes = [code for code in str(self.provenance.get("reasons", "")).split(",") if code]
        return codes if self.provenance.get("is_complete", True) else [*codes, "incomplete"]

    def _circumstances(self) -> Circumstances:
        s, p = self.server, self.provenance
        client = p.get("client")
        client = client if isinstance(client, dict) else {}
        return Circumstances(
            concurrency=int(self.point["concurrency"] or 0),
            server_max_running=s.get("max_running"),
            server_capacity_tokens=s.get("capacity_tokens"),
            server_peak_running=s.get("peak_running") if s.get("peak_running") is not None else self._seen_running(),
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
            ends_by_itself="ignore_eos" in (self.workload.get("omit") or ()),
            paused_s=float(client.get("paused_s") or 0.0),
            prompts_are_new=self._prompts_are_new,
            cached_share=_cached_share(s),
            foreign_pids=tuple(int(pid) for pid in s.get("foreign_pids") or ()),
            is_server_unread=bool(p.get("is_server_unread")),
            beside=(
                *self._unlocked(),
                *self._telemetry_faults(),
                *self._acceptance_faults(),
                *self._accuracy_faults(),
                *self._session_faults(),
            ),
        )

    def _accuracy_faults(self) -> tuple[Reason, ...]:
        """Problems that the accuracy gate found, if it ran."""
        told = self.server.get("accuracy")
        if not isinstance(told, dict):
            return ()
        if not told.get("runs") or told.get("error"):
            return (Reason("accuracy_unknown", f"{told.get('task')} gave no score: {told.get('error') or 'no run'}"),)
        below = [r for r in told["runs"] if min(r["strict"], r["flexible"]) < told["threshold"]]
        return tuple(Reason("accuracy_failed", _score_text(told, run)) for run in below[:1])

    def _seen_running(self) -> int | None:
        """The most requests that a real server ran while others waited for a full KV cache.

        None if this was not the case in most of the readings.
        """
        t, window = self.telemetry, self.window_ns
        if t is None or window is None:
            return None
        curves = [t.curves(name).get(SERVER) for name in ("running", "queued", "kv_usage")]
        known = [dict(zip(c.at_ns.tolist(), c.value.tolist(), strict=True)) for c in curves if c is not None]
        if len(known) < len(curves):
            return None
        together = [tuple(of[at] for of in known) for at in sorted(set.intersection(*map(set, known))) if window[0] <= at <= window[1]]
        short = [ran for ran, queued, used in together if used >= FULL and queued > 0 and ran < self.point["concurrency"]]
        return int(max(short)) if len(together) >= SEEN_OFTEN and len(short) > len(together) / 2 else None

    def _telemetry_faults(self) -> tuple[Reason, ...]:
        spent, window = self.energy(), self.window_ns
        if spent is None or window is None:
            return ()
        return (*spent.faults, *(faults(self.telemetry, self.devices, *window) if self.telemetry is not None else ()))

    def _unlocked(self) -> tuple[Reason, ...]:
        if not self.provenance.get("is_unlocked"):
            return ()
        return (Reason("machine_unlocked", "the job could not lock this machine, so another local campaign may have run at the same time"),)

    def _acceptance_faults(self) -> tuple[Reason, ...]:
        pinned = self.point.get("arm", {}).get("speculative", {}).get("pinned")
        ranks = self.server.get("info", {}).get("internal_states")
        stated = self.server.get("acceptance_length") if isinstance(ranks, list) and len(ranks) == 1 else None  # ranks have own averages
        return (*unpinned(self.acceptance_length(), pinned), *disagreeing(self.requests, stated))

    def _settings_changed(self) -> tuple[tuple[str, str, str], ...]:
        """Changed settings of a real engine. The simulated engine states what it simulates, not its flags."""
        if self.source != "measured":
            return ()
        may_differ = self.point.get("arm", {}).get("engine", {}).get("settings_may_differ", ())
        model, each = str(self.server.get("model_path", "")), self._asked_and_stated()
        found = [c for argv, has in each for c in (*settings_changed(argv, has, may_differ), *other_model(model, has))]
        return tuple(dict.fromkeys(found))

    def _asked_and_stated(self) -> list[tuple[Sequence[str], dict[str, Any]]]:
        """The command of each server and what this server reports. With several roles the point's own command is the router's."""
        recipe, info = self.point.get("recipe", {}), self.server.get("info", {})
        parts = {str(part["role"]): part["recipe"].get("argv", ()) for part in recipe.get("roles", ())}
        if not parts:
            return [(recipe.get("argv", ()), {**info, **self.server.get("settings", {})})]
        return [(parts[role], told) for name, told in info.get("workers", {}).items() if (role := name.rpartition("-")[0]) in parts]

    def acceptance_length(self) -> float:
        """Output tokens per verify step, without the first token of each answer, which prefill makes. The engines count the same way.

        From the answers that state their steps, else from the server's counters over the run, else as the server states it.
        NaN if unknown, or without speculative decoding.
        """
        r, counts = self.requests, self.server.get("counted_tokens") or {}
        if r is not None and r.verify_steps is not None and (known := r.is_whole & (r.verify_steps > 0)).any():
            return float((r.output_tokens[known] - 1).sum() / r.verify_steps[known].sum())
        if counts.get("drafts"):
            return 1.0 + float(counts["accepted_tokens"]) / float(counts["drafts"])
        if counts.get("verify_steps"):
            n_answers = int(r.is_whole.sum()) if r is not None else 0
            return float(counts["generation_tokens"] - n_answers) / float(counts["verify_steps"])
        told = self.server.get("acceptance_length")
        return float(told) if isinstance(told, int | float) else math.nan

    def digest(self, *, is_of_file: bool = False) -> str:
        """SHA-256 over everything that was measured, 64 hex digits. It does not depend on the file from which the point was imported.

        `is_of_file`: include that file's name and hash, as the digest of earlier imports did.
        """
        h = hashlib.sha256()
        provenance = {k: v for k, v in self.provenance.items() if is_of_file or k != "imported"}
        parts = [self.key, self.source, self.point, provenance, self.server, self.log, self.stated]
        h.update(canonical_json(parts).encode())
        if self.requests is not None:
            for name in (*TIMES, *COUNTS, "chunk_ns", "chunk_tokens", "chunk_offsets"):
                h.update(np.ascontiguousarray(getattr(self.requests, name), dtype="<i8").tobytes())
            if self.requests.asked_prompt_tokens is not None:
                h.update(np.ascontiguousarray(self.requests.asked_prompt_tokens, dtype="<i8").tobytes())
            if self.requests.verify_steps is not None:
                h.update(b"verify_steps" + np.ascontiguousarray(self.requests.verify_steps, dtype="<i8").tobytes())
            h.update(canonical_json(list(self.requests.error)).encode())
            if self.requests.plays is not None:
                for f in dataclasses.fields(self.requests.plays):
                    h.update(np.ascontiguousarray(getattr(self.requests.plays, f.name), dtype="<i8").tobytes())
        if self.telemetry is not None:
            h.update(canonical_json(self.telemetry.tracks).encode())
            for name, dtype in (("track", "<i8"), ("at_ns", "<i8"), ("value", "<f8")):
                h.update(np.ascontiguousarray(getattr(self.telemetry, name), dtype=dtype).tobytes())
        return h.hexdigest()


def _score_text(told: dict[str, Any], run: dict[str, Any]) -> str:
    scores = ", ".join(f"{name} {run[name]:.3f} [{run[f'{name}_low']:.3f}, {run[f'{name}_high']:.3f}]" for name in ("strict", "flexible"))
    empty = f", {run['n_empty']} answers without text" if run["n_empty"] else ""
    return f"{told['task']} at concurrency {run['concurrency']}: {scores} of {run['n_questions']}{empty}, {told['threshold']:g} passes"


def _counted(server: dict[str, Any]) -> tuple[int, int] | None:
    told = server.get("counted_tokens")
    return (int(told["prompt_tokens"]), int(told["generation_tokens"])) if told else None


def _cached_share(server: dict[str, Any]) -> float | None:
    """Share of the prompt tokens that came from the prefix cache, according to the server's counters."""
    told = server.get("counted_tokens")
    if not told or not told.get("prompt_tokens") or told.get("cache_hits") is None:
        return None
    return float(told["cache_hits"]) / float(told["prompt_tokens"])


def answers_of(r: Requests) -> dict[str, list[int]]:
    """Values other than times that servers reported for each answer, as stored in the server's facts. By column; -1: not reported."""
    told = {name: getattr(r, name) for name in OF_ANSWERS}
    return {name: [int(v) for v in values] for name, values in told.items() if values is not None}


def with_answers(r: Requests, server: dict[str, Any]) -> Requests:
    """The requests with the values per answer from the server's facts. Raises ValueError for columns of another length."""
    told = server.get("answers") or {}
    columns: dict[str, Any] = {name: np.array(told[name], dtype=np.int64) for name in OF_ANSWERS if name in told}
    if any(values.shape != r.sent_ns.shape for values in columns.values()):
        raise ValueError("the server's facts are for another number of answers")
    return dataclasses.replace(r, **columns) if columns else r


def _neighbours(provenance: dict[str, Any]) -> tuple[int, int]:
    """How many other servers should be under load on the node, and the fewest that were, at the start or end of the window."""
    lanes = int(provenance.get("lanes", 1))
    seen = [provenance.get(name, []) for name in ("beside_before", "beside_after")]
    return lanes - 1, min(sum(str(said).endswith(("measuring", "warm-up")) for said in told) for told in seen) if lanes > 1 else 0
