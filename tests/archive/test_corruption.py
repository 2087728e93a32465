"""For any content of a file, the result is what was measured, or an error that names the file. Other files are not affected."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import change_column, measured, power_of, reseal, reseal_quickly, three_requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from program import bench

from glm5bench.analysis.metrics import Plays
from glm5bench.archive.checking import check
from glm5bench.archive.collection import collect
from glm5bench.archive.contents import SourceTable
from glm5bench.archive.decoding import measurements
from glm5bench.archive.pointfile import read_point, write_point
from glm5bench.archive.raw import TABLES
from glm5bench.archive.sealed import BLOCK, MAGIC, STRUCTURE
from glm5bench.archive.survey import survey
from glm5bench.archive.union import merge
from glm5bench.errors import FileError

many = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
some = settings(many, max_examples=12)  # for slow tests; benchmarks/fuzz_archives.py tests a hundred thousand files


def of_sessions():
    """Three requests of agent sessions."""
    r = three_requests()
    return dataclasses.replace(
        r, plays=Plays(**{f.name: np.arange(3) if f.name != "phase" else np.ones(3, int) for f in dataclasses.fields(Plays)})
    )


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A point file, an archive of three points and a table, and their digests."""
    folder = tmp_path_factory.mktemp("originals")
    for k in "abc":
        write_point(folder / f"{k}.h5", measured(k * 20, requests=of_sessions(), log=k * 3000, telemetry=power_of(700.0)))
    merge([str(folder / f"{k}.h5") for k in "abc"], folder / "archive.h5", tables=[SourceTable("t", ({"cell": "0.51"},))])
    return folder


@pytest.fixture
def point(originals, tmp_path):
    return Path(shutil.copy(originals / "a.h5", tmp_path / "bad.h5"))


@pytest.fixture
def archive(originals, tmp_path):
    return Path(shutil.copy(originals / "archive.h5", tmp_path / "bad.h5"))


def changed(path, change):
    """The file with other content and a matching seal, as an attacker could write it."""
    with h5py.File(path, "r+") as file:
        change(file)
    reseal(path)
    return path


def had(path):
    """What can be read from a file: the digests of the decoded points, and the errors."""
    try:
        found = survey(path)
        each = list(measurements(path)) if not found.bad else []
    except FileError as error:
        return set(), [error]
    return {m.digest() for m, _, _ in (e for e in each if not isinstance(e, FileError)) if m}, [e for e in each if isinstance(e, FileError)]


def digests(originals):
    return {read_point(originals / f"{k}.h5")[1] for k in "abc"}


def merged_digests(path, output):
    """What a merge took from the file: the digests of the decoded points, and the errors."""
    try:
        done = merge([str(path)], output)
    except FileError as error:
        return set(), [error]
    assert check([str(output)]).bad == []
    return {m.digest() for m, _, _ in measurements(output)}, done.bad


# Damage


@many
@given(data=st.data())
def test_a_bit_that_flips_in_a_point_file_makes_it_bad_unless_nothing_is_told_otherwise(originals, tmp_path, data):
    content = bytearray((originals / "a.h5").read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "p.h5"
    path.write_bytes(content)

    found, bad = had(path)

    assert bad or (at < BLOCK and found <= digests(originals))  # in the line of the seal, or after it in the user block


@some
@given(data=st.data())
def test_whatever_is_damaged_in_an_archive_each_point_that_comes_out_is_the_one_that_was_measured(originals, tmp_path_factory, data):
    content = bytearray((originals / "archive.h5").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.just(bytes(512))))
        content[at : at + len(piece)] = piece
    path = tmp_path_factory.mktemp("damaged") / "a.h5"
    path.write_bytes(content)

    found, _ = merged_digests(path, path.parent / "new.h5")

    assert found <= digests(originals)


