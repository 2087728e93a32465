"""HDF5 1.14.2 reports positions that are one user block too low. New files are correct, and wrong files are read correctly.

The bad HDF5 is in h5py 3.11.0, which tests/run.sh installs in a separate directory.
"""

import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from conftest import measured, three_requests
from program import ROOT, TESTS, bench, required

from glm5bench.archive import layout
from glm5bench.archive.pointfile import read_point, write_point
from glm5bench.archive.union import merge
from glm5bench.errors import EnvironmentLacks

BAD = ROOT / ".venv" / "h5py-3.11.0"
OLD = TESTS / "data" / "hdf5"  # two files that an earlier glm5bench wrote with it
WRITE = """
import sys
sys.path.insert(0, {tests!r})
import h5py
from pathlib import Path
from conftest import measured
from glm5bench.archive import layout, pointfile
assert h5py.version.hdf5_version == "1.14.2", h5py.version.hdf5_version
if {is_wrong}:  # as earlier versions did
    layout.place_shift = lambda: 0
    pointfile._refuse_wrong_places = lambda body, stored: None
for key in "ab":
    pointfile.write_point(Path({folder!r}) / f"{{key}}.h5", measured(key * 20))
print(layout.place_shift())
"""


@pytest.fixture
def bad():
    """A function that runs Python with the bad HDF5."""
    if sys.version_info >= (3, 13):
        pytest.skip("there is no wheel of h5py 3.11.0 for this Python")
    required("" if BAD.is_dir() else f"h5py 3.11.0 is not in {BAD}: tests/run.sh puts it there")

    def run(*words):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BAD), str(ROOT)])}
        return subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True, check=False)

    return run


def written(bad, folder, *, is_wrong):
    done = bad("-c", WRITE.format(tests=str(ROOT / "tests"), folder=str(folder), is_wrong=is_wrong))
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def same(a, b):
    return all(np.array_equal(getattr(a.requests, name), getattr(b.requests, name)) for name in ("sent_ns", "chunk_ns", "chunk_tokens"))


def decoded(archive):
    """The exit code of `check`, which decodes the points of an archive."""
    done = bench(archive.parent, "check", archive.name)
    assert "damaged" not in done.stdout + done.stderr
    return done.returncode


def test_this_hdf5_is_asked_how_it_counts_and_not_which_it_is():
    assert layout.place_shift() in (0, 512)


def test_a_point_that_is_written_there_states_where_its_bytes_are(bad, tmp_path):
    assert written(bad, tmp_path, is_wrong=False) == 512
    for path in tmp_path.glob("*.h5"):
        with h5py.File(path, "r") as file:
            stored = json.loads(file["summary"][()].tobytes())["stored"]
            assert stored == layout.stored_places(file)
        data = path.read_bytes()
        for told in stored.values():
            assert all(data[at : at + size] for at, size in zip(told["chunks"][::2], told["chunks"][1::2], strict=True))


@pytest.mark.parametrize("is_wrong", [False, True], ids=["places are right", "places are wrong"])
def test_files_of_there_are_merged_here_with_their_own_bytes(bad, tmp_path, is_wrong):
    written(bad, tmp_path, is_wrong=is_wrong)
    done = merge([str(tmp_path)], tmp_path / "all.h5")

    assert (done.n_points, done.bad) == (2, [])
    assert decoded(tmp_path / "all.h5") == 0


def test_files_of_an_earlier_version_are_read_and_merged(tmp_path):
    done = merge([str(OLD)], tmp_path / "all.h5")

    assert (done.n_points, done.bad) == (2, [])
    assert decoded(tmp_path / "all.h5") == 0
    assert same(read_point(OLD / "wrong_places_a.h5")[0], measured(requests=three_requests()))


def test_files_of_here_are_merged_there_and_the_other_way_round(bad, tmp_path):
    write_point(tmp_path / "c.h5", measured("c" * 20))
    written(bad, tmp_path, is_wrong=True)
    there = bad("-m", "glm5bench", "merge", str(tmp_path), "-o", str(tmp_path / "there.h5"))
    again = merge([str(tmp_path / "there.h5"), str(tmp_path)], tmp_path / "here.h5")

    assert there.returncode == 0, there.stderr
    assert (again.n_points, again.bad) == (3, [])
    assert decoded(tmp_path / "there.h5") == decoded(tmp_path / "here.h5") == 0


def test_a_file_whose_places_are_wrong_in_another_way_is_refused_and_copied_nowhere(bad, tmp_path, monkeypatch):
    write_point(tmp_path / "good.h5", measured("d" * 20))
    monkeypatch.setattr("glm5bench.archive.layout.place_shift", lambda: -64)
    monkeypatch.setattr("glm5bench.archive.pointfile._refuse_wrong_places", lambda body, stored: None)
    write_point(tmp_path / "wrong.h5", measured("e" * 20))
    monkeypatch.undo()
    done = merge([str(tmp_path)], tmp_path / "all.h5")

    assert done.n_points == 1
    assert [error.path for error in done.bad] == [str(tmp_path / "wrong.h5")]
    assert decoded(tmp_path / "all.h5") == 0


def test_a_point_whose_places_would_be_wrong_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("glm5bench.archive.layout.place_shift", lambda: 64)
    with pytest.raises(EnvironmentLacks, match="reports wrong positions"):
        write_point(tmp_path / "p.h5", measured())
    assert not list(tmp_path.iterdir())
