"""A merge may be killed, fail on the disk, or be overtaken at any moment. The result is the old archive or the complete new one."""

import contextlib
import errno
import hashlib
import multiprocessing
import os
import shutil
import subprocess
import sys

import h5py
import pytest
from conftest import measured
from faultpoints import calls_of, fault_points, killed_at, refused_at
from program import ROOT, environment, required

from glm5bench.archive import moving, stored, survey, tasks, union
from glm5bench.archive.checking import check
from glm5bench.archive.collection import collect
from glm5bench.archive.pointfile import read_point, write_point
from glm5bench.archive.raw import TABLES
from glm5bench.archive.union import merge
from glm5bench.errors import EnvironmentLacks

STRIDE = 151  # tests one of so many writes: libhdf5 makes hundreds for one archive


@pytest.fixture
def folder(tmp_path):
    """An archive of one point, and a point file that is not in it."""
    write_point(tmp_path / "a.h5", measured("a" * 20))
    write_point(tmp_path / "b.h5", measured("b" * 20))
    merge([str(tmp_path / "a.h5")], tmp_path / "all.h5")
    return tmp_path


def merge_into(folder):
    return merge([str(folder / "all.h5"), str(folder / "b.h5")], folder / "all.h5")


def contents(folder):
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file() and not f.name.startswith(".")}


def told_apart(names, is_done_first):
    """The numbers of the calls to test: all except pwrite, and some pwrites (the time after one equals the time before the next)."""
    return [i for i, name in enumerate(names) if name != "pwrite" or (i % STRIDE == 0 and not is_done_first)]


def whole_union(folder):
    return collect([str(folder / "a.h5"), str(folder / "b.h5")]).digest()


def test_at_every_write_the_archive_that_stands_there_is_the_old_one_or_the_whole_new_one(folder):
    before, seen = contents(folder), []

    def look(name, n, call):
        seen.append((folder / "all.h5").read_bytes())
        return call()

    with fault_points(look):
        merge_into(folder)

    after = (folder / "all.h5").read_bytes()
    changed = [content for content in seen if content != before["all.h5"]]
    assert len(seen) > 100
    assert set(changed) <= {after}
    assert len(changed) <= 5  # calls after the rename: the folder's sync and the cleanup, which needs one more call on Python 3.10


@pytest.mark.parametrize("is_done_first", [False, True], ids=["before", "after"])
def test_a_merge_that_is_killed_leaves_the_old_archive_or_the_whole_new_one_and_the_next_one_works(folder, is_done_first):
    before, digest = contents(folder), whole_union(folder)
    names = calls_of(lambda: merge_into(folder))

    for n in told_apart(names, is_done_first):
        (folder / "all.h5").write_bytes(before["all.h5"])

        assert killed_at(n, lambda: merge_into(folder), is_done_first=is_done_first)

        left = contents(folder)
        assert {**left, "all.h5": before["all.h5"]} == before
        if left["all.h5"] != before["all.h5"]:
            assert collect([str(folder / "all.h5")]).digest() == digest
    assert merge_into(folder).digest == digest
    assert collect([str(folder)]).bad == []


@pytest.mark.parametrize("is_done_first", [False, True], ids=["before", "after"])
def test_a_writer_of_points_that_is_killed_leaves_none_or_the_whole_one_and_the_next_one_works(tmp_path, is_done_first):
    m = measured()
    path = tmp_path / "points" / "k.1.h5"
    n = 0
    while killed_at(n, lambda: write_point(path, m), is_done_first=is_done_first):
        if path.exists():
            assert read_point(path)[0].digest() == m.digest()
            path.unlink()
        n += 1

    assert n >= 7
    assert collect([str(tmp_path)]).rows.keys() == {f"{m.key}-{m.digest()[:16]}"}


