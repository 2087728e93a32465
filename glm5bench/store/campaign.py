"""A campaign's directory: all its paths, and the records in it that are plain JSON.

    plan.json                    every node job with its points and keys, and how it was asked; written once
    points/<key>.<attempt>.h5    one whole measurement
    points/<key>.<attempt>.json  what became of the attempt
    submissions.jsonl            every job asked for and accepted
    jobs/<request>.json          one node job as it was sent, complete in itself
    jobs/<job id>/               heartbeat, a folder with facts and log for each server start
    jobs/submitit/               submitit's own: pickles, standard output and error of the jobs
State is read from these files and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BenchError, FileError
from .files import read_json, writable, write_json
from .pointfile import read_point
from .sealed import seal_of

ATTEMPT_FORMAT = 1
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

    @property
    def submissions(self) -> Path:
        """Every job asked for and accepted, a line each."""
        return self.root / "submissions.jsonl"

    @property
    def jobs(self) -> Path:
        """Requests, and a folder for each job."""
        return self.root / "jobs"

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
            return [n for n in os.listdir(self.points) if not n.startswith(".") and n.endswith((".h5", ".json"))]
        except FileNotFoundError:
            return []

    def write_plan(self, record: dict[str, Any]) -> None:
        """The plan's record. Raises EnvironmentLacks when the directory cannot be written."""
        write_json(self.plan, record)

    def read_plan(self) -> dict[str, Any]:
        """The plan's record. Raises FileError when there is none or it is damaged."""
        if not self.plan.is_file():
            raise FileError(
                "There is no campaign here: plan.json is missing.", path=str(self.root), next_step="name a directory under outputs/"
            )
        try:
            record = read_json(self.plan)
        except FileError as error:
            raise FileError(error.message, path=error.path, next_step=LOST_PLAN) from error
        if not isinstance(record, dict) or not isinstance(record.get("jobs"), list):
            raise FileError("plan.json is not one of glm5bench's.", path=str(self.plan), next_step=LOST_PLAN)
        return record

    def append_submission(self, line: dict[str, Any]) -> None:
        """One line more in submissions.jsonl, on disk when this returns."""
        with writable(self.submissions):
            self.root.mkdir(parents=True, exist_ok=True)
            with self.submissions.open("a+b") as file:
                cut = file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"  # a kill left half a line
                file.write((b"\n" if cut else b"") + json.dumps(line, sort_keys=True).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())

    def read_submissions(self) -> list[dict[str, Any]]:
        """Every whole line; a last one that a kill cut short is left out."""
        if not self.submissions.is_file():
            return []
        lines = []
        for text in self.submissions.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
        return lines

    def attempts(self, keys: Iterable[str]) -> dict[str, list[Attempt]]:
        """All attempts at these points, in order. A whole file whose record a kill prevented is judged from itself."""
        wanted: set[str] = set(keys)
        numbers: dict[tuple[str, int], set[str]] = {}
        for name in self._names():
            key, _, rest = name.partition(".")
            if key in wanted and rest.split(".")[0].isdigit():
                numbers.setdefault((key, _attempt_number(name)), set()).add(rest.rpartition(".")[2])
        found: dict[str, list[Attempt]] = {key: [] for key in wanted}
        for (key, number), kinds in sorted(numbers.items()):
            attempt = self._recorded(key, number) if "json" in kinds else self._judged(key, number)
            found[key].append(attempt)
        return found

    def _recorded(self, key: str, number: int) -> Attempt:
        try:
            r = read_json(self.attempt_file(key, number))
            if r["status"] == "whole" and not self._is_as_written(key, number, r):
                return Attempt(key, number, "failed", "", "lost", "the point's file is gone, or is not the one that was written")
            message = r.get("message", "") or "; ".join(f"{why['code']}: {why['text']}" for why in r.get("reasons", []))
            return Attempt(key, number, r["status"], r.get("validity", ""), r.get("class", ""), message)
        except (FileError, KeyError, TypeError, AttributeError):
            return self._judged(key, number)

    def _is_as_written(self, key: str, number: int, record: dict[str, Any]) -> bool:
        """Size and seal of the point's file are those of its record: cheap, and enough to notice another or a shorter file."""
        path = self.point_file(key, number)
        return path.is_file() and path.stat().st_size == record["size_bytes"] and seal_of(path) == record["seal"]

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


def _attempt_number(name: str) -> int:
    number = name.split(".")[1]
    return int(number) if number.isdigit() else 0