@pytest.mark.parametrize("share", [0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["a.h5", "archive.h5"])
def test_a_file_that_was_cut_is_bad_and_gives_nothing_else_than_was_measured(originals, tmp_path, name, share):
    content = (originals / name).read_bytes()
    (tmp_path / "bad.h5").write_bytes(content[: int(len(content) * share)])

    found, bad = merged_digests(tmp_path / "bad.h5", tmp_path / "new.h5")

    assert {error.path for error in bad} == {str(tmp_path / "bad.h5")}
    assert found <= digests(originals)


@pytest.mark.parametrize("table", TABLES)
def test_damaged_raw_bytes_cost_their_point_and_no_other(originals, archive, tmp_path, table):
    stored = survey(archive, scratch=tmp_path).stored
    offset, size = stored.pieces(1, table)[0]
    content = bytearray(archive.read_bytes())
    content[offset + size // 2] ^= 1
    archive.write_bytes(content)

    found, bad = merged_digests(archive, tmp_path / "new.h5")

    (lost,) = digests(originals) - found
    assert [error.message for error in bad] == [f"Its {table} are damaged: their bytes are not those that were written."]
    assert lost[:16] in bad[0].path


def test_of_an_archive_with_damaged_structure_every_point_is_taken_that_libhdf5_still_reads(originals, archive, tmp_path):
    content = archive.read_bytes()
    archive.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    found, bad = merged_digests(archive, tmp_path / "new.h5")

    assert found == digests(originals)
    assert "Only the undamaged part was read: 3 points, 1 tables." in bad[0].message
    assert collect([str(archive)]).tables == collect([str(tmp_path / "new.h5")]).tables == collect([str(originals / "archive.h5")]).tables


def test_of_a_damaged_archive_a_point_whose_values_were_changed_is_not_taken(originals, archive, tmp_path):
    """Only the content digest shows the change: HDF5's checksums are right, and the seal no longer matches anyway."""
    with h5py.File(archive, "r+") as file:
        tokens = file["requests"]["prompt_tokens"]
        tokens[1024] += 1  # of the first request of the second point
        change_column(file, "requests", "prompt_tokens", tokens)

    found, bad = merged_digests(archive, tmp_path / "new.h5")

    assert len(found) == 2
    assert found < digests(originals)
    assert ["does not match its digest" in error.message for error in bad] == [False, True]


def test_a_point_whose_stored_bytes_have_another_digest_than_it_says_is_not_copied(originals, point, tmp_path):
    offset, size = survey(point, scratch=tmp_path).stored.pieces(0, "chunks")[0]
    content = bytearray(point.read_bytes())
    content[offset + size // 2] ^= 1
    point.write_bytes(content)
    reseal(point)

    done = merge([str(point), str(originals / "b.h5")], tmp_path / "new.h5")

    assert [error.message for error in done.bad] == ["Its chunks are damaged: their bytes are not those that were written."]


# What an attacker can write, with a matching seal


def absurd(name):
    """A change that gives the dataset a much larger declared size than its data have."""

    def change(file):
        old = file[name]
        how = {"chunks": old.chunks or (1024,), "compression": "gzip", "shuffle": True, "fletcher32": True}
        tail = old.shape[1:]
        del file[name]
        file.create_dataset(name, shape=(2**42, *tail), dtype=old.dtype, maxshape=(None, *tail), **how)

    return change


def put(name, values):
    def change(file):
        file[name][...] = values

    return change


IN_A_POINT = ["requests", "chunks", "records", "logs", "summary"]
IN_AN_ARCHIVE = [*IN_A_POINT[:-1], "points/key", "points/tp", "points/image", "points/ttft_mean_s", "index/is_whole",
                 "index/requests/first", "index/chunks/rows", "index/records/xxh3_128"]  # fmt: skip


def is_bad(path, of_others, *, readers=(collect, check)):
    """Checks that every reader refuses the file, that its neighbour is read, and that the union contains nothing from the file."""
    for found in (read([str(path), of_others]) for read in readers):
        assert {error.path.split(":")[0] for error in found.bad} == {str(path)}
        assert len(found.points if hasattr(found, "points") else found.rows) == 1
    done = merge([str(path), of_others], path.parent / "new.h5")
    assert done.n_points == 1
    return done.bad[0].message


@pytest.mark.parametrize("name", IN_A_POINT)
def test_an_absurd_size_in_a_point_file_makes_it_bad(originals, point, name):
    """Only `check` finds it, because tables read only the summary."""
    assert is_bad(changed(point, absurd(name)), str(originals / "b.h5"), readers=(check,))


@pytest.mark.parametrize("name", IN_AN_ARCHIVE)
def test_an_absurd_size_in_an_archive_makes_it_bad(originals, archive, tmp_path, name):
    write_point(tmp_path / "other.h5", measured("z" * 20))
    changed(archive, absurd(name))

    done = merge([str(archive), str(tmp_path / "other.h5")], tmp_path / "new.h5")

    assert {error.path.split(":")[0] for error in done.bad} == {str(archive)}
    assert {m.digest() for m, _, _ in measurements(tmp_path / "new.h5")} <= {measured("z" * 20).digest(), *digests(originals)}


def test_an_absurd_table_of_a_source_makes_its_archive_bad(originals, archive):
    def change(file):
        absurd(f"tables/{next(iter(file['tables']))}")(file)

    assert is_bad(changed(archive, change), str(originals / "b.h5"))


@pytest.mark.parametrize("text", [b"{oops", b"[]", b'{"name": 1}', b'{"name": "t", "rows": [{"a": NaN}]}', b"[" * 5000])
def test_a_garbled_table_of_a_source_makes_its_archive_bad(originals, archive, text):
    def change(file):
        name = next(iter(file["tables"]))
        del file["tables"][name]
        file["tables"].create_dataset(name, data=np.frombuffer(text, np.uint8))

    assert is_bad(changed(archive, change), str(originals / "b.h5"))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("index/requests/first", [0, 1024, 2**40]),
        ("index/requests/first", [-1024, 1024, 2048]),
        ("index/requests/first", [5, 1024, 2048]),
        ("index/requests/first", [0, 0, 0]),
        ("index/chunks/rows", [-1, 7, 7]),
        ("index/chunks/rows", [2**62, 7, 7]),
        ("index/records/first", [0, 0, 32768]),
        ("points/key", [b"../../etc/passwd", b"b" * 20, b"c" * 20]),
        ("points/digest", [b"x" * 64, b"0" * 64, b"0" * 64]),
        ("points/source", [b"guessed", b"measured", b"measured"]),
        ("points/node", [b"\xff\xfe", b"", b""]),
        ("points/tp", np.array([8, 8, 8], np.int32)),
        ("points/duration_s", np.array([1, 1, 1], np.longdouble)),
        ("points/duration_s", np.ones((3, 2))),
    ],
    ids=str,
)
def test_an_index_or_a_summary_that_no_writer_made_makes_the_archive_bad(originals, archive, name, values):
    def change(file):
        values_ = np.array(values)
        del file[name]
        file.create_dataset(name, data=values_, chunks=values_.shape, compression="gzip", shuffle=True, fletcher32=True)

    changed(archive, change)

    done = merge([str(archive), str(originals / "b.h5")], archive.parent / "new.h5")
    assert {error.path.split(":")[0] for error in done.bad} == {str(archive)}
    assert {m.digest() for m, _, _ in measurements(archive.parent / "new.h5")} <= digests(originals)
    assert check([str(archive.parent / "new.h5")]).bad == []


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"chunks": (1024,)},
        {"chunks": (1024,), "compression": "lzf", "shuffle": True, "fletcher32": True},
        {"chunks": (1024,), "compression": "gzip", "shuffle": True},
        {"chunks": (7,), "compression": "gzip", "shuffle": True, "fletcher32": True},
    ],
    ids=["contiguous", "no filters", "another filter", "no checksum", "other chunks"],
)
@pytest.mark.parametrize("kind", ["a.h5", "archive.h5"])
def test_tables_stored_in_another_way_are_refused(originals, tmp_path, kind, how):
    path = Path(shutil.copy(originals / kind, tmp_path / "bad.h5"))

    def change(file):
        values = file["requests"][()]
        del file["requests"]
        file.create_dataset("requests", data=values, **{"maxshape": (None,), **how} if how else {})

    with pytest.raises(FileError, match="is not stored as this format requires"):
        survey(changed(path, change), scratch=tmp_path)


