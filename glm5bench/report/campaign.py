"""A plan and a campaign's status as text for a terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from ..checks.finding import Finding
from ..errors import counted, printable
from ..values.plain import from_plain
from ..values.point import Arm

MOST_OF_A_VALUE = 44  # characters
SILENT_S = 60.0  # without a beat: a job that should have had thirty


def plan_text(record: Mapping[str, Any], width: int = 140, error: str = "") -> str:
    """Node jobs, what was left out and why, what departs from the published recipes, warnings, estimates. Lines wrap at `width`."""
    jobs = [_plan_row(job) for job in record["jobs"]]
    if all(row["repeat"] == "0" for row in jobs):
        jobs = [{name: text for name, text in row.items() if name != "repeat"} for row in jobs]
    texts = {name: [name, *(row[name] for row in jobs)] for name in (jobs[0] if jobs else ())}
    fixed = sum(max(map(len, column)) + 2 for name, column in texts.items() if name not in ("arm", "concurrency"))
    room = max(30, width - fixed - 4)  # for the two columns that can wrap at spaces and commas
    arm = min(max(map(len, texts["arm"])), room * 3 // 5) if jobs else 0
    rows = [[_wrapped_cell(text, arm if name == "arm" else room - arm) for name, text in row.items()] for row in jobs]
    parts = [
        f"{record['name']}: {counted(record['n_points'], 'point')} in {counted(len(jobs), 'node job')},"
        f" {counted(record['n_server_starts'], 'server start')},"
        f" about {_node_time(record['estimate_node_h'])}, ${record['estimate_usd']:.2f}",
        "",
        tabulate([list(texts), *rows], tablefmt="plain", disable_numparse=True),
        "",
        "starts: server starts. $C: the concurrency that the engine's flags are set for. time and $: estimates.",
        *([_wrapped_line(f"The step model's error in throughput: {error}.", width).strip()] if error else []),
    ]
    if record.get("search"):
        parts += ["", *_wrapped_lines(_search_plan(record["search"]), width)]
    if record.get("repeat_scopes"):
        parts += ["", *_scopes_text(record["repeat_scopes"])]
    left_out = [f"{lo['arm']} ({counted(lo['n_points'], 'point')}): {lo['reason']}" for lo in record["left_out"]]
    sections = (("Left out", left_out), ("Notes", record["notes"]), ("Warnings", record["warnings"]))
    for title, lines in sections:
        if lines:
            parts += ["", f"{title}:", *(_wrapped_line(line, width) for line in lines)]
    return "\n".join(parts)


def _plan_row(job: Mapping[str, Any]) -> dict[str, str]:
    points = [p for s in job["starts"] for p in s["points"]]
    return {
        "node job": job["id"],
        "arm": from_plain(Arm, job["arm"]).label,
        "starts": str(len(job["starts"])),
        "points": str(len(points)),
        "concurrency": ", ".join(dict.fromkeys(str(p["concurrency"]) for p in points)),
        "repeat": ", ".join(sorted({str(p["repeat"]) for p in points}, key=int)),
        "$C": ", ".join(dict.fromkeys(str(s["recipe"]["binding"]) for s in job["starts"])),
        "time": duration(job["estimate_s"]),
        "$": f"{job['estimate_usd']:.2f}",
    }


def _wrapped_cell(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, max(10, width), break_long_words=False, break_on_hyphens=False)) or text


def _wrapped_line(text: str, width: int) -> str:
    """Breaks at spaces only, so that a flag or a path can be copied."""
    return textwrap.fill(text, width, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _search_plan(search: Mapping[str, Any]) -> list[str]:
    """The question of a search, what the planned points are expected to answer, and the grid beside it."""
    q, grid = search["question"], search["grid"]
    spread = f"spread between starts {q['spread']:.1%}, {q['spread_source']}"
    beside = (
        f"{counted(grid['points'], 'point')}, {counted(grid['server_starts'], 'server start')}, about {_node_time(grid['estimate_node_h'])}"
    )
    if q["limits"]:
        limits = ", ".join(limit["text"] for limit in q["limits"])
        first = (
            f"Search: the largest concurrency with {limits}; {spread}. Each arm begins at the predicted crossing; 4 to 8 probes are usual."
        )
    else:
        claim = search["expected_claim"]
        known = "is not known" if claim is None else f"is known within {claim:.1%}"
        first = (
            f"Search: the cost from {q['low']:g} to {q['high']:g} tok/s/user, tolerance {q['tolerance']:.1%}; {spread}."
            f" After these points it {known} if they are as predicted. Expected in all: {_expected(search['expected'])}."
        )
    return [first, f"The grid of `concurrency` would be {beside}."]


def _expected(told: Mapping[str, Any]) -> str:
    """`14 points, 2.1 node-hours`, and whether the tolerance is then reached."""
    amount = f"{counted(told['points'], 'point')}, about {_node_time(told['node_h'])}"
    return amount if told["is_reached"] else f"{amount}, and the tolerance is not reached with them"


def _wrapped_lines(texts: Sequence[str], width: int) -> list[str]:
    return [textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False) for text in texts]


def _scopes_text(scopes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the two scopes of repeats cost, a line each."""
    shows = {"start": "intervals over server starts", "run": "intervals leave out what differs between starts"}
    costs = {scope: f"{_node_time(s['estimate_node_h'])}, ${s['estimate_usd']:.2f}" for scope, s in scopes.items()}
    return [
        f"repeat_scope={scope}: {counted(s['n_server_starts'], 'server start')}, {costs[scope]}: {shows[scope]}"
        for scope, s in scopes.items()
    ]


