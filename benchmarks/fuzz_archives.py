"""Tests the readers with a hundred thousand damaged and hostile files.

python benchmarks/fuzz_archives.py [N] [--jobs 2] [--begin 0]

Real files (points and archives of every format) are mutated, from fixed seeds. Half of the mutated files keep their seal, so that the seal
shows the damage. The other half get a matching seal, so that libhdf5 and the readers see what an attacker could have written. Each file
is surveyed for tables, surveyed for a merge, and decoded. Some of the accepted files are also merged. The exit code is 1 if a reader
returned content that was not measured, or raised an error other than FileError.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import xxhash

from glm5bench.archive import checking, collection, reading, union
from glm5bench.archive.collection import collect
from glm5bench.archive.contents import Survey
from glm5bench.archive.decoding import measurements
from glm5bench.archive.reading import Readers
from glm5bench.archive.sealed import BLOCK, MAGIC, STRUCTURE, _block, _structure_digest
from glm5bench.archive.stored import verify
from glm5bench.archive.summary import rows
from glm5bench.archive.survey import survey
from glm5bench.archive.union import merge
from glm5bench.errors import FileError, UsageError

PAST = Path(__file__).resolve().parent.parent / "tests" / "data" / "format2"
SECONDS = 60.0  # per batch, which normally takes less than one second
PROCESSOR_S = 2.0
BATCH = 10
WEIGHTS = {"point": 40, "archive": 2, "summary": 1}  # point files are small and quick to read
MERGED = 0.05  # share of the accepted files
EXTREMES = (0, 1, -1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, -(2**63), 255, 4096, 65536, 2**40)
FORBIDDEN = ("other content", "other figures, unseen by check", "sealed by nobody and other figures", "escaped")


@dataclass(frozen=True)
class Original:
    """A file before mutation, and the summaries of its points."""

    name: str
    content: bytes
    summaries: dict[str, dict[str, Any]]  # digest -> summary


def originals(folder: Path) -> list[Original]:
    """A point, an archive, and an archive without raw times."""
    shutil.copy(PAST / "point.h5", folder / "point.h5")
    shutil.copy(PAST / "archive.h5", folder / "archive.h5")
    merge([str(PAST / "archive.h5")], folder / "summary.h5", is_raw_kept=False)
    return [_original(path) for path in sorted(folder.glob("*.h5"))]


def _original(path: Path) -> Original:
    found = survey(path)
    told = [found.values(i) for i in range(found.n)]
    return Original(path.stem, path.read_bytes(), {values["digest"]: values for values in told})


def mutated(number: int, all_: list[Original]) -> tuple[Original, str, bool, bytes]:
    """The file with this number: its original, the kind of mutation, whether its seal matches, and its content."""
    r = random.Random(number)
    of, is_resealed = r.choices(all_, [WEIGHTS[o.name] for o in all_])[0], r.random() < 0.5
    kind = r.choice(("flip", "run", "truncate", "splice", "swap", "extreme", "extreme", "text"))
    content = bytearray(of.content)
    for _ in range(r.choice((1, 1, 1, 2, 4))):
        _mutate(content, kind, r, all_)
    return of, kind, is_resealed, resealed(content) if is_resealed else bytes(content)


def _mutate(content: bytearray, kind: str, r: random.Random, all_: list[Original]) -> None:
    at = _place(content, r)
    length = min(r.choice((1, 2, 4, 8, 64, 512, 4096)), len(content) - at)
    if kind == "flip":
        for _ in range(r.choice((1, 1, 2, 8))):
            content[_place(content, r)] ^= 1 << r.randrange(8)
    elif kind == "run":
        content[at : at + length] = r.choice((bytes(length), b"\xff" * length, r.randbytes(length)))
    elif kind == "truncate":
        del content[max(at, 1) :]
    elif kind == "splice":
        other = r.choice(all_).content
        begin = r.choice((at, r.randrange(len(other))))
        piece = other[begin : begin + r.choice((length, 8 * length))]
        content[at : at + len(piece)] = piece
    elif kind == "swap":
        to = _place(content, r)
        a, b = bytes(content[at : at + length]), bytes(content[to : to + length])
        content[at : at + len(b)], content[to : to + len(a)] = b, a
    elif kind == "extreme":
        value, width = r.choice((*EXTREMES, len(content))), r.choice((8, 8, 4, 2))
        content[at // 8 * 8 : at // 8 * 8 + width] = (value % 256**width).to_bytes(width, "little")
    elif digits := [i for i in range(at, min(at + 2000, len(content))) if chr(content[i]).isdigit()]:
        content[r.choice(digits)] = ord(r.choice('0123456789-e."N'))


def _place(content: bytearray, r: random.Random) -> int:
    """A position in the file, usually of a byte that is not zero."""
    for _ in range(20):
        at = r.randrange(len(content))
        if content[at] and (at >= BLOCK or r.random() < 0.1):
            return at
    return r.randrange(len(content))


def resealed(content: bytearray) -> bytes:
    """The content with a matching seal."""
    line = bytes(content[:BLOCK]).split(b"\n")[0]
    if line.startswith(STRUCTURE):
        words = line[len(STRUCTURE) :].split(b" ")
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            try:
                end, n = int(words[1]), int(words[2])
                ranges = bytes(content[end : end + 16 * n])
                edges = np.frombuffer(ranges, "<i8")
                is_inside = ((edges >= 0) & (edges <= len(content))).all()
                digest = _structure_digest(file.fileno(), ranges) if is_inside else ""
            except (ValueError, IndexError, OSError, OverflowError):
                digest = ""
        if digest:
            return _block(STRUCTURE + f"{digest} {end} {n}".encode()) + bytes(content[BLOCK:])
    body = bytes(content[BLOCK:])
    words = bytes(content[:BLOCK]).split(b"\n")[0].split(b" ")
    place = b" ".join(words[3:5]) if len(words) == 6 else b""  # position of a point file's summary
    more = b" " + place + b" " + xxhash.xxh3_128_hexdigest(body).encode() if place else b""
    return _block(MAGIC + hashlib.sha256(body).hexdigest().encode() + more)[:BLOCK] + body


class Inline:
    """Replaces Readers and reads in this process, because it is already a reader."""

    def __init__(self, read: Any, path_of: Any, *, jobs: int = 1) -> None:
        self._read = read

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def map(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        for task in tasks:
            try:
                yield task, self._read(task)
            except FileError as error:
                yield task, error


@dataclass(frozen=True)
class Task:
    """The mutations with these numbers."""

    begin: int
    end: int


class Fuzz:
    """What a reader does with a task, and the outcome for each file."""

    def __init__(self, folder: Path, all_: list[Original]) -> None:
        self.folder, self.originals = folder, all_

    def note(self, task: Task) -> Path:
        """The file in which a reader stores its current number."""
        return self.folder / f"at.{task.end}"

    def read(self, task: Task) -> tuple[collections.Counter[tuple[str, str]], list[str], int]:
        """The number of each outcome, lines about forbidden outcomes, and the peak memory of this process in KiB."""
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        told = []
        for number in range(task.begin, task.end):
            self.note(task).write_text(str(number))
            of, kind, is_resealed, content = mutated(number, self.originals)
            family = "resealed" if is_resealed else "as it is"
            path = self.folder / f"{os.getpid()}.h5"
            path.write_bytes(content)
            try:
                outcome = self.outcome(path, of, random.Random(-number), is_resealed=is_resealed)
            except MemoryError:
                outcome = "refused: memory"
            except Exception as error:
                outcome = "escaped"
                where = traceback.extract_tb(error.__traceback__)[-1]
                told.append(f"{number} {of.name} {kind}: {error!r} at {Path(where.filename).name}:{where.lineno}")
            if outcome in FORBIDDEN and outcome != "escaped":
                told.append(f"{number} {of.name} {kind}: {outcome}")
            counts[family, outcome] += 1
        return counts, told, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def outcome(self, path: Path, of: Original, r: random.Random, *, is_resealed: bool) -> str:
        """The outcome for one file."""
        scratch = self.folder / f"{os.getpid()}.d"
        scratch.mkdir(exist_ok=True)
        refused = 0
        surveys: list[Survey] = []
        for at in (None, scratch):
            try:
                surveys.append(survey(path, scratch=at))
            except FileError:
                refused += 1
        changed = self.changed(surveys, of)
        try:
            found = list(measurements(path)) if surveys or is_resealed else []
        except FileError:
            found = []
        decoded = [each for each in found if not isinstance(each, FileError)]
        if any(digest not in of.summaries for m, _, digest in decoded if m is not None):
            return "other content"
        if surveys and r.random() < MERGED:
            self.merged(path)
        for rewritten in scratch.iterdir():
            rewritten.unlink()
        if refused == 2:
            return "refused"
        if not changed:
            return "accepted in part" if refused or any(s.bad for s in surveys) else "accepted, the same"
        if not is_resealed:
            return "sealed by nobody and other figures"
        return self.seen_by_check(path, surveys, changed)

    def changed(self, surveys: list[Survey], of: Original) -> set[str]:
        """Digests of points whose figures differ from the original. Uses the surveys as a merge and a table do in the main process."""
        changed = set()
        for found in surveys:
            rows(found.summaries, "x")
            found.source_tables()
            for i in range(found.n):
                values = found.values(i)
                original = of.summaries.get(values["digest"])
                if original is None or any(not _is_same(values[name], original[name]) for name in original):
                    changed.add(values["digest"])
        for found in surveys:
            if found.stored is not None and not found.is_verified:
                for i in range(found.n):
                    try:
                        verify(found.path, found.stored.checks(i), "x")
                    except FileError:
                        continue
        return changed

    def seen_by_check(self, path: Path, surveys: list[Survey], changed: set[str]) -> str:
        """Whether `check` reports every point whose figures were changed."""
        with mock.patch.object(checking, "Readers", Inline), mock.patch.object(collection, "Readers", Inline):
            found = checking.check([str(path)])
        good = {p.values["digest"] for p in found.points.values() if p.is_whole and not p.differing}
        if changed & good:
            return "other figures, unseen by check"
        return "other figures, named by check" if any(all(s.is_whole) for s in surveys) else "other figures of a summary alone"

    def merged(self, path: Path) -> None:
        """Merges an accepted file. Raises AssertionError if the archive has another digest than the merge reported."""
        output = self.folder / f"{os.getpid()}.merged.h5"
        output.unlink(missing_ok=True)
        with mock.patch.object(union, "Readers", Inline), mock.patch.object(collection, "Readers", Inline):
            try:
                done = merge([str(path)], output)
            except (FileError, UsageError):
                return
            again = collect([str(output)])
        if again.digest() != done.digest or again.bad:
            raise AssertionError("the archive has another digest than the merge reported, or is damaged")


def _is_same(a: Any, b: Any) -> bool:
    return a == b or (isinstance(b, float) and checking.is_close(a, b))


def main() -> int:
    """Runs the mutations and prints the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("n", type=int, nargs="?", default=100_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--begin", type=int, default=0)
    asked = parser.parse_args()
    np.seterr(all="ignore")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        (Path(name) / "originals").mkdir()
        fuzz = Fuzz(Path(name), originals(Path(name) / "originals"))
        for o in fuzz.originals:
            print(f"{o.name}: {len(o.content):,} bytes, {len(o.summaries)} points", flush=True)
        counts, told, peak = run(fuzz, asked.begin, asked.begin + asked.n, asked.jobs)
    for (family, outcome), n in sorted(counts.items()):
        print(f"{family:9} {outcome:40} {n:8,}")
    for line in told[:40]:
        print(line)
    print(f"{asked.n:,} mutations in {time.monotonic() - began:.0f} s; peak memory of a reader {peak / 1024:.0f} MiB")
    return 1 if any(outcome in FORBIDDEN for _, outcome in counts) else 0


def run(fuzz: Fuzz, begin: int, end: int, jobs: int) -> tuple[collections.Counter[tuple[str, str]], list[str], int]:
    """Runs all mutations. A crashed reader counts as an outcome, and another reader takes the rest of its batch."""
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    told: list[str] = []
    peak = 0
    tasks = [Task(i, min(i + BATCH, end)) for i in range(begin, end, BATCH)]
    with mock.patch.object(reading, "SECONDS", SECONDS), mock.patch.object(reading, "PROCESSOR_S", PROCESSOR_S):
        while tasks:
            left = []
            with Readers(fuzz.read, fuzz.note, jobs=jobs) as readers:
                for task, result in readers.map(tasks):
                    if not isinstance(result, FileError):
                        counts += result[0]
                        told += result[1]
                        peak = max(peak, result[2])
                        continue
                    at = int(fuzz.note(task).read_text())
                    of, kind, is_resealed, _ = mutated(at, fuzz.originals)
                    what = "crash, contained"
                    if result.message == reading.TOO_LONG:
                        what = "hang, ended after its time"
                    counts["resealed" if is_resealed else "as it is", what] += 1
                    print(f"{at} {of.name} {kind}: {result.message}", flush=True)
                    left += [Task(task.begin, at)] * (at > task.begin) + [Task(at + 1, task.end)] * (at + 1 < task.end)
            tasks = left
    return counts, told, peak


if __name__ == "__main__":
    sys.exit(main())
