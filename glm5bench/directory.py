"""A campaign's directory: all its paths, and the records in it that are plain JSON.

    plan.json                    every node job with its points and keys, and how it was asked; written once
    points/<key>.<attempt>.h5    one whole measurement
    points/<key>.<attempt>.json  what became of the attempt
    submissions.jsonl            every job asked for and accepted
    jobs/<request>.json          one node job as it was sent, complete in itself
    jobs/<job id>/               heartbeat, a folder with facts and log for each server start
    jobs/<job id>/unread/        a measurement while its server is asked what became of it
    jobs/submitit/               submitit's own: pickles, standard output and error of the jobs
State is read from these files and nothing else.
"""

from __future__ import annotations

import contextlib
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
from .files import Taken, place_new, read_json, writable, write_json, write_whole

ATTEMPT_FORMAT = 1
IN_LIST = ("key", "attempt", "status", "validity", "class", "message", "reasons", "node", "job_id", "seal", "size_bytes", "mtime_ns")
LIST_FROM = 64  # keys; for fewer their own files are read
LOST_PLAN = "remove it and type the same sweep again: measured points are found by their keys"


@dataclass(frozen=True)
class Attempt:
    """What became of one attempt at a point."""

    key: str
    attempt: int
    status: str  # whole or failed
    validity: str  # of a whole one
    failure_class: str  # of a failed one
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
        """Whole measurements, and what became of every attempt."""
        return self.root / "points"

    @functools.cached_property
    def _points(self) -> str:
        return str(self.points)

    @property
    def submissions(self) -> Path:
        """Every job asked for and accepted, a line each."""
        return self.root / "submissions.jsonl"

    @property
    def jobs(self) -> Path:
        """Requests, and a folder for each job."""
        return self.root / "jobs"

    @property
    def submitit(self) -> Path:
        """Submitit's own folder: pickles, scripts, standard output and error of the jobs."""
        return self.jobs / "submitit"

    @property
    def archive(self) -> Path:
        """Derived; delete at will."""
        return self.root / "archive.h5"

    def job(self, job_id: str) -> Path:
        """The folder of one job."""
        return self.jobs / job_id

    def heartbeat(self, job_id: str) -> Path:
        """Where a running job says that it lives."""
        return self.job(job_id) / "heartbeat.json"

    def started(self, job_id: str) -> tuple[str, float]:
        """The node on which a Slurm job's batch script last began, and when by its clock; "" and 0 where it has not."""
        try:
            node, seconds = (self.job(job_id) / "started").read_text(encoding="utf-8").split()
            return node, float(seconds)
        except (OSError, ValueError):
            return "", 0.0

    def ended(self, job_id: str) -> Path:
        """What a job said when it ended."""
        return self.job(job_id) / "ended.json"

    def unread(self, job_id: str, key: str) -> Path:
        """A measurement whose server was not yet asked what became of it; gone as soon as the whole one is written."""
        return self.job(job_id) / "unread" / f"{key}.h5"

    def adopt(self, keys: Iterable[str], is_alive: Callable[[str], bool]) -> list[str]:
        """Makes the unread measurements of jobs that have ended attempts of their own, and returns their keys. Damaged ones stay.

        One whose whole measurement was written before its job ended is removed.
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
        """Whether an attempt is of the same run: of the same job, from the same instant on."""
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
    def nodes(self) -> Path:
        """Nodes to stay away from, why, until when."""
        return self.root / "nodes.json"

    def point_file(self, key: str, attempt: int) -> Path:
        """The measurement of an attempt."""
        return self.points / f"{key}.{attempt}.h5"

    def attempt_file(self, key: str, attempt: int) -> Path:
        """What became of an attempt."""
        return self.points / f"{key}.{attempt}.json"

    def next_attempt(self, key: str) -> int:
        """The number of the next attempt at this point."""
        taken = [_attempt_number(name) for name in self._names() if name.startswith(f"{key}.")]
        return 1 + max(taken, default=0)

    def _names(self) -> list[str]:
        try:
            return [n for n in os.listdir(self.points) if n[0] != "." and n.endswith((".h5", ".json")) and n.count(".") >= 2]
        except FileNotFoundError:
            return []

    def write_plan(self, record: dict[str, Any]) -> None:
        """The plan's record. Raises EnvironmentLacks when the directory cannot be written."""
        write_json(self.plan, record)

    def write_text(self, path: Path, text: str) -> None:
        """A text file in the campaign's directory, whole or absent."""
        write_whole(path, lambda beside: _written(beside, text))

    def read_plan(self) -> dict[str, Any]:
        """The plan's record. Raises FileError when there is none or it is damaged."""
        if not self.plan.is_file():
            step = "name a directory under outputs/"
            step = "type the same as `sweep`: so far it is only planned" if (self.root / "sbatch").is_dir() else step
            step = LOST_PLAN if self.submissions.is_file() else step
            raise FileError("There is no campaign here: plan.json is missing.", path=str(self.root), next_step=step)
        try:
            record = read_json(self.plan)
        except FileError as error:
            raise FileError(error.message, path=error.path, next_step=LOST_PLAN) from error
        if not isinstance(record, dict) or not isinstance(record.get("jobs"), list):
            raise FileError("plan.json is not one of glm5bench's.", path=str(self.plan), next_step=LOST_PLAN)
        return record

    def append_submission(self, line: dict[str, Any]) -> None:
        """One line more in submissions.jsonl, on disk when this returns."""
        append_line(self.submissions, line)

    def append_attempt(self, job_id: str, record: dict[str, Any]) -> None:
        """The short form of an attempt's record, in a list of its job's own: status reads one list a job in place of a file a point."""
        append_line(self.job(job_id) / "attempts.jsonl", {name: record[name] for name in IN_LIST if name in record})

    def read_submissions(self) -> list[dict[str, Any]]:
        """Every whole line; a last one that a kill cut short is left out."""
        return read_lines(self.submissions)

    def attempts(self, keys: Iterable[str]) -> dict[str, list[Attempt]]:
        """All attempts at these points, in order. A whole file whose record a kill prevented is judged from itself."""
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
        """The lists of all jobs."""
        records = (r for path in self.jobs.glob("*/attempts.jsonl") for r in read_lines(path))
        return {(r["key"], r["attempt"]): r for r in records if isinstance(r, dict) and _is_listed(r)}

    def _attempt(self, key: str, number: int, listed: dict[str, Any] | None) -> Attempt:
        try:
            r = listed or read_json(self.attempt_file(key, number))
            if r["status"] == "whole" and not self._is_as_written(key, number, r):
                gone = "the point's file is gone, or is not the one that was written"
                return Attempt(key, number, "failed", "", "lost", gone, r.get("job_id", ""), r.get("node", ""))
            message = r.get("message", "") or "; ".join(f"{why['code']}: {why['text']}" for why in r.get("reasons", []))
            return Attempt(
                key, number, r["status"], r.get("validity", ""), r.get("class", ""), message, r.get("job_id", ""), r.get("node", "")
            )
        except (FileError, KeyError, TypeError, AttributeError):
            return self._judged(key, number)

    def _is_as_written(self, key: str, number: int, record: dict[str, Any]) -> bool:
        """Size and time, or size and seal, of the point's file are those of its record: enough to notice another or a shorter file."""
        try:
            is_now = os.stat(f"{self._points}/{key}.{number}.h5")  # a hundred thousand Paths take a second
        except OSError:
            return False
        if is_now.st_size != record["size_bytes"]:
            return False
        return is_now.st_mtime_ns == record.get("mtime_ns") or seal_of(self.point_file(key, number)) == record["seal"]

    def _judged(self, key: str, number: int) -> Attempt:
        try:
            verdict = read_point(self.point_file(key, number))[0].verdict()
        except BenchError as error:
            return Attempt(key, number, "failed", "", "lost", error.message)
        except (KeyError, TypeError, ValueError) as error:
            return Attempt(key, number, "failed", "", "lost", f"the point lacks or garbles {error}")
        return Attempt(key, number, "whole", verdict.validity, "", "; ".join(f"{why.code}: {why.text}" for why in verdict.reasons))

    def done(self, keys: Iterable[str]) -> set[str]:
        """The keys that need no further attempt."""
        return {key for key, attempts in self.attempts(keys).items() if any(a.is_done for a in attempts)}


def _written(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def lane_ids(job_id: str, lanes: int) -> list[str]:
    """The folders' names of all lanes of the job that one of them is: 12, 12.1, 12.2."""
    job = job_id.partition(".")[0]
    return [job, *(f"{job}.{lane}" for lane in range(1, lanes))]


def append_line(path: Path, value: dict[str, Any]) -> None:
    """One JSON line more, on disk when this returns. Raises EnvironmentLacks where it cannot be written."""
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            cut = file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"  # a kill left half a line
            file.write((b"\n" if cut else b"") + json.dumps(value, sort_keys=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def read_lines(path: Path) -> list[Any]:
    """Every whole line of a file of JSON lines; none where there is no file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def _is_listed(record: dict[str, Any]) -> bool:
    return isinstance(record.get("key"), str) and isinstance(record.get("attempt"), int)


def _attempt_number(name: str) -> int:
    number = name.split(".")[1]
    return int(number) if number.isdigit() else 0
