"""Point files are complete and read back unchanged, or they are refused."""

import dataclasses
import json

import h5py
import numpy as np
import pytest
from conftest import besides_waves, change_column, measured, raw, reseal, three_requests
from hypothesis import given, settings
from hypothesis import strategies as st

from glm5bench.archive.collection import collect
from glm5bench.archive.decoding import measurements
from glm5bench.archive.measurement import COUNTS, TIMES, Measurement
from glm5bench.archive.pointfile import read_point, write_point
from glm5bench.archive.summary import row_of
from glm5bench.archive.union import merge
from glm5bench.errors import EnvironmentLacks, FileError

NS = st.integers(-1, 2**62)


@pytest.fixture
def written(tmp_path):
    write_point(tmp_path / "p.h5", measured(server={"max_running": 48}, log="ready\n"))
    return tmp_path / "p.h5"


def changed(path, change):
    with h5py.File(path, "r+") as file:
        change(file)
    reseal(path)
    return path


def put(file, name, values):
    """Replaces the values of a dataset, and stores them in the same way."""
    how = {k: getattr(file[name], k) for k in ("chunks", "compression", "shuffle", "fletcher32")}
    del file[name]
    if np.ndim(values) == 1:
        how["maxshape"] = (None,)
    else:
        how = {}
    file.create_dataset(name, data=values, **how)


def put_record(file, **parts):
    record = json.loads(file["records"][()].tobytes()) | parts
    put(file, "records", np.frombuffer(json.dumps(record).encode(), dtype=np.uint8))


def test_a_point_is_read_back_as_it_was_written(tmp_path):
    m = measured(server={"max_running": 48}, log="ready\nä\n", provenance={"host": "gpu001", "lag": 0.1})
    digest = write_point(tmp_path / "p.h5", m)

    read, stored = read_point(tmp_path / "p.h5")

    assert stored == digest == read.digest()
    assert (read.key, read.source, read.point, read.provenance, read.server, read.log) == (
        m.key, m.source, m.point, m.provenance, m.server, m.log,
    )  # fmt: skip
    assert read.figures() == m.figures()


def test_a_published_point_has_stated_figures_and_no_requests(tmp_path):
    write_point(tmp_path / "p.h5", Measurement("k", "published", {"tp": 8}, {}, stated={"tpot_median_s": 0.01}))

    read, _ = read_point(tmp_path / "p.h5")

    assert (read.requests, read.stated) == (None, {"tpot_median_s": 0.01})


def test_every_dataset_has_a_unit_and_axes(written):
    missing = []
    with h5py.File(written) as file:
        file.visititems(lambda name, o: missing.append(name) if isinstance(o, h5py.Dataset) and {"unit", "axes"} - set(o.attrs) else None)

    assert missing == []


def test_nothing_is_left_beside_a_written_file(written):
    assert [f.name for f in written.parent.iterdir()] == ["p.h5"]


def test_a_file_that_cannot_be_written_leaves_nothing_and_says_where(tmp_path):
    (tmp_path / "points").write_text("a file in the place of a directory")

    with pytest.raises(EnvironmentLacks) as refused:
        write_point(tmp_path / "points" / "p.h5", measured())

    assert refused.value.where == str(tmp_path / "points")


