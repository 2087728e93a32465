"""A plan and a campaign's status as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from ..errors import printable


def plan_text(record: Mapping[str, Any]) -> str:
    """Node jobs, what was left out and why, what departs from the published recipes, warnings, estimates."""
    jobs = [
        {
            "node job": job["id"],
            "arm": _arm(job["arm"]),
            "server starts": len(job["starts"]),
            "points": sum(len(s["points"]) for s in job["starts"]),
            "concurrency": ",".join(str(p["concurrency"]) for s in job["starts"] for p in s["points"] if not p["repeat"]),
            "$C": ",".join(dict.fromkeys(str(s["recipe"]["binding"]) for s in job["starts"])),
            "about": _duration(job["estimate_s"]),
            "$": f"{job['estimate_usd']:.2f}",
        }
        for job in record["jobs"]
    ]
    parts = [
        f"{record['name']}: {record['n_points']} points in {len(jobs)} arms, {record['n_server_starts']} server starts,"
        f" about {_node_time(record['estimate_node_h'])}, ${record['estimate_usd']:.2f}",
        "",
        tabulate(jobs, headers="keys", disable_numparse=True, maxcolwidths=[None, None, None, None, 40, None, None, None]),
    ]
    left_out = [f"{lo['arm']} ({lo['n_points']} points): {lo['reason']}" for lo in record["left_out"]]
    sections = (("Left out", left_out), ("Notes", record["notes"]), ("Warnings", record["warnings"]))
    for title, lines in sections:
        if lines:
            parts += ["", f"{title}:", *(f"  {line}" for line in lines)]
    return "\n".join(parts)


def _node_time(hours: float) -> str:
    return f"{hours:.1f} node-hours" if hours >= 0.1 else f"{hours * 60:.1f} node-minutes"


def _arm(arm: Mapping[str, Any]) -> str:
    w = arm["workload"]
    names = (arm["hardware"]["id"], arm["checkpoint"]["id"], f"tp{arm['tp']}", arm["speculative"]["id"], arm["engine"]["id"])
    return " ".join((*names, f"{w['isl_tokens']}/{w['osl_tokens']}"))


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def status_text(record: Mapping[str, Any]) -> str:
    """Counts, live jobs, and every point that is not done with its reason."""
    counts = ", ".join(f"{n} {state}" for state, n in record["counts"].items())
    word = " (simulated)" if record["simulated"] else ""
    parts = [f"{record['campaign']}{word}: {counts}"]
    parts += [f"  job {job['job_id']} on {job['node']}: {_doing(job)}" for job in record["jobs"]]
    for point in record["points"]:
        if point["state"] in ("failed", "invalid") or (point["state"] == "missing" and point["message"]):
            why = point["failure_class"] or point["validity"] or "no word"
            parts.append(f"  {point['state']}: {point['arm']} concurrency {point['concurrency']} ({why}, {point['attempts']} attempts)")
            parts += [f"    {printable(line)}" for line in point["message"].splitlines()]
    return "\n".join(parts)


def _doing(job: Mapping[str, Any]) -> str:
    if job["phase"] == "queued":
        return "waits for this machine, another local campaign runs"
    if not job["node_job"]:
        return str(job["phase"])
    requests = f" {job['requests_done']}/{job['requests']} requests" if job["phase"] == "measuring" else ""
    return f"{job['phase']}{requests}, {job['points_done']} of {job['points']} points of {job['node_job']}"
