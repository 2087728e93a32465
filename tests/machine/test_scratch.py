"""The next server that starts on a node removes the directories that killed jobs left in /tmp."""

import os
import subprocess
import sys
import time

import pytest

from glm5bench.machine import scratch as scratch_
from glm5bench.machine.scratch import LOCK, NEW_S, remove_abandoned, scratch

HOLDS = "import sys; from glm5bench.machine.scratch import scratch\nwith scratch() as f: print(f, flush=True); sys.stdin.read()"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch_.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_directory_is_there_as_long_as_its_server(place):
    with scratch() as folder:
        (folder / "file").write_text("x")
        assert folder.parent == place
    assert list(place.iterdir()) == []


def test_the_directory_of_a_job_that_was_killed_is_removed_and_that_of_a_living_one_is_not(place):
    jobs = [subprocess.Popen([sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = [job.stdout.readline().strip() for job in jobs]
    jobs[0].kill()
    jobs[0].wait()

    remove_abandoned(place)

    assert [os.path.isdir(folder) for folder in folders] == [False, True]
    jobs[1].communicate("")
    assert list(place.iterdir()) == []
    jobs[0].stdin.close()
    jobs[0].stdout.close()


def test_a_directory_without_a_lock_is_removed_when_it_is_old(place):
    new, old, other = (place / name for name in ("glm5bench-new", "glm5bench-old", "other"))
    for folder in (new, old, other):
        folder.mkdir()
    os.utime(old, times=(0, time.time() - 2 * NEW_S))

    remove_abandoned(place)

    assert sorted(p.name for p in place.iterdir()) == ["glm5bench-new", "other"]


def test_links_and_files_are_left_alone(place):
    (place / "kept").mkdir()
    (place / "kept" / LOCK).touch()
    (place / "glm5bench-link").symlink_to(place / "kept")
    (place / "glm5bench-0.lock").touch()

    remove_abandoned(place)

    assert (place / "kept" / LOCK).exists()
    assert (place / "glm5bench-0.lock").exists()