LINKS = {
    "soft": lambda file, name, secret: file.__setitem__(name, h5py.SoftLink("/chunks")),
    "external": lambda file, name, secret: file.__setitem__(name, h5py.ExternalLink(str(secret), "/")),
    "storage": lambda file, name, secret: file.create_dataset(name, shape=(8,), dtype="u1", external=[(str(secret), 0, 8)]),
    "virtual": lambda file, name, secret: file.create_virtual_dataset(name, virtual(secret)),
    "broken": lambda file, name, secret: file.__setitem__(name, h5py.SoftLink("/nowhere")),
}


def virtual(secret):
    layout = h5py.VirtualLayout(shape=(8,), dtype="u1")
    layout[:] = h5py.VirtualSource(str(secret), "x", shape=(8,))
    return layout


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
@pytest.mark.parametrize("name", ["requests", "logs", "index", "index/chunks/first", "points/key", "tables", "records"])
def test_a_link_or_data_in_another_file_is_not_followed(archive, tmp_path, name, link):
    (tmp_path / "secret").write_bytes(b"12345678")

    def change(file):
        del file[name]
        link(file, name, tmp_path / "secret")

    with pytest.raises(FileError) as refused:
        survey(changed(archive, change), scratch=tmp_path)
    said = ("is a link to another place", "keeps its data in another file", "is not stored as this format requires", "is no group")
    assert any(words in refused.value.message for words in said)


