"""If a file crashes or blocks its reader, all other files are read, and no process is left."""

import ctypes
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from program import until

from glm5bench.archive import reading
from glm5bench.archive.reading import Readers
from glm5bench.errors import EnvironmentLacks, FileError

GOOD = [f"good {i}" for i in range(6)]
poisoned = []  # in each reader: damage from an earlier file


def read(what):
    if what in DOES:
        return DOES[what]()
    if poisoned:
        os.abort()
    return what.upper(), os.getpid()


def broken_heap():
    poisoned.append("heap")
    return "READ", os.getpid()


DOES = {
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "exit": lambda: os._exit(3),
    "defect": lambda: 1 / 0,
    "hang": signal.pause,
    "spin": lambda: next(x for x in iter(int, 1) if x),
    "numpy": lambda: np.ones(2**30, dtype=np.uint8),
    "python": lambda: [bytes(2**20) for _ in range(2**12)],
    "damage": lambda: (_ for _ in ()).throw(FileError("It is damaged.", path="damage")),
    "full": lambda: (_ for _ in ()).throw(EnvironmentLacks("No space.", where="here", next_step="make some")),
    "heap": broken_heap,
}


def path_of(what):
    return Path("/nowhere", what)


def answers(tasks, jobs=2):
    """The errors of tasks, and the results of the others."""
    with Readers(read, path_of, jobs=jobs) as readers:
        found = dict(readers.map(tasks))
    return {task: result for task, result in found.items() if isinstance(result, FileError)}, {
        task: result for task, result in found.items() if not isinstance(result, FileError)
    }


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(reading, "MEMORY_BYTES", 200 * 2**20)


@pytest.fixture
def hasty(small, monkeypatch):
    """Allows three seconds per file: a busy machine needs them even for a file that is quick to read."""
    monkeypatch.setattr(reading, "SECONDS", 3.0)


@pytest.mark.parametrize("jobs", [1, 2, 5])
@pytest.mark.parametrize(
    ("what", "why"),
    [("segfault", "by SIGSEGV"), ("abort", "by SIGABRT"), ("exit", "with exit code 3"), ("defect", "with exit code 1"),
     ("numpy", "takes more memory"), ("python", "takes more memory"), ("damage", "It is damaged")],
)  # fmt: skip
def test_a_file_that_fells_its_reader_is_bad_and_the_others_are_read(small, what, why, jobs):
    bad, good = answers([*GOOD[:3], what, *GOOD[3:]], jobs)

    assert list(bad) == [what]
    assert why in bad[what].message
    assert bad[what].path.endswith(what)
    assert {task: result[0] for task, result in good.items()} == {task: task.upper() for task in GOOD}


def test_a_file_whose_reader_waits_for_ever_is_bad_and_the_others_are_read(hasty):
    bad, good = answers([*GOOD[:3], "hang", *GOOD[3:]])

    assert {task: error.message for task, error in bad.items()} == {"hang": reading.TOO_LONG}
    assert set(good) == set(GOOD)


def test_a_reader_that_only_computes_is_ended_long_before_one_that_waits_for_a_disk(monkeypatch):
    monkeypatch.setattr(reading, "PROCESSOR_S", 0.1)

    bad, good = answers(["spin", *GOOD])

    assert {task: error.message for task, error in bad.items()} == {"spin": reading.TOO_LONG}
    assert set(good) == set(GOOD)


def test_what_c_allocates_is_limited_too(small):
    malloc = ctypes.CDLL(None).malloc
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]

    with Readers(lambda size: malloc(size) is not None, lambda size: Path("/nowhere"), jobs=1) as readers:
        assert dict(readers.map([2**20, 2**30, 2**21])) == {2**20: True, 2**30: False, 2**21: True}


def test_a_larger_file_may_take_more_memory(small, tmp_path):
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 2**24)  # 16 MiB, so 64 times as much memory is allowed

    with Readers(lambda path: np.ones(2**29, dtype=np.uint8).nbytes, lambda path: path) as readers:
        assert dict(readers.map([tmp_path / "large"])) == {tmp_path / "large": 2**29}


def test_all_that_fell_are_bad_each_with_its_own_reason(hasty):
    bad, good = answers([*GOOD[:3], *list(DOES)[:5], *GOOD[3:]])

    assert set(bad) == set(list(DOES)[:5])
    assert set(good) == set(GOOD)


def test_what_a_file_has_done_to_its_reader_is_not_laid_to_the_next(small):
    bad, good = answers(["heap", *GOOD], jobs=1)

    assert bad == {}
    assert set(good) == {"heap", *GOOD}


def test_a_reader_that_falls_between_two_files_costs_none(small):
    with Readers(read, path_of, jobs=1) as readers:
        found = readers.map(GOOD)
        _, (_, pid) = next(found)
        (reader,) = [p for p in multiprocessing.active_children() if p.pid == pid]
        os.kill(pid, signal.SIGKILL)
        multiprocessing.connection.wait([reader.sentinel])

        assert [result[0] for _, result in found] == [task.upper() for task in GOOD[1:]]


def test_a_result_larger_than_a_pipe_comes_whole():
    with Readers(np.arange, lambda n: Path("/nowhere"), jobs=2) as readers:
        for n, result in readers.map([10**6, 2, 10**6 + 1]):
            assert np.array_equal(result, np.arange(n))


def test_what_the_machine_lacks_is_raised_and_is_no_files_fault():
    with pytest.raises(EnvironmentLacks, match="No space") as lacks:
        answers(["full"])

    assert (lacks.value.where, lacks.value.next_step) == ("here", "make some")


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("fault", ["hang", "segfault", None])
def test_no_process_is_left(hasty, fault):
    _, good = answers([*GOOD, *([fault] if fault else [])])

    assert multiprocessing.active_children() == []
    assert [pid for _, pid in good.values() if is_alive(pid)] == []


def test_no_process_is_left_by_one_who_stops_in_the_middle():
    with Readers(read, path_of, jobs=2) as readers:
        next(readers.map(GOOD))

    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("busy_with", [None, "hang"], ids=["idle", "busy"])
def test_readers_end_by_themselves_when_the_process_that_they_read_for_is_killed(hasty, busy_with):
    ours, theirs = multiprocessing.Pipe()

    def work():
        with Readers(tell_and_read, path_of, jobs=1) as readers:
            for _ in readers.map([GOOD[0], *([busy_with] if busy_with else [])]):
                pass
            signal.pause()

    def tell_and_read(what):
        theirs.send(os.getpid())
        return read(what)

    reader_of = multiprocessing.get_context("fork").Process(target=work)
    reader_of.start()
    pids = [ours.recv() for _ in range(2 if busy_with else 1)]
    reader_of.kill()
    reader_of.join()

    until(lambda: not any(map(is_alive, pids)), "the readers are gone")
