"""Archives: merging is a set union."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import measured, reseal
from program import ROOT, bench

from glm5bench import api
from glm5bench.archive import summary
from glm5bench.archive import survey as survey_
from glm5bench.archive.checking import check
from glm5bench.archive.collection import collect
from glm5bench.archive.columns import COLUMNS, listed
from glm5bench.archive.contents import SourceTable
from glm5bench.archive.pointfile import write_point
from glm5bench.archive.raw import TABLES
from glm5bench.archive.sealed import verify_seal
from glm5bench.archive.summary import row_of
from glm5bench.archive.survey import survey
from glm5bench.archive.union import merge, write_measurements
from glm5bench.errors import FileError, UsageError


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """Six point files with four keys. One key was measured three times."""
    folder = tmp_path_factory.mktemp("six")
    attempts = [(f"{key:020d}", host) for key, host in ((1, "x"), (2, "x"), (3, "x"), (4, "x"), (4, "y"), (4, "z"))]
    for i, (key, host) in enumerate(attempts):
        write_point(folder / f"{i}.h5", measured(key, provenance={"host": host}))
    return [str(folder / f"{i}.h5") for i in range(6)]


def table_archive(path, name, cell):
    """An archive of one table of one cell."""
    write_measurements(path, [], [SourceTable(name, ({"cell": cell},))])
    return str(path)


def archived(path, *sources, **how):
    merge([str(s) for s in sources], path, **how)
    return str(path)


def flip_raw(path, i):
    """Flips one bit in the raw bytes of a point in an archive."""
    stored = survey(path, scratch=path.parent).stored
    offset, size = stored.pieces(i, "chunks")[0]
    content = bytearray(path.read_bytes())
    content[offset + size // 2] ^= 4
    path.write_bytes(content)


def test_a_measurement_found_twice_is_kept_once(six, tmp_path):
    copy = tmp_path / "copy.h5"
    copy.write_bytes(Path(six[0]).read_bytes())

    assert len(collect([six[0], str(copy), six[0]]).rows) == 1


def test_different_measurements_of_one_key_are_all_kept(six):
    found = collect(six[3:])

    assert len(found.rows) == 3
    assert len({row.key for row in found.rows.values()}) == 1


def test_an_archive_holds_what_its_sources_held(six, tmp_path):
    found = collect([archived(tmp_path / "a.h5", *six)])

    assert found.digest() == collect(six).digest()
    assert (len(found.rows), found.bad) == (6, [])


def test_an_archives_points_have_the_figures_of_their_files(six, tmp_path):
    found = collect([archived(tmp_path / "a.h5", six[0])])

    m = measured(f"{1:020d}", provenance={"host": "x"})
    (row,) = found.rows.values()
    assert repr(row) == repr(row_of(m, m.digest(), row.origin))


def test_an_archive_says_the_digest_of_its_content(six, tmp_path):
    with h5py.File(archived(tmp_path / "a.h5", *six)) as file:
        assert file.attrs["content_digest"] == collect(six).digest()


def test_another_measurement_makes_another_digest(six):
    assert len({collect(six[:n]).digest() for n in range(1, 7)}) == 6


def test_rows_that_are_no_points_survive_a_merge(tmp_path):
    first = table_archive(tmp_path / "a.h5", "table", "0.51")
    tables = collect([archived(tmp_path / "b.h5", first)]).tables

    assert [table.rows for table in tables.values()] == [({"cell": "0.51"},)]
    assert tables == collect([first]).tables


def test_a_directory_is_searched_and_its_derived_archive_left_out(tmp_path):
    write_point(tmp_path / "c/points/k.1.h5", measured())
    archived(tmp_path / "c/archive.h5", tmp_path / "c/points")
    write_point(tmp_path / "c/points/.k.2.h5.99.part.h5", measured("b" * 20))

    found = collect([str(tmp_path)])

    assert [row.origin for row in found.rows.values()] == [str(tmp_path / "c/points/k.1.h5")]


def test_an_archive_without_points_beside_it_is_read(six, tmp_path):
    archived(tmp_path / "archive.h5", *six)

    assert len(collect([str(tmp_path)]).rows) == 6


def test_a_bad_file_is_left_out_and_named(six, tmp_path):
    bad = tmp_path / "bad.h5"
    bad.write_bytes(b"no HDF5")

    found = collect([six[0], str(bad), six[1]])

    assert (len(found.rows), [e.path for e in found.bad]) == (2, [str(bad)])


def test_a_bad_file_is_an_error_where_it_is_asked_to_be(tmp_path):
    (tmp_path / "bad.h5").write_bytes(b"no HDF5")

    with pytest.raises(FileError):
        collect([str(tmp_path)], strict=True)


def test_one_damaged_point_of_an_archive_does_not_lose_the_others(six, tmp_path):
    path = Path(archived(tmp_path / "a.h5", *six))
    flip_raw(path, 2)

    done = merge([str(path)], tmp_path / "b.h5")

    assert done.n_points == 5
    assert [e.path.split(":")[0] for e in done.bad] == [str(path)]
    assert "chunks are damaged" in done.bad[0].message
    assert len(check([str(path)]).points) == 5


def test_a_path_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match="nowhere does not exist"):
        collect(["nowhere"])


def test_published_is_the_archive_that_ships():
    assert {row.series.source for row in collect(["published"]).rows.values()} == {"published"}


def test_a_failed_merge_leaves_the_archive_that_was_there(six, tmp_path):
    path = archived(tmp_path / "a.h5", *six)
    before = Path(path).read_bytes()
    (tmp_path / "bad").write_bytes(b"no HDF5")

    with pytest.raises(FileError):
        merge([*six[:2], str(tmp_path / "bad")], Path(path), strict=True)
    assert Path(path).read_bytes() == before
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.h5", "bad"]


def test_merging_rows_of_one_name_does_not_depend_on_the_order(tmp_path):
    for name, cell in (("a", "0.51"), ("b", "0.50")):
        table_archive(tmp_path / f"{name}.h5", "table", cell)
    a, b = str(tmp_path / "a.h5"), str(tmp_path / "b.h5")

    assert collect([a, b]).digest() == collect([b, a]).digest()


def test_the_page_of_the_format_names_every_column_and_table():
    page = (ROOT / "docs/archive-format.md").read_text()

    assert [c.name for c in COLUMNS if f"`{c.name}`" not in page] == []
    assert [c.name for t in TABLES.values() for c in t.columns if len(t.columns) > 1 and c.name not in page] == []


def test_a_stored_figure_that_does_not_follow_from_the_raw_times_is_said(tmp_path):
    path = tmp_path / "p.h5"
    write_point(path, measured())
    with h5py.File(path, "r+") as file:
        told = json.loads(file["summary"][()].tobytes())
        told["columns"]["tpot_median_s"] = 0.25
        del file["summary"]
        file["summary"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
    reseal(path)
    merge([str(path)], tmp_path / "a.h5")

    for found in (check([str(path)]), check([str(tmp_path / "a.h5")])):
        (point,) = found.points.values()
        assert point.differing == ("tpot_median_s is stored as 0.25, but the raw times give 0.5",)
        assert not point.is_good


def test_figures_by_definitions_of_another_version_are_computed_again(tmp_path, monkeypatch):
    for definitions, name in ((summary.DEFINITIONS, "now"), (summary.DEFINITIONS + 1, "other")):
        monkeypatch.setattr(summary, "DEFINITIONS", definitions)
        write_point(tmp_path / f"{name}.h5", measured(f"{definitions:020d}"))
    merge([str(tmp_path)], tmp_path / "all.h5")
    monkeypatch.setattr(survey_, "DEFINITIONS", summary.DEFINITIONS)
    with h5py.File(tmp_path / "all.h5") as file:
        assert file["points/definitions"][()].tolist() == [3, 4]

    found = survey(tmp_path / "all.h5")

    assert (listed(found.summaries["definitions"]), found.bad) == ([4, 4], ())


def test_a_merge_names_what_an_earlier_one_left_when_it_was_killed(tmp_path):
    (tmp_path / ".all.h5.17.part").touch()
    done = bench(tmp_path, "merge", "published", "-o", "all.h5")

    assert done.returncode == 0
    assert f"{tmp_path}/.all.h5.17.part belongs to a killed merge" in done.stderr


def test_a_merge_reports_what_it_read_and_what_was_already_there(tmp_path):
    write_point(tmp_path / "a.h5", measured())
    write_point(tmp_path / "b.h5", measured("b" * 20, hardware="h200"))
    first = bench(tmp_path, "merge", "a.h5", "-o", "all.h5").stderr
    second = bench(tmp_path, "merge", "a.h5", "b.h5", "-o", "all.h5").stderr
    chosen = bench(tmp_path, "merge", "a.h5", "b.h5", "-o", "h200.h5", "--where", "hardware=h200").stderr

    assert "Read 1 file with 1 point: 1 new." in first
    assert "Read 2 files with 2 points: 1 new, 1 already there." in second
    assert "all.h5: 2 points, digest" in second
    assert "Read 2 files with 2 points: 1 new, 1 excluded by --where." in chosen


def test_new_replaces_an_archive(tmp_path):
    write_point(tmp_path / "a.h5", measured())
    write_point(tmp_path / "b.h5", measured("b" * 20))
    bench(tmp_path, "merge", "a.h5", "-o", "all.h5")
    done = bench(tmp_path, "merge", "b.h5", "-o", "all.h5", "--new")

    assert "Read 1 file with 1 point: 1 new." in done.stderr
    assert list(api.points(api.open(tmp_path / "all.h5")).key) == ["b" * 20]


def test_a_file_says_who_wrote_it_and_where_the_rows_of_its_points_are(tmp_path):
    write_point(tmp_path / "p.h5", measured())
    merge([str(tmp_path / "p.h5")], tmp_path / "all.h5")
    for name in ("p.h5", "all.h5"):
        with h5py.File(tmp_path / name, "r") as file:
            assert file.attrs["writer"].startswith("glm5bench ")
            assert "archive-format.md" in file.attrs["documentation"]

    with h5py.File(tmp_path / "all.h5", "r") as file:
        assert file["chunks"].attrs["rows_of_points"] == "/index/chunks/first and /index/chunks/rows; rows between belong to no point"
        assert file["points/ttft_median_s"].attrs["units"] == file["points/ttft_median_s"].attrs["unit"] == "s"


def test_an_archive_that_was_opened_for_writing_says_so(tmp_path):
    write_point(tmp_path / "p.h5", measured())
    merge([str(tmp_path / "p.h5")], tmp_path / "all.h5")
    with h5py.File(tmp_path / "all.h5", "a"):
        pass

    with pytest.raises(FileError, match="has lost its trailer: another program opened it for writing") as raised:
        verify_seal(tmp_path / "all.h5")
    assert "with mode r" in raised.value.next_step