SUMMARIES = {
    "a count of 70 bits": ("tp", 2**70),
    "a figure that is text": ("tpot_median_s", "fast"),
    "a text that is a number": ("node", 5),
    "a text of a megabyte": ("image", "x" * 2**20),
    "a figure beyond numbers": ("tpot_median_s", 10**400),
    "a truth in a count's place": ("tp", True),
    "a key that is a path": ("key", "../../etc/passwd"),
}


@pytest.mark.parametrize(("name", "value"), SUMMARIES.values(), ids=SUMMARIES)
def test_a_summary_that_no_writer_made_makes_the_point_bad(originals, point, name, value):
    def change(file):
        told = json.loads(file["summary"][()].tobytes())
        told["columns"][name] = value
        del file["summary"]
        file.create_dataset("summary", data=np.frombuffer(json.dumps(told).encode(), np.uint8))

    assert is_bad(changed(point, change), str(originals / "b.h5"))


def test_a_summary_that_no_writer_made_is_found_without_hdf5_too(originals, point):
    for i, (name, value) in enumerate(SUMMARIES.values()):
        bad = Path(shutil.copy(point, point.parent / f"bad{i}.h5"))
        assert is_bad(reseal_quickly(bad, lambda told, n=name, v=value: told["columns"].update({n: v})), str(originals / "b.h5"))


def stored(told, table="chunks"):
    return told["stored"][table]


PLACES = {
    "no table": lambda told: told["stored"].pop("logs"),
    "no chunk": lambda told: stored(told)["chunks"].clear(),
    "half a place": lambda told: stored(told)["chunks"].pop(),
    "a place beyond the file": lambda told: stored(told)["chunks"].__setitem__(slice(2), [2**40, 10]),
    "a place before the file": lambda told: stored(told)["chunks"].__setitem__(slice(2), [-5, 10]),
    "a size of nothing": lambda told: stored(told)["chunks"].__setitem__(slice(2), [600, 0]),
    "a size below nothing": lambda told: stored(told)["chunks"].__setitem__(slice(2), [600, -1]),
    "a size beyond the file": lambda told: stored(told)["chunks"].__setitem__(slice(2), [600, 2**62]),
    "a fraction": lambda told: stored(told)["chunks"].__setitem__(slice(2), [600.5, 10]),
    "a truth": lambda told: stored(told)["chunks"].__setitem__(slice(2), [True, 10]),
    "the whole file in every table": lambda told: [stored(told, t)["chunks"].__setitem__(slice(2), [1, 20_000]) for t in TABLES],
    "more rows": lambda told: stored(told).update(rows=10**9),
    "rows below nothing": lambda told: stored(told).update(rows=-5),
    "rows beyond numbers": lambda told: stored(told).update(rows=10**400),
    "rows that are text": lambda told: stored(told).update(rows="7"),
    "a digest that is none": lambda told: stored(told).update(xxh3_128="../../etc"),
    "no places": lambda told: told.pop("stored"),
    "no columns": lambda told: told.pop("columns"),
    "a list": lambda told: told.update(stored=[]),
}


@pytest.mark.parametrize("change", PLACES.values(), ids=PLACES)
def test_places_that_cannot_be_make_the_point_bad(originals, point, change):
    assert is_bad(reseal_quickly(point, change), str(originals / "b.h5"))


