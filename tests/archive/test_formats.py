"""Files of every released format are read, merged and checked, and keep the digests with which they were written."""

import dataclasses

import h5py
import pytest
from conftest import reseal
from program import TESTS

from glm5bench.archive.checking import check
from glm5bench.archive.collection import collect
from glm5bench.archive.decoding import measurements
from glm5bench.archive.pointfile import FORMAT, read_point
from glm5bench.archive.summary import row_of
from glm5bench.archive.union import merge
from glm5bench.errors import FileError

PAST = TESTS / "data"
VERSIONS = range(2, FORMAT + 1)  # format 1 was never released
FILES = [PAST / f"format{version}" / f"{kind}.h5" for version in VERSIONS for kind in ("point", "archive")]


def figures(found):
    """The rows without their origin."""
    return {name: repr(dataclasses.replace(row, origin="")) for name, row in found.rows.items()}


@pytest.fixture(params=FILES, ids=lambda f: f"{f.parent.name} {f.stem}")
def past(request):
    return request.param


def test_there_is_a_point_file_and_an_archive_of_every_past_version():
    assert [f for f in FILES if not f.is_file()] == []
    assert FILES


def test_a_file_of_a_past_version_says_so(past):
    with h5py.File(past) as file:
        assert f"format{file.attrs['format']}" == past.parent.name


def test_every_point_of_a_past_version_has_the_digest_that_its_file_says(past):
    with h5py.File(past) as file:
        is_point = file.attrs["kind"] == "point"
        said = {str(file.attrs["content_digest"])} if is_point else {str(d, "ascii") for d in file["points/digest"][()]}

    assert {digest for _, _, digest in measurements(past)} == said
    assert {m.digest() for m, _, _ in measurements(past)} == said


def test_merging_changes_no_digest_and_no_figure(past, tmp_path):
    before = collect([str(past)])

    done = merge([str(past)], tmp_path / "new.h5")

    after = collect([str(tmp_path / "new.h5")])
    assert (before.bad, done.bad, after.bad) == ([], [], [])
    assert done.digest == after.digest() == before.digest() == check([str(past)]).digest()
    assert figures(after) == figures(before)
    assert after.tables == before.tables


def test_the_figures_of_a_past_version_follow_from_its_raw_times(past):
    rows = collect([str(past)]).rows

    computed = {f"{m.key}-{digest[:16]}": repr(row_of(m, digest, str(past))) for m, _, digest in measurements(past)}

    assert computed == {name: repr(row) for name, row in rows.items()}
    assert len(computed) >= 1


def test_a_merged_file_is_whole_and_of_this_version(past, tmp_path):
    merge([str(past)], tmp_path / "new.h5")

    found = check([str(tmp_path / "new.h5")])

    assert found.bad == []
    assert [point for point in found.points.values() if point.differing or not point.is_whole] == []
    assert {p.verdict for p in found.points.values()} == {p.verdict for p in check([str(past)]).points.values()}
    with h5py.File(tmp_path / "new.h5") as file:
        assert file.attrs["format"] == FORMAT


def test_a_file_of_format_1_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "old.h5"
    path.write_bytes((PAST / "format2/point.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = 1
    reseal(path)

    with pytest.raises(FileError, match="Its format is 1, and this version of glm5bench reads format 2") as refused:
        read_point(path)
    assert "measure it again" in refused.value.next_step


def test_past_and_present_files_of_one_measurement_are_one(past, tmp_path):
    merge([str(past)], tmp_path / "new.h5")

    both = collect([str(past), str(tmp_path / "new.h5")])

    assert both.digest() == collect([str(past)]).digest()


def test_a_past_archive_can_leave_out_its_raw_times(tmp_path):
    done = merge([str(PAST / "format2/archive.h5")], tmp_path / "new.h5", is_raw_kept=False)

    assert figures(collect([str(tmp_path / "new.h5")])) == figures(collect([str(PAST / "format2/archive.h5")]))
    assert done.digest == check([str(tmp_path / "new.h5")]).digest() != collect([str(PAST / "format2/archive.h5")]).digest()