@pytest.mark.parametrize(
    ("name", "errno_"),
    [(name, errno.ENOSPC) for name in ("mkdir", "pwrite", "ftruncate", "fsync", "replace")]
    + [("pwrite", errno.EIO), ("pwrite", errno.EDQUOT)],
    ids=lambda v: errno.errorcode.get(v, v),
)
def test_a_merge_that_the_disk_refuses_says_what_to_do_and_leaves_the_folder_as_it_was(folder, name, errno_):
    before = contents(folder)
    n_calls = calls_of(lambda: merge([str(folder / "b.h5")], folder / "other.h5")).count(name)
    (folder / "other.h5").unlink()
    n_before_the_rename = n_calls - 1 if name == "fsync" else n_calls  # the last one syncs the folder

    for n in range(0, n_before_the_rename, STRIDE):
        with pytest.raises(EnvironmentLacks, match=r"all\.h5 cannot be written") as lacks, refused_at(n, {name}, errno_):
            merge_into(folder)

        assert lacks.value.next_step == (
            "choose another directory" if errno_ == errno.EIO else "free space there, then run the same command again"
        )
        assert contents(folder) == before
        assert [f.name for f in folder.iterdir() if f.name.startswith(".")] == []


def test_a_folder_that_cannot_be_synced_is_said_though_the_whole_new_archive_stands_there(folder):
    digest = whole_union(folder)

    with pytest.raises(EnvironmentLacks), refused_at(1, {"fsync"}, errno.EIO):
        merge_into(folder)

    assert collect([str(folder / "all.h5")]).digest() == digest


@pytest.mark.parametrize("name", ["write", "fsync"])
def test_a_point_that_the_disk_refuses_says_what_to_do_and_leaves_nothing(tmp_path, name):
    with pytest.raises(EnvironmentLacks, match=r"p\.h5 cannot be written") as lacks, refused_at(0, {name}, errno.ENOSPC):
        write_point(tmp_path / "p.h5", measured())

    assert "free space" in lacks.value.next_step
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_written_to_no_further(folder, monkeypatch):
    add, added = union.Writer.add, []
    monkeypatch.setattr(union.Writer, "add", lambda self, *of, **how: (added.append(of), add(self, *of, **how))[1])
    monkeypatch.setattr(tasks, "MOVES_AT_ONCE", 1)
    for i in range(8):
        write_point(folder / f"more/{i}.h5", measured(f"{i:020d}"))

    with pytest.raises(EnvironmentLacks, match=r"new\.h5 cannot be written: No space left"), full_in_the_moving(monkeypatch):
        merge([str(folder / "more")], folder / "new.h5")

    assert 1 <= len(added) <= 3  # the point being moved, the next one, and one that is surveyed meanwhile
    assert [f.name for f in folder.iterdir() if f.name.startswith((".", "new"))] == []


@contextlib.contextmanager
def full_in_the_moving(monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(moving, "put", refuse)
    yield


SMALL_DISK = """
mount -t tmpfs -o size=600k tmpfs "$0" && cp "$1" "$0/all.h5" && shift && "$@"
code=$?; ls -A "$0"; sha256sum <"$0/all.h5"; exit $code
"""


def test_a_disk_that_is_really_full_is_exit_code_3_with_what_to_do(folder):
    """Uses a file system of 600 KiB that no other process can see."""
    required("" if shutil.which("unshare") and os.geteuid() == 0 else "only root mounts a small disk")
    (folder / "disk").mkdir()
    for i in range(12):
        write_point(folder / f"more/{i}.h5", measured(f"{i:020d}", log=os.urandom(60_000).hex()))
    command = [sys.executable, "-m", "glm5bench", "merge", str(folder / "more"), "-o", str(folder / "disk/all.h5")]

    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", SMALL_DISK, str(folder / "disk"), str(folder / "all.h5"), *command],
        env=environment(folder), capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip

    assert (done.returncode, done.stderr.splitlines()[0]) == (3, "EnvironmentLacks: all.h5 cannot be written: No space left on device.")
    assert "next: free space there, then run the same command again" in done.stderr
    assert done.stdout.split() == ["all.h5", sha256((folder / "all.h5").read_bytes()), "-"]


def sha256(content):
    return hashlib.sha256(content).hexdigest()


CHANGES = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: path.write_bytes(b""),
    "replaced": lambda path: (path.unlink(), write_point(path, measured("c" * 20))),
    "deleted": lambda path: path.unlink(),
    "overwritten": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"),
}


