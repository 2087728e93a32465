"""Archives: merging is a set union."""

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import measured, reseal, three_requests
from hypothesis import given, settings
from hypothesis import strategies as st

from glm5bench.errors import FileError, UsageError
from glm5bench.store.archive import Collected, SourceTable, collect, write_archive
from glm5bench.store.pointfile import write_point


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """Six point files: four keys, one of them measured three times."""
    folder = tmp_path_factory.mktemp("six")
    attempts = [(f"{key:020d}", host) for key, host in ((1, "x"), (2, "x"), (3, "x"), (4, "x"), (4, "y"), (4, "z"))]
    for i, (key, host) in enumerate(attempts):
        write_point(folder / f"{i}.h5", measured(key, provenance={"host": host}))
    return [str(folder / f"{i}.h5") for i in range(6)]


def with_table(name, cell):
    """An archive's content of one table of one cell."""
    found = Collected()
    found.add_table(SourceTable(name, ({"cell": cell},)))
    return found


def archived(path, *sources):
    write_archive(path, collect(sources))
    return str(path)


def test_a_measurement_found_twice_is_kept_once(six, tmp_path):
    copy = tmp_path / "copy.h5"
    copy.write_bytes(Path(six[0]).read_bytes())

    assert len(collect([six[0], str(copy), six[0]]).points) == 1


def test_different_measurements_of_one_key_are_all_kept(six):
    found = collect(six[3:])

    assert len(found.points) == 3
    assert len({s.measurement.key for s in found.points.values()}) == 1


def test_an_archive_holds_what_its_sources_held(six, tmp_path):
    found = collect([archived(tmp_path / "a.h5", *six)])

    assert found.digest() == collect(six).digest()
    assert (len(found.points), found.bad) == (6, [])


def test_an_archives_points_have_the_figures_of_their_files(six, tmp_path):
    found = collect([archived(tmp_path / "a.h5", six[0])])

    (stored,) = found.points.values()
    assert stored.measurement.figures() == measured().figures()
    assert stored.digest == stored.measurement.digest()


def test_an_archive_says_the_digest_of_its_content(six, tmp_path):
    with h5py.File(archived(tmp_path / "a.h5", *six)) as file:
        assert file.attrs["content_digest"] == collect(six).digest()


def test_another_measurement_makes_another_digest(six):
    assert len({collect(six[:n]).digest() for n in range(1, 7)}) == 6


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_merging_in_any_order_grouping_and_repetition_gives_the_same_digest(six, tmp_path_factory, data):
    order = data.draw(st.permutations(six * 2))
    cut = data.draw(st.integers(1, len(order) - 1))
    folder = tmp_path_factory.mktemp("merge")

    left, right = archived(folder / "l.h5", *order[:cut]), archived(folder / "r.h5", *order[cut:])

    assert collect([right, left]).digest() == collect([left, right, left, six[0]]).digest() == collect(six).digest()


def test_rows_that_are_no_points_survive_a_merge(tmp_path):
    found = with_table("table", "0.51")
    write_archive(tmp_path / "a.h5", found)

    assert collect([archived(tmp_path / "b.h5", str(tmp_path / "a.h5"))]).tables == found.tables


def test_a_directory_is_searched_and_its_derived_archive_left_out(tmp_path):
    write_point(tmp_path / "c/points/k.1.h5", measured())
    write_archive(tmp_path / "c/archive.h5", collect([str(tmp_path / "c/points")]))
    write_point(tmp_path / "c/points/.k.2.h5.99.part.h5", measured("b" * 20))

    found = collect([str(tmp_path)])

    assert [s.origin for s in found.points.values()] == [str(tmp_path / "c/points/k.1.h5")]


def test_an_archive_without_points_beside_it_is_read(six, tmp_path):
    archived(tmp_path / "archive.h5", *six)

    assert len(collect([str(tmp_path)]).points) == 6


def test_a_bad_file_is_left_out_and_named(six, tmp_path):
    bad = tmp_path / "bad.h5"
    bad.write_bytes(b"no HDF5")

    found = collect([six[0], str(bad), six[1]])

    assert (len(found.points), [e.path for e in found.bad]) == (2, [str(bad)])


def test_a_bad_file_is_an_error_where_it_is_asked_to_be(tmp_path):
    (tmp_path / "bad.h5").write_bytes(b"no HDF5")

    with pytest.raises(FileError):
        collect([str(tmp_path)], strict=True)


def test_one_damaged_point_of_an_archive_does_not_lose_the_others(six, tmp_path):
    path = archived(tmp_path / "a.h5", *six)
    with h5py.File(path, "r+") as file:
        name = sorted(file["points"])[2]
        del file[f"points/{name}/requests"]
    reseal(Path(path))

    found = collect([path])

    assert len(found.points) == 5
    assert [e.path for e in found.bad] == [f"{path}:/points/{name}"]


def test_a_path_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match="There is no nowhere"):
        collect(["nowhere"])


def test_published_is_the_archive_that_ships():
    assert {s.measurement.source for s in collect(["published"]).points.values()} == {"published"}


def test_a_failed_merge_leaves_the_archive_that_was_there(six, tmp_path):
    path = archived(tmp_path / "a.h5", *six)
    before = Path(path).read_bytes()
    found = collect(six)
    stored = next(iter(found.points.values()))
    broken = dataclasses.replace(stored.measurement, requests=dataclasses.replace(three_requests(), sent_ns=np.array(["x"])))
    found.points[stored.name] = dataclasses.replace(stored, measurement=broken)

    with pytest.raises(ValueError, match="invalid literal"):
        write_archive(tmp_path / "a.h5", found)
    assert Path(path).read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["a.h5"]


def test_merging_rows_of_one_name_does_not_depend_on_the_order(tmp_path):
    for name, cell in (("a", "0.51"), ("b", "0.50")):
        write_archive(tmp_path / f"{name}.h5", with_table("table", cell))
    a, b = str(tmp_path / "a.h5"), str(tmp_path / "b.h5")

    assert collect([a, b]).digest() == collect([b, a]).digest()
