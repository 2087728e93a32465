"""A campaign's directory: all its paths, and its records in plain JSON.

    plan.json                    every node job with its points and keys, and the command's settings; written once
    points/<key>.<attempt>.h5    one complete measurement
    points/<key>.<attempt>.json  the outcome of the attempt
    search/<arm>.jsonl           the decisions of an arm's search
    submissions.jsonl            every job that was requested, and that Slurm accepted
    jobs/<request>.json          one node job as it was submitted; self-contained
    jobs/<job id>/               heartbeat, and a folder with facts and log for each server start
    jobs/<job id>/unread/        measurements whose server's counters and settings are not read yet
    jobs/submitit/               submitit's own files: pickles, standard output and error of the jobs

All state is read from these files only.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .archive.measurement import Measurement
from .archive.pointfile import read_point
from .archive.sealed import seal_of
from .errors import BenchError, FileError
from .files import Taken, place_new, read_json, read_text, writable, write_json, write_whole
from .values.search import with_decided

ATTEMPT_FORMAT = 1
IN_LIST = ("key", "attempt", "status", "validity", "class", "message", "reasons", "node", "job_id", "seal", "size_bytes", "mtime_ns")
LIST_FROM = 64  # keys; for fewer keys, each point's own file is read
LOST_SEARCH = "move the damaged file of search/ away and run the same sweep again: measured points are kept"
LOST_PLAN = "remove it and run the same sweep again: measured points are found by their keys"


@dataclass(frozen=True)
class Attempt:
    """The outcome of one attempt to measure a point."""

    key: str
    attempt: int
    status: str  # whole or failed
    validity: str  # if whole
    failure_class: str  # if failed
    message: str
    job_id: str = ""
    node: str = ""

    @property
    def is_done(self) -> bool:
        """Whether the point needs no further attempt."""
        return self.status == "whole" and self.validity != "invalid"


@dataclass(frozen=True)
class Campaign:
    """The paths of one campaign's directory."""

    root: Path

    @property
    def plan(self) -> Path:
        """The plan, written once."""
        return self.root / "plan.json"

    @property
    def points(self) -> Path:
        """The folder of complete measurements and of every attempt's outcome."""
        return self.root / "points"

    @functools.cached_property
    def _points(self) -> str:
        return str(self.points)

    @property
    def submissions(self) -> Path:
        """The file with one line for every job that was requested, and one for every job that was accepted."""
        return self.root / "submissions.jsonl"

    @property
    def jobs(self) -> Path:
        """The folder of submitted node jobs, and of one folder for each job."""
        return self.root / "jobs"

    @property
    def submitit(self) -> Path:
        """Submitit's own folder: pickles, scripts, standard output and error of the jobs."""
        return self.jobs / "submitit"

    @property
    def archive(self) -> Path:
        """The campaign's archive. It is derived from the points and can be deleted."""
        return self.root / "archive.h5"

    def job(self, job_id: str) -> Path:
        """The folder of one job."""
        return self.jobs / job_id

    def heartbeat(self, job_id: str) -> Path:
        """The file that a running job updates to show that it is alive."""
        return self.job(job_id) / "heartbeat.json"

    def started(self, job_id: str) -> tuple[str, float]:
        """The node where a Slurm job's batch script last started, and the time by that node's clock; "" and 0 if it has not started."""
        try:
            node, seconds = read_text(self.job(job_id) / "started", most=4096).split()
            return node, float(seconds)
        except (OSError, ValueError):
            return "", 0.0

    def ended(self, job_id: str) -> Path:
        """The report that a job writes when it ends."""
        return self.job(job_id) / "ended.json"

    def unread(self, job_id: str, key: str) -> Path:
        """A measurement whose server's counters and settings are not read yet. It is removed once the complete one is written."""
        return self.job(job_id) / "unread" / f"{key}.h5"

    def adopt(self, keys: Iterable[str], is_alive: Callable[[str], bool]) -> list[str]:
        """The keys of the unread measurements that it turned into attempts, because their jobs have ended. Damaged files stay in place.

        An unread measurement is removed if its complete measurement was written before the job ended.
        """
        wanted, adopted = set(keys), []
        for path in sorted(self.jobs.glob("*/unread/*.h5")):
            if path.stem not in wanted or is_alive(path.parent.parent.name):
                continue
            with contextlib.suppress(BenchError, OSError):
                m, _ = read_point(path)
                if m.key == path.stem and self._has_run(m):
                    path.unlink()
                elif m.key == path.stem:
                    self._placed(path, m.key)
                    adopted.append(m.key)
        return adopted

    def _has_run(self, unread: Measurement) -> bool:
        """Whether an attempt exists from the same run: the same job and the same start time."""
        for path in self.points.glob(f"{unread.key}.*.h5"):
            with contextlib.suppress(BenchError):
                told = read_point(path)[0].provenance
                if all(told.get(name) == unread.provenance.get(name) for name in ("job_id", "start_utc", "start_monotonic_ns")):
                    return True
        return False

    def _placed(self, path: Path, key: str) -> None:
        self.points.mkdir(parents=True, exist_ok=True)
        while True:
            with contextlib.suppress(Taken):
                place_new(path, self.point_file(key, self.next_attempt(key)))
                path.unlink(missing_ok=True)
                return

    @property
    def search(self) -> Path:
        """The folder with the decisions of searches: one file per arm."""
        return self.root / "search"

    def decisions(self, arm: str) -> list[dict[str, Any]]:
        """The decisions of an arm's search, in order."""
        return read_lines(self.search / f"{Path(arm).name}.jsonl")

    def append_decision(self, arm: str, line: dict[str, Any]) -> None:
        """Records a decision; it is on disk when this returns. Raises EnvironmentLacks if it cannot be written."""
        append_line(self.search / f"{arm}.jsonl", line)

    def with_decisions(self, record: dict[str, Any]) -> dict[str, Any]:
        """The plan's record with the points that searches have decided, and without those that they or `stop_when` left out."""
        try:
            jobs = [with_decided(job, self.decisions(job["id"])) for job in record["jobs"]] if self.search.is_dir() else record["jobs"]
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            damage = f"plan.json or a record of search/ is damaged: {type(error).__name__} {error}."
            raise FileError(damage, path=str(self.search), next_step=LOST_SEARCH) from error
        return {**record, "jobs": jobs}

    @property
    def nodes(self) -> Path:
        """The excluded nodes, with the reason and the end of each exclusion."""
        return self.root / "nodes.json"

    def point_file(self, key: str, attempt: int) -> Path:
        """The measurement of an attempt."""
        return self.points / f"{key}.{attempt}.h5"

    def attempt_file(self, key: str, attempt: int) -> Path:
        """The outcome of an attempt."""
        return self.points / f"{key}.{attempt}.json"

    def next_attempt(self, key: str) -> int:
        """The number of the next attempt for this point."""
        taken = [_attempt_number(name) for name in self._names() if name.startswith(f"{key}.")]
        return 1 + max(taken, default=0)

    def _names(self) -> list[str]:
        try:
            return [n for n in os.listdir(self.points) if n[0] != "." and n.endswith((".h5", ".json")) and n.count(".") >= 2]
        except FileNotFoundError:
            return []

    def write_plan(self, record: dict[str, Any]) -> None:
        """Writes the plan's record. Raises EnvironmentLacks if the directory cannot be written."""
        write_json(self.plan, record)

    def write_text(self, path: Path, text: str) -> None:
        """Writes a text file in the campaign's directory, complete or not at all."""
        write_whole(path, lambda beside: _written(beside, text))

    def read_plan(self) -> dict[str, Any]:
        """The plan's record. Raises FileError if it is missing or damaged."""
        if not self.root.is_dir():
            near = difflib.get_close_matches(self.root.name, [p.parent.name for p in Path("outputs").glob("*/plan.json")], n=1)
            step = f"did you mean outputs/{near[0]}?" if near else "campaigns are in outputs/"
            raise FileError("This directory does not exist.", path=str(self.root), next_step=step)
        if not self.plan.is_file():
            step = "name a directory under outputs/"
            step = "run the same command with `sweep`: so far it is only planned" if (self.root / "sbatch").is_dir() else step
            step = LOST_PLAN if self.submissions.is_file() else step
            raise FileError("This is not a campaign directory: plan.json is missing.", path=str(self.root), next_step=step)
        try:
            record = read_json(self.plan)
        except FileError as error:
            raise FileError(error.message, path=error.path, next_step=LOST_PLAN) from error
        if not isinstance(record, dict) or not isinstance(record.get("jobs"), list):
            raise FileError("plan.json was not written by glm5bench.", path=str(self.plan), next_step=LOST_PLAN)
        return record

    def append_submission(self, line: dict[str, Any]) -> None:
        """Appends one line to submissions.jsonl; it is on disk when this returns."""
        append_line(self.submissions, line)

    def append_attempt(self, job_id: str, record: dict[str, Any]) -> None:
        """Appends an attempt's short record to its job's list: `status` reads one list per job instead of one file per point."""
        append_line(self.job(job_id) / "attempts.jsonl", {name: record[name] for name in IN_LIST if name in record})

    def read_submissions(self) -> list[dict[str, Any]]:
        """Every complete line; a last line that a kill cut short is skipped."""
        return read_lines(self.submissions)

    def attempts(self, keys: Iterable[str]) -> dict[str, list[Attempt]]:
        """All attempts for these points, in order. A measurement without a record (after a kill) is judged from its own file."""
        found: dict[str, list[Attempt]] = {key: [] for key in keys}
        recorded: dict[tuple[str, int], bool] = {}  # has a .json
        for name in self._names():
            key, number, *_, kind = name.split(".")
            if key in found and number.isdigit():
                attempt = (key, int(number))
                recorded[attempt] = kind == "json" or recorded.get(attempt, False)
        listed = self._listed() if len(found) >= LIST_FROM else {}
        for (key, n), has_record in sorted(recorded.items()):
            found[key].append(self._attempt(key, n, listed.get((key, n))) if has_record else self._judged(key, n))
        return found

    def _listed(self) -> dict[tuple[str, int], dict[str, Any]]:
        """The attempts in the lists of all jobs."""
        records = (r for path in self.jobs.glob("*/attempts.jsonl") for r in read_lines(path))
        return {(r["key"], r["attempt"]): r for r in records if isinstance(r, dict) and _is_listed(r)}

    def _attempt(self, key: str, number: int, listed: dict[str, Any] | None) -> Attempt:
        try:
            r = listed or read_json(self.attempt_file(key, number))
            if r.get("key", key) != key:
                return Attempt(key, number, "failed", "", "lost", f"the record is that of point {str(r['key'])[:40]}, under another name")
            if r["status"] == "whole" and not self._is_as_written(key, number, r):
                gone = "the point's file is missing, or was changed after it was written"
                return Attempt(key, number, "failed", "", "lost", gone, r.get("job_id", ""), r.get("node", ""))
            message = r.get("message", "") or "; ".join(f"{why['code']}: {why['text']}" for why in r.get("reasons", []))
            return Attempt(
                key, number, r["status"], r.get("validity", ""), r.get("class", ""), message, r.get("job_id", ""), r.get("node", "")
            )
        except (FileError, KeyError, TypeError, AttributeError):
            return self._judged(key, number)

    def _is_as_written(self, key: str, number: int, record: dict[str, Any]) -> bool:
        """Whether size and time, or size and seal, of the point's file match its record. This detects a replaced or shortened file."""
        try:
            is_now = os.stat(f"{self._points}/{key}.{number}.h5")  # not a Path: a hundred thousand of them take a second
        except OSError:
            return False
        if is_now.st_size != record["size_bytes"]:
            return False
        return is_now.st_mtime_ns == record.get("mtime_ns") or seal_of(self.point_file(key, number)) == record["seal"]

    def _judged(self, key: str, number: int) -> Attempt:
        try:
            m = read_point(self.point_file(key, number))[0]
            if m.key != key:
                return Attempt(key, number, "failed", "", "lost", f"the file contains point {m.key}, under another name")
            verdict = m.verdict()
        except BenchError as error:
            return Attempt(key, number, "failed", "", "lost", error.message)
        except (KeyError, TypeError, ValueError) as error:
            return Attempt(key, number, "failed", "", "lost", f"the point's file has a missing or invalid field: {error}")
        return Attempt(key, number, "whole", verdict.validity, "", "; ".join(f"{why.code}: {why.text}" for why in verdict.reasons))

    def done(self, keys: Iterable[str]) -> set[str]:
        """The keys of points that need no further attempt."""
        return {key for key, attempts in self.attempts(keys).items() if any(a.is_done for a in attempts)}


def _written(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def lane_ids(job_id: str, lanes: int) -> list[str]:
    """The folder names of all lanes of a job, given any one of them: 12, 12.1, 12.2."""
    job = job_id.partition(".")[0]
    return [job, *(f"{job}.{lane}" for lane in range(1, lanes))]


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Appends one JSON line; it is on disk when this returns. Raises EnvironmentLacks if it cannot be written."""
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            cut = file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"  # a kill left half a line
            file.write((b"\n" if cut else b"") + json.dumps(value, sort_keys=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def read_lines(path: Path) -> list[Any]:
    """Every complete line of a file of JSON lines; none if the file does not exist."""
    try:
        text = read_text(path, errors="replace")
    except (OSError, ValueError):
        return []
    lines = []
    for line in text.split("\n"):
        try:
            lines.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return lines


def _is_listed(record: dict[str, Any]) -> bool:
    return isinstance(record.get("key"), str) and isinstance(record.get("attempt"), int)


def _attempt_number(name: str) -> int:
    number = name.split(".")[1]
    return int(number) if number.isdigit() else 0