@pytest.mark.parametrize(
    ("kind", "when", "change"),
    [("archive", "opened", change) for change in CHANGES]
    + [("large point", "opened", "deleted"), ("point", "opened", "replaced")]
    + [(kind, when, "cut") for kind in ("point", "large point", "archive") for when in ("first byte", "last byte")],
)
def test_a_source_that_changes_after_it_was_looked_at_is_bad_and_costs_no_other(folder, monkeypatch, kind, when, change):
    if kind == "large point":  # a large point file is surveyed by a reader
        monkeypatch.setattr(survey, "AT_ONCE_BYTES", 0)
    victim = folder / ("all.h5" if kind == "archive" else "b.h5")
    if kind == "archive":
        merge([str(folder / "b.h5")], victim)
    changed_in_the_moving(monkeypatch, victim, CHANGES[change], when)

    done = merge([str(folder / "a.h5"), str(victim)], folder / "new.h5")

    assert {e.path for e in done.bad} == {str(victim)}
    found = check([str(folder / "new.h5")])
    assert (found.digest(), found.bad) == (done.digest, [])
    assert done.digest == collect([str(folder / "a.h5")]).digest()
    with h5py.File(folder / "new.h5") as file:  # rows whose bytes were never written must also be readable
        assert {name: len(file[name][()]) for name in TABLES} == {name: file[name].size for name in TABLES}


def changed_in_the_moving(monkeypatch, victim, change, when):
    """Changes the victim before it is opened, or at the first or second check that it is unchanged."""
    name = "_moved" if when == "opened" else "_refuse_changed"
    original, seen = getattr(moving, name), []

    def changed(move, descriptor):
        if move.path == victim:
            seen.append(move)
            if len(seen) == (2 if when == "last byte" else 1):
                change(victim)
        return original(move, descriptor)

    monkeypatch.setattr(moving, name, changed)


def test_a_source_that_is_cut_while_its_bytes_are_moved_piece_by_piece_is_bad_and_costs_no_other(folder, monkeypatch):
    monkeypatch.setattr(stored, "READ_AT_ONCE_BYTES", 0)
    put = moving.put
    monkeypatch.setattr(moving, "put", lambda *of: (os.truncate(folder / "b.h5", 700), put(*of)))

    done = merge([str(folder / "b.h5"), "published"], folder / "new.h5")

    assert [(e.path, e.message) for e in done.bad] == [(str(folder / "b.h5"), "The file was changed while it was read.")]
    assert done.digest == collect(["published"]).digest() == collect([str(folder / "new.h5")]).digest()


def test_a_reader_that_falls_while_it_moves_costs_the_file_that_it_fell_over(folder, monkeypatch):
    moved = moving._moved
    monkeypatch.setattr(moving, "_moved", lambda move, archive: os.abort() if move.path.name == "b.h5" else moved(move, archive))
    points = [str(folder / f"{name}.h5") for name in "ab"]

    done = merge(points, folder / "new.h5")

    assert [e.path for e in done.bad] == [points[1]]
    assert done.digest == collect(points[:1]).digest() == check([str(folder / "new.h5")]).digest()


def test_of_two_merges_into_one_archive_at_once_one_whole_result_stays(folder):
    fork = multiprocessing.get_context("fork")
    both = fork.Barrier(2)

    def work(name):
        both.wait()
        merge([str(folder / f"{name}.h5")], folder / "all.h5")

    for _ in range(3):
        processes = [fork.Process(target=work, args=(name,)) for name in "ab"]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)

        assert [process.exitcode for process in processes] == [0, 0]
        assert collect([str(folder / "all.h5")]).digest() in {collect([str(folder / f"{name}.h5")]).digest() for name in "ab"}
        assert [f.name for f in folder.iterdir() if f.name.startswith(".")] == []