@pytest.mark.parametrize("is_told", [True, False], ids=["told by the seal", "asked of HDF5"])
def test_a_chunk_of_more_bytes_than_its_rows_can_take_makes_the_point_bad(originals, tmp_path, is_told):
    write_point(tmp_path / "long.h5", measured(log=os.urandom(60_000).hex()))
    if is_told:
        reseal_quickly(tmp_path / "long.h5", lambda told: stored(told, "logs")["chunks"].__setitem__(1, 40_000))
    else:
        with h5py.File(tmp_path / "long.h5", "r+") as file:
            file["logs"].id.write_direct_chunk((0,), bytes(40_000))
        reseal(tmp_path / "long.h5")

    assert "larger than" in is_bad(tmp_path / "long.h5", str(originals / "b.h5"), readers=())


def test_stored_bytes_that_are_not_what_their_place_says_are_refused_by_a_merge(originals, point):
    def change(told):
        stored(told)["chunks"][0] += 1

    assert "chunks are damaged" in is_bad(reseal_quickly(point, change), str(originals / "b.h5"), readers=())


def test_a_figure_that_a_stranger_changed_is_named_by_check(point):
    def change(file):
        text = file["summary"][()].tobytes().replace(b'"tp": 8', b'"tp": 4')
        file["summary"][...] = np.frombuffer(text, np.uint8)

    ((_, judged),) = check([str(changed(point, change))]).points.items()

    assert judged.differing == ("tp is stored as 4, but the raw times give 8",)


# What a file states about itself

ATTRIBUTES = {
    "a newer format": ({"format": 99}, "reads format 2"),
    "no number": ({"format": "new"}, "not a number"),
    "a negative format": ({"format": -1}, "reads format 2"),
    "an array of formats": ({"format": np.arange(3)}, "not a number"),
    "no kind": ({"kind": "poem"}, "not written by glm5bench"),
    "kinds": ({"kind": np.array([b"point", b"archive"])}, "not written by glm5bench"),
    "an empty kind": ({"kind": h5py.Empty("f")}, "not written by glm5bench"),
    "another kind": ({"kind": "archive"}, "missing"),
}