def settings_text(settings: Sequence[tuple[str, Sequence[str], str, str]]) -> str:
    """A row for each setting (name, values, origin, help), its help below it. Values that differ between arms are separated by ` | `."""
    rows = [(name, _cut(" | ".join(values)), origin) for name, values, origin, _ in settings]
    table = str(tabulate(rows, headers=("setting", "value", "origin"), tablefmt="plain", disable_numparse=True)).splitlines()
    lines = [table[0]]
    for line, (*_, help_) in zip(table[1:], settings, strict=True):
        lines += [line.rstrip(), *([f"    {help_}"] if help_ else [])]
    return "\n".join(printable(line) for line in lines)


def _cut(text: str) -> str:
    return text if len(text) <= MOST_OF_A_VALUE else f"{text[: MOST_OF_A_VALUE - 4]} ..."


def findings_text(findings: Sequence[Finding], heading: str = "") -> list[str]:
    """The lines of findings, below a heading if there are any."""
    lines = [printable(line) for finding in findings for line in finding.lines()]
    return ["", heading, *(f"  {line}" for line in lines)] if lines and heading else lines


def validations_text(validations: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each command that a parser looked at, and one for each flag that it refused."""
    lines = []
    for v in validations:
        if not v["version"]:
            said = f"NOT checked: {printable(v['lacks'])}" if v["lacks"] else "the simulated server takes every flag"
            lines.append(f"  {v['arm']}: {said}")
            continue
        lines.append(f"  {v['arm']}: {'REFUSED' if v['refused'] else 'taken'} by the parser of {v['version']} ({v['parser']})")
        if v["refused"] and v["version"] != v["written_for"]:
            lines.append(f"    the flags are named for {v['written_for']}: engine.version={v['version']} names them for this one")
        lines += [f"    {' '.join(r['words'])}, from {r['group'] or 'the engine'}: {printable(r['said'])}" for r in v["refused"]]
    return ["", "Server commands, parsed by the engine:", *lines] if lines else []


def images_text(images: Sequence[Mapping[str, Any]]) -> str:
    """A row an image."""
    rows = [
        {
            "image": i["image"],
            "file": i["file"].rpartition("/")[2],
            "GiB": f"{i['size_bytes'] / 2**30:,.2f}" if i["size_bytes"] is not None else "",
            "digest": i["oci_digest"][:19],
            "pinned": "yes" if i["pin"] else "no",
            "": "ok" if i["is_well"] else printable(i["said"]),
            "arms": len(i["arms"]),
        }
        for i in images
    ]
    return str(tabulate(rows, headers="keys", disable_numparse=True))


def _node_time(hours: float) -> str:
    return f"{hours:.1f} node-hours" if hours >= 0.1 else f"{hours * 60:.1f} node-minutes"


def duration(seconds: float) -> str:
    """`40 s`, `18 min`, `2.5 h`."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def status_text(record: Mapping[str, Any]) -> str:
    """Counts, live jobs, and every point that is not done with its reason."""
    counts = ", ".join(f"{n} {state}" for state, n in record["counts"].items())
    word = " (simulated)" if record["simulated"] else ""
    parts = [f"{record['campaign']}{word}: {counts}"]
    if record.get("slurm_answers") is False:
        why = printable(record.get("silence") or "Slurm does not answer")
        parts.append(f"  {why}. This status is from files; a job without a heartbeat is unknown, not over.")
    parts += [f"  job {job['job_id']}{_where(job)}: {doing(job)}" for job in record["jobs"]]
    parts += search_lines(record["search"]) if record.get("search") else []
    parts += [f"  {text}" for text in record.get("skipped", ())]
    told: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for point in record["points"]:
        if point["state"] in ("failed", "invalid") or (point["state"] == "missing" and point["message"]):
            why = point["failure_class"] or point["validity"] or "no message"
            told.setdefault((point["state"], point["arm"], f"{why}, {counted(point['attempts'], 'attempt')}", point["message"]), []).append(
                point
            )
    printed: set[str] = set()
    for (state, arm, why, message), points in told.items():
        concurrencies = ", ".join(dict.fromkeys(str(p["concurrency"]) for p in points))
        parts.append(f"  {state}: {arm} concurrency {concurrencies} ({why})")
        parts += [f"    {printable(line)}" for line in (["(the same message)"] if message in printed else message.splitlines())]
        printed.update([message] if message else [])
    return "\n".join(printable(line) for part in parts for line in part.splitlines())


def search_lines(search: Mapping[str, Any]) -> list[str]:
    """The claim of a search, and the state of each arm."""
    has_ended = all(arm["code"] for arm in search["arms"])
    word = "reached" if search["is_reached"] else "NOT reached" if has_ended else "goes on"
    spread = f"spread between starts {search['spread']:.1%}, {search['spread_source']}"
    if search["spread_used"] > 1.01 * search["spread"]:
        spread += f"; the points contradict it, so {search['spread_used']:.1%} is used"
    if search["limits"]:
        lines = [f"  search {word}: the largest concurrency with {search['limits']}; {spread}"]
        return lines + [f"    {arm['arm']}: {counted(arm['points'], 'point')}{_crossing(arm)}" for arm in search["arms"]]
    low, high = search["covered"] or (search["low_tok_s_user"], search["high_tok_s_user"])
    is_part = low > 1.01 * search["low_tok_s_user"] or high < 0.99 * search["high_tok_s_user"]
    rest = f" (of {search['low_tok_s_user']:g} to {search['high_tok_s_user']:g}; the rest is out of reach)" if is_part else ""
    band = f"{low:.3g} to {high:.3g} tok/s/user{rest}"
    known = "is not known yet" if search["claim"] is None else f"is known within {search['claim']:.1%}"
    more = search["expected"]
    needs = f"; expected from now on: {_expected(more)}" if more is not None and not has_ended else ""
    lines = [f"  search {word}: the cost from {band} {known}; tolerance {search['tolerance']:.1%}; {spread}{needs}"]
    for arm in search["arms"]:
        ended = f", ended ({arm['code']}): {arm['why']}" if arm["code"] else ""
        lines.append(f"    {arm['arm']}: {counted(arm['points'], 'point')}{ended}")
    return lines


def _crossing(arm: Mapping[str, Any]) -> str:
    found = arm["crossing"]
    if found is None:
        return ""
    good = f" ({arm['goodput_rps']:.2f} good req/s)" if arm["goodput_rps"] is not None else ""
    ends = f"; measured: {found['passes'] or 'none'} keeps the limits{good}, {found['fails'] or 'none'} does not"
    inside = f" (interval {found['low']:.1f} to {found['high']:.1f})" if found["estimate"] else ""
    about = f", about {found['estimate']:.1f}{inside}, limited by {found['binding']}" if found["estimate"] else ""
    return f"{about}{ends}" + (f"; ended ({arm['code']}): {arm['why']}" if arm["code"] and arm["code"] != "reached" else "")


def _where(job: Mapping[str, Any]) -> str:
    return f" on {job['node']}" if job["node"] else ""


def doing(job: Mapping[str, Any]) -> str:
    """What a job does now, in a few words."""
    slurm = f" ({job['slurm']})" if job["slurm"] and job["state"] == "queued" else ""
    said = f"; {job['said']}" if job["said"] else ""
    silent = f", no heartbeat for {job['beat_age_s']:.0f} s" if job["beat_age_s"] > SILENT_S else ""
    if job["state"] == "unknown":
        return "unknown: no answer from Slurm and no heartbeat from the job"
    if not job["node_job"]:
        return f"{job['phase']}{slurm}{silent}{said}"
    left = f", about {duration(job['left_s'])} of measuring left" if job["left_s"] >= 0 else ""
    suspended = "suspended by Slurm: " if job["slurm"].startswith("SUSPENDED") else ""
    return f"{suspended}{phase_of(job)}, {job['points_done']} of {counted(job['points'], 'point')} of {job['node_job']}{left}{silent}{said}"


def phase_of(job: Mapping[str, Any]) -> str:
    """`measuring 12/40 requests`, `loading`."""
    requests = f" {job['requests_done']}/{job['requests']} requests" if job["phase"] == "measuring" else ""
    doing = f": {job['doing']}" if job["doing"] else ""
    return f"{job['phase']}{doing}{requests}"


def resubmission_text(record: Mapping[str, Any], *, is_dry: bool) -> str:
    """What is sent again and what is not, a line for each reason."""
    sent, kept = Counter[str](), Counter[tuple[str, str]]()
    for p in record["points"]:
        if p["is_sent"]:
            sent[p["class"] or "never sent"] += 1
        else:
            kept[p["class"], p["why"]] += 1
    if not record["points"]:
        return "Nothing is missing: every point is done, or a live job has it."
    verb = "would be sent" if is_dry else "to send"
    parts = [f"{counted(n, 'point')} {verb}: {class_}" for class_, n in sent.items()]
    parts += [f"{counted(n, 'point')} not sent: {class_}: {why}" for (class_, why), n in kept.items()]
    jobs = [
        {
            "node job": job["node_job"],
            "points": job["points"],
            "not on": ",".join(job["exclude"]),
            "time": f"× {job['time_factor']:g}" if job["time_factor"] != 1 else "",
        }
        for job in record["jobs"]
    ]
    if jobs:
        parts += ["", tabulate(jobs, headers="keys", disable_numparse=True)]
    parts += [
        f"excluded: {node}, until {entry.get('until_utc', 'you remove it from nodes.json')}: {entry.get('why', 'entry in nodes.json')}"
        for node, entry in record["nodes_away"].items()
    ]
    return "\n".join(parts)