@pytest.mark.parametrize(
    "other",
    [{"key": "b" * 20}, {"source": "simulated"}, {"point": {}}, {"provenance": {}}, {"server": {"a": 1}}, {"log": "x"},
     {"stated": {"a": 1.0}},
     {"requests": three_requests(out=[5, 4, 10])}, {"requests": three_requests(error=["", "", "late"])}, {"requests": None}],
    ids=lambda o: next(iter(o)),
)  # fmt: skip
def test_the_digest_covers_every_part(other):
    assert dataclasses.replace(measured(), **other).digest() != measured().digest()


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: change_column(f, "requests", "last_token_ns", [1, 2, 3]),
        lambda f: change_column(f, "chunks", "tokens", 1),
        lambda f: f.attrs.update(key="c" * 20),
        lambda f: f.attrs.update(content_digest="0" * 64),
        lambda f: put_record(f, point={"tp": 4}),
    ],
    ids=["times", "chunks", "key", "digest", "point"],
)
def test_a_file_whose_content_was_changed_is_refused(written, damage):
    with pytest.raises(FileError, match="does not match its digest"):
        read_point(changed(written, damage))


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: f.__delitem__("logs"),
        lambda f: put(f, "requests", f["requests"][()][["due_ns", "sent_ns"]]),
        lambda f: f.attrs.__delitem__("content_digest"),
        lambda f: put(f, "records", np.frombuffer(b"{oops", dtype=np.uint8)),
        lambda f: put(f, "records", np.frombuffer(b"[]", dtype=np.uint8)),
        lambda f: put_record(f, point=[]),
        lambda f: put(f, "requests", f["requests"][:2]),
        lambda f: change_column(f, "chunks", "request", [0, 0, 0, 1, 1, 2, 3]),
        lambda f: change_column(f, "chunks", "request", [0, 0, 0, 1, 1, 2, -1]),
        lambda f: change_column(f, "requests", "error", [0, 0, 1]),
        lambda f: put(f, "requests", f["requests"][()][:, None]),
        lambda f: put(f, "requests", np.array([b"a", b"b", b"c"])),
    ],
    ids=[
        "no log",
        "no column",
        "no digest",
        "no JSON",
        "no record",
        "no point",
        "a request less",
        "beyond",
        "below",
        "no text",
        "2-D",
        "text",
    ],
)
def test_a_damaged_file_is_refused(written, damage):
    with pytest.raises(FileError, match="is damaged") as refused:
        read_point(changed(written, damage))

    assert refused.value.path == str(written)


def test_a_size_that_the_stored_bytes_cannot_hold_is_refused_before_it_is_allocated(written):
    def bomb(file):
        dtype = file["chunks"].dtype
        del file["chunks"]
        how = {"chunks": (2**16,), "compression": "gzip", "shuffle": True, "fletcher32": True, "maxshape": (None,)}
        file.create_dataset("chunks", shape=(2**40,), dtype=dtype, **how)

    with pytest.raises(FileError, match="more than its stored bytes can hold"):
        read_point(changed(written, bomb))


def test_a_source_that_is_none_is_refused(written):
    with pytest.raises(FileError, match="guessed"):
        read_point(changed(written, lambda f: f.attrs.update(source="guessed")))


def test_a_newer_format_is_refused_with_what_to_do(written):
    with pytest.raises(FileError) as refused:
        read_point(changed(written, lambda f: f.attrs.update(format=3)))

    assert refused.value.next_step == "update glm5bench"


def test_a_file_of_another_program_is_refused(tmp_path):
    h5py.File(tmp_path / "p.h5", "w").close()

    with pytest.raises(FileError, match="not written by glm5bench"):
        read_point(tmp_path / "p.h5")


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"{}"])
def test_a_file_that_is_no_hdf5_is_refused(tmp_path, content):
    (tmp_path / "p.h5").write_bytes(content)

    with pytest.raises(FileError, match="not a readable HDF5 file"):
        read_point(tmp_path / "p.h5")


def test_a_truncated_file_is_refused(written):
    written.write_bytes(written.read_bytes()[:-1000])

    with pytest.raises(FileError):
        read_point(written)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileError) as refused:
        read_point(tmp_path / "p.h5")

    assert refused.value.path == str(tmp_path / "p.h5")


def test_an_archive_is_no_point_file(tmp_path):
    write_point(tmp_path / "p.h5", measured())
    merge([str(tmp_path / "p.h5")], tmp_path / "a.h5")

    with pytest.raises(FileError, match="not a point file"):
        read_point(tmp_path / "a.h5")


def test_a_point_that_lacks_a_field_is_refused_with_its_file():
    m = measured()

    with pytest.raises(FileError, match="is missing or invalid: 'tp'") as refused:
        row_of(dataclasses.replace(m, point={k: v for k, v in m.point.items() if k != "tp"}), "d", "x.h5")
    assert refused.value.path == "x.h5"


def test_a_row_holds_the_figures_per_gpu():
    row = row_of(measured(), "d", "x.h5")

    assert row.total_tput_per_gpu_tok_s == pytest.approx(80 / 6 / 8)
    assert (row.input_tput_per_gpu_tok_s, row.output_tput_per_gpu_tok_s) == (pytest.approx(60 / 6 / 8), pytest.approx(20 / 6 / 8))
    assert (row.tpot_median_s, row.n_requests, row.validity) == (pytest.approx(0.5), 3, "flagged")