@pytest.mark.parametrize(("attributes", "why"), ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_what_a_file_says_of_itself_may_be_garbage(originals, point, attributes, why):
    message = is_bad(changed(point, lambda file: file.attrs.update(attributes)), str(originals / "b.h5"))

    assert why in message


SEALS = [
    b"", STRUCTURE, STRUCTURE + b"x 1 1", STRUCTURE + b"0 1", STRUCTURE + b"0  1", STRUCTURE + b"0 -1 1", STRUCTURE + b"0 1 ",
    STRUCTURE + b"0 " + b"9" * 400 + b" 1", STRUCTURE + b"0 1 " + b"9" * 400, STRUCTURE + b"\xff \xff \xff", MAGIC, MAGIC + b"\xff" * 64,
    MAGIC + b"0" * 400,
]  # fmt: skip


@pytest.mark.parametrize("seal", SEALS, ids=range(len(SEALS)))
@pytest.mark.parametrize("name", ["a.h5", "archive.h5"])
def test_a_seal_of_garbage_is_damage(originals, tmp_path, name, seal):
    path = tmp_path / "bad.h5"
    path.write_bytes((seal + b"\n").ljust(BLOCK, b"\0") + (originals / name).read_bytes()[BLOCK:])

    found, bad = merged_digests(path, tmp_path / "new.h5")

    assert "its bytes are not those that were written" in bad[0].message or "it has no seal" in bad[0].message
    assert found <= digests(originals)


AROUND = [[BLOCK, 2**63 - 1], [-(2**63) + 5, -1], [BLOCK, BLOCK]]  # increasing, in 64-bit arithmetic


@pytest.mark.parametrize("ranges", [[[-(2**63), 2**62]], [[BLOCK, 2**62]], AROUND, [[0, 100]], [[5000, 600]]], ids=str)
def test_an_absurd_table_of_what_is_sealed_is_damage(archive, ranges, tmp_path):
    content = archive.read_bytes()
    end = int(content.split(b"\n")[0].split(b" ")[-2])
    line = STRUCTURE + f"{'0' * 64} {end} {len(ranges)}\n".encode()
    archive.write_bytes(line.ljust(BLOCK, b"\0") + content[BLOCK:end] + np.array(ranges, "<i8").tobytes())

    _, bad = merged_digests(archive, tmp_path / "new.h5")

    assert "its bytes are not those that were written" in bad[0].message


# The content of a folder


def test_a_folder_of_strange_things_is_gone_through_and_each_is_named(originals, tmp_path):
    """Circular links, pipes, folders with the name of a file, names that are not text."""
    folder = tmp_path / "folder"
    (folder / "is_a_folder.h5").mkdir(parents=True)
    shutil.copy(originals / "a.h5", folder / "is_a_folder.h5/good.h5")
    for name in ("parent", "and_again"):
        (folder / name).symlink_to(folder)
    (folder / "itself.h5").symlink_to(folder / "itself.h5")
    (folder / "nowhere.h5").symlink_to(folder / "gone")
    os.mkfifo(folder / "pipe.h5")
    (folder / "two\nlines.h5").write_bytes(b"")
    (folder / "\x1b[31mred.h5").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.h5")).write_bytes(b"")
    h5py.File(folder / "foreign.h5", "w").close()
    strange = ["itself.h5", "nowhere.h5", "pipe.h5", "two?lines.h5", "?[31mred.h5", "??.h5", "foreign.h5"]

    done = {verb: bench(tmp_path, verb, "folder", *more) for verb, more in {"merge": ["-o", "all.h5"], "check": [], "tables": []}.items()}

    for verb, run in done.items():
        assert run.returncode == 1, verb
        assert "Traceback" not in run.stderr
        named = [line.removeprefix("skipped: ").split(": ")[0] for line in run.stderr.splitlines() if line.startswith("skipped")]
        assert sorted(named) == sorted(f"folder/{name}" for name in strange)
    assert collect([str(tmp_path / "all.h5")]).digest() == collect([str(originals / "a.h5")]).digest()


def test_bad_names_are_printed_as_json_too(originals, tmp_path):
    (tmp_path / os.fsdecode(b"\xff.h5")).write_bytes(b"")
    shutil.copy(originals / "a.h5", tmp_path)

    done = bench(tmp_path, "check", ".", "--json")

    assert (done.returncode, len(json.loads(done.stdout)["bad"])) == (1, 1)


def test_what_may_not_be_read_is_named(originals, tmp_path):
    """Runs as the user nobody, because root may read everything."""
    folder = tmp_path / "folder"
    (folder / "closed").mkdir(parents=True)
    for name in ("open.h5", "secret.h5", "closed/c.h5"):
        shutil.copy(originals / "a.h5", folder / name)
    os.chmod(folder / "secret.h5", 0)
    os.chmod(folder / "closed", 0)
    for above in folder.relative_to("/").parents:
        if os.stat("/" / above).st_uid == os.getuid() and above != Path():
            os.chmod("/" / above, os.stat("/" / above).st_mode | 0o055)

    found = as_nobody(lambda: collect([str(folder)]))

    assert len(found.rows) == 1
    assert {e.path: e.message for e in found.bad} == {
        str(folder / "secret.h5"): "The file cannot be read: Permission denied.",
        str(folder / "closed"): "The folder cannot be read.",
    }


def as_nobody(work):
    """The result of `work` in a process without privileges."""
    ours, theirs = multiprocessing.Pipe()
    pid = os.fork()
    if not pid:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        try:
            theirs.send(work())
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    return ours.recv()


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "newer", "foreign"])
@pytest.mark.parametrize("verb", ["merge", "check"])
def test_the_program_names_a_bad_file_in_one_line_and_ends_with_1(originals, point, damage, verb, tmp_path):
    content = point.read_bytes()
    if damage == "newer":
        changed(point, lambda file: file.attrs.update(format=99))
    elif damage == "foreign":
        h5py.File(point, "w").close()
    else:
        point.write_bytes({"cut": content[:5000], "bit": content[:9000] + b"\x80" + content[9001:], "empty": b""}[damage])

    done = bench(tmp_path, verb, "bad.h5", str(originals / "b.h5"), *(["-o", "all.h5"] if verb == "merge" else []))

    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert sum(line.startswith("skipped: bad.h5: ") for line in done.stderr.splitlines()) == 1
    if damage == "newer":
        assert "update glm5bench" in done.stderr