def test_the_verdict_is_recomputed_from_what_was_observed():
    m = measured(server={"max_running": 1, "peak_running": 1}, provenance={"clock_step_s": 9.0})

    assert besides_waves(m.verdict()).codes == ("admission_capped", "clock_step")


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_requests_survive_a_file(tmp_path_factory, data):
    n = data.draw(st.integers(0, 40))
    sizes = data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    empty = raw([0] * n, [0] * n, [0] * n, prompt=[0] * n, out=[0] * n, chunks=[[(0, 1)] * size for size in sizes])
    times = {name: np.array(data.draw(st.lists(NS, min_size=n, max_size=n)), dtype=np.int64) for name in TIMES}
    errors = tuple(data.draw(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), min_size=n, max_size=n)))
    m = measured(requests=dataclasses.replace(empty, **times, error=errors))
    path = tmp_path_factory.mktemp("any") / "p.h5"

    write_point(path, m)
    read = read_point(path)[0].requests

    assert read.error == errors
    for name in (*TIMES, *COUNTS, "chunk_ns", "chunk_tokens", "chunk_offsets"):
        assert np.array_equal(getattr(read, name), getattr(m.requests, name))


def test_fields_and_groups_of_a_later_program_are_passed_over(tmp_path):
    """docs/multinode.md: absent fields keep their present meaning, and unknown fields are ignored."""
    plain, later = tmp_path / "p.h5", tmp_path / "later.h5"
    write_point(plain, measured())
    m = measured(nodes=2, roles=[{"name": "decode", "tp": 16}], gpus=16, tp=16, provenance={"host": "a", "hosts": ["a", "b"]})
    write_point(later, m)
    changed(later, lambda file: file.create_group("colours").create_dataset("red", data=[1.0]))
    read, digest = read_point(later)

    assert read.point["nodes"] == 2
    assert row_of(read, digest, "later.h5").gpus == 16
    assert read_point(plain)[0].point.get("nodes") is None


def with_asked_prompts():
    return measured(requests=dataclasses.replace(three_requests(), asked_prompt_tokens=np.array([10, 0, 31])))


def test_the_prompt_lengths_that_were_asked_for_are_read_back_and_are_in_the_digest(tmp_path):
    m = with_asked_prompts()
    digest = write_point(tmp_path / "p.h5", m)

    read, stored = read_point(tmp_path / "p.h5")

    assert read.requests.asked_prompt_tokens.tolist() == [10, 0, 31]
    assert stored == digest == read.digest() == m.digest() != measured().digest()
    assert besides_waves(read.verdict()) == besides_waves(m.verdict())


def test_prompt_lengths_that_were_changed_are_refused(tmp_path):
    write_point(tmp_path / "p.h5", with_asked_prompts())

    with pytest.raises(FileError):
        read_point(changed(tmp_path / "p.h5", lambda file: change_column(file, "requests", "asked_prompt_tokens", [10, 20, 31])))


def test_prompt_lengths_stay_with_their_point_in_an_archive(tmp_path):
    digest = write_point(tmp_path / "p.h5", with_asked_prompts())
    merge([str(tmp_path / "p.h5")], tmp_path / "a.h5")

    ((read, _, stored),) = measurements(tmp_path / "a.h5")
    assert (read.requests.asked_prompt_tokens.tolist(), stored) == ([10, 0, 31], digest)


def test_times_that_contradict_each_other_are_kept_and_no_row_of_a_table(tmp_path):
    m = measured(requests=raw([5, 0, 3], [1, 2, 4], [3, 5, 6], prompt=[1, 1, 1], out=[2, 2, 2]))
    write_point(tmp_path / "p.h5", m)

    assert read_point(tmp_path / "p.h5")[0].digest() == m.digest()
    assert "ends before it begins" in collect([str(tmp_path)]).bad[0].message


def test_a_file_from_before_there_was_telemetry_is_named_as_what_it_is(tmp_path):
    write_point(tmp_path / "p.h5", measured())

    def older(file):
        del file["telemetry"]

    with pytest.raises(FileError, match="a development version of format 2"):
        read_point(changed(tmp_path / "p.h5", older))
