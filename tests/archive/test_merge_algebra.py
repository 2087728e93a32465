"""Merging is a set union of measurements. The order, grouping, repetition and format of the sources do not matter."""

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import measured, raw, reseal, three_requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from program import TESTS

from glm5bench.archive.checking import check
from glm5bench.archive.collection import collect
from glm5bench.archive.contents import SourceTable
from glm5bench.archive.decoding import measurements
from glm5bench.archive.measurement import COUNTS, TIMES, Measurement
from glm5bench.archive.pointfile import read_point, write_point
from glm5bench.archive.sealed import STRUCTURE
from glm5bench.archive.survey import survey
from glm5bench.archive.union import merge, write_measurements

PAST = TESTS / "data/format2"
RAW = (*TIMES, *COUNTS, "chunk_ns", "chunk_tokens", "chunk_offsets")
KEY = "k" * 20


def published(key):
    point = {**measured().point, "gpus": 8, "concurrency": 16}
    return Measurement(key, "published", point, {}, stated={"tpot_median_s": 0.01, "total_tput_per_gpu_tok_s": 100.0})


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """New and old files: points, one key measured twice, a published point, archives that overlap them, a source table."""
    folder = tmp_path_factory.mktemp("sources")
    for name, m in {
        "one": measured("a" * 20),
        "again": measured("a" * 20, provenance={"host": "gpu002"}),
        "failed": measured("b" * 20, requests=three_requests(error=["", "late", "late"])),
        "empty": measured("c" * 20, requests=raw([], [], [], prompt=[], out=[])),
        "published": published("d" * 20),
    }.items():
        write_point(folder / f"{name}.h5", m)
    made = [str(folder / f"{name}.h5") for name in ("one", "again", "failed", "empty", "published")]
    write_measurements(folder / "table.h5", [], [SourceTable("t", ({"cell": "0.51"},))])
    merge([*made[:2], str(PAST / "point.h5")], folder / "archive.h5")
    merge(made[2:4], folder / "summary.h5", is_raw_kept=False)
    return [*made, *(str(folder / f"{n}.h5") for n in ("table", "archive", "summary")), *(str(f) for f in sorted(PAST.glob("*.h5")))]


def said(path):
    """The digest that an archive states."""
    with h5py.File(path) as file:
        return str(file.attrs["content_digest"])


def digests_of(path):
    """The digests of a set: stated in its archive, computed from its summaries, and computed from its judged points."""
    return {said(path), collect([str(path)]).digest(), check([str(path)]).digest()}


def merged(folder, name, sources, **how):
    """The archive that a merge of the sources writes."""
    done = merge(sources, folder / f"{name}.h5", **how)
    assert (said(folder / f"{name}.h5"), []) == (done.digest, done.bad)
    return str(folder / f"{name}.h5")


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_order_grouping_and_repetition_gives_the_same_set(sources, tmp_path_factory, data):
    some = data.draw(st.lists(st.sampled_from(sources), min_size=2, max_size=5, unique=True))
    order = data.draw(st.permutations(some + data.draw(st.lists(st.sampled_from(some), max_size=3))))
    cut = data.draw(st.integers(1, len(order) - 1))
    folder = tmp_path_factory.mktemp("merge")

    left = merged(folder, "left", order[:cut])
    both = merged(folder, "both", [*order[cut:], left], jobs=2)

    assert digests_of(both) == {collect(some).digest()}


@settings(max_examples=4, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_with_summaries_among_them_every_grouping_gives_the_same_set(sources, tmp_path_factory, data):
    """A summary is a subset of its point: if both are merged, the complete point is kept."""
    some = data.draw(st.lists(st.sampled_from(sources), min_size=2, max_size=4))
    is_kept = data.draw(st.lists(st.booleans(), min_size=len(some), max_size=len(some)))
    folder = tmp_path_factory.mktemp("merge")
    made = [merged(folder, f"{i}", [s], is_raw_kept=k) for i, (s, k) in enumerate(zip(some, is_kept, strict=True))]

    nested = made[0]
    for i, one in enumerate(made[1:]):
        nested = merged(folder, f"nested{i}", [one, nested] if i % 2 else [nested, one])

    flat = merged(folder, "flat", data.draw(st.permutations(made)))
    assert digests_of(nested) == digests_of(flat) == {collect(made).digest()}


def test_merging_an_archive_with_itself_is_that_archive(sources, tmp_path):
    once = merged(tmp_path, "once", sources)

    assert Path(merged(tmp_path, "again", [once, once])).read_bytes() == Path(merged(tmp_path, "alone", [once])).read_bytes()
    assert digests_of(tmp_path / "again.h5") == digests_of(once)


@pytest.mark.parametrize("is_summary_first", [True, False])
def test_a_summary_united_with_the_whole_point_is_the_whole_point(sources, tmp_path, is_summary_first):
    whole = merged(tmp_path, "whole", sources[:1])
    summary = merged(tmp_path, "summary", sources[:1], is_raw_kept=False)
    assert digests_of(summary) != digests_of(whole)

    both = merged(tmp_path, "both", [summary, whole] if is_summary_first else [whole, summary])

    assert digests_of(both) == digests_of(whole)
    (m, _, _), (original, _) = next(measurements(Path(both))), read_point(Path(sources[0]))
    assert np.array_equal(m.requests.chunk_ns, original.requests.chunk_ns)


def test_a_summary_keeps_the_figures_of_the_whole_point(sources, tmp_path):
    rows = [collect([merged(tmp_path, f"{kept}", sources[:5], is_raw_kept=kept)]).rows for kept in (True, False)]

    whole, summary = ({name: repr(dataclasses.replace(row, origin="")) for name, row in r.items()} for r in rows)
    assert whole == summary
    assert len(whole) == 5


def test_every_point_of_a_merge_of_merges_is_bit_for_bit_the_one_that_was_written(sources, tmp_path):
    path = Path(merged(tmp_path, "c", [merged(tmp_path, "b", [merged(tmp_path, "a", sources[:5])])]))

    found = {digest: m for m, _, digest in measurements(path)}

    assert len(found) == 5
    for original, digest in map(read_point, map(Path, sources[:5])):
        m = found[digest]
        assert dataclasses.replace(m, requests=None) == dataclasses.replace(original, requests=None)
        assert (m.requests is None) == (original.requests is None)
        if m.requests is not None:
            assert m.requests.error == original.requests.error
            assert [np.array_equal(getattr(m.requests, c), getattr(original.requests, c)) for c in RAW] == [True] * len(RAW)


def test_the_same_measurement_is_one_whatever_its_file_is_called(tmp_path):
    for name in ("a", "b/c"):
        write_point(tmp_path / f"{name}.h5", measured(KEY))

    assert len(list(measurements(Path(merged(tmp_path, "all", [str(tmp_path)]))))) == 1


def test_different_measurements_of_one_key_are_both_kept_and_told_apart(tmp_path):
    for host in ("gpu001", "gpu002"):
        write_point(tmp_path / f"points/{host}.h5", measured(KEY, provenance={"host": host}))

    path = Path(merged(tmp_path, "all", [str(tmp_path / "points")]))

    told = [values for _, values, _ in measurements(path)]
    assert [v["key"] for v in told] == [KEY, KEY]
    assert {v["node"] for v in told} == {"gpu001", "gpu002"}
    assert {v["digest"] for v in told} == {m.digest() for m, _, _ in measurements(path)}
    assert len(collect([str(path)]).rows) == 2


def test_of_two_figures_for_one_measurement_the_same_one_stays_whatever_the_order(tmp_path):
    """No writer makes such files. A modified file must not make the union depend on the order of the sources."""
    for name in "ab":
        write_point(tmp_path / f"{name}.h5", measured(KEY))
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        text = file["summary"][()].tobytes().replace(b'"node": "gpu001"', b'"node": "gpu009"')
        file["summary"][...] = np.frombuffer(text, np.uint8)
    reseal(tmp_path / "b.h5")

    a, b = str(tmp_path / "a.h5"), str(tmp_path / "b.h5")
    nodes = [next(measurements(Path(merged(tmp_path, f"m{i}", order))))[1]["node"] for i, order in enumerate(([a, b], [b, a]))]

    assert nodes[0] == nodes[1]


def test_damaged_points_of_an_archive_are_left_out(tmp_path):
    for i in range(4):
        write_point(tmp_path / f"p{i}.h5", measured(f"{i:020d}"))
    merge([str(tmp_path / f"p{i}.h5") for i in range(3)], tmp_path / "some.h5")
    offset, size = survey(tmp_path / "some.h5", scratch=tmp_path).stored.pieces(1, "chunks")[0]
    content = bytearray((tmp_path / "some.h5").read_bytes())
    content[offset + size // 2] ^= 1
    (tmp_path / "some.h5").write_bytes(content)

    done = merge([str(tmp_path / "some.h5"), str(tmp_path / "p3.h5")], tmp_path / "added.h5")

    assert (done.n_points, ["chunks are damaged" in e.message for e in done.bad]) == (3, [True])
    assert sorted(check([str(tmp_path / "added.h5")]).points) == sorted(collect([str(tmp_path / f"p{i}.h5") for i in (0, 2, 3)]).rows)


def damaged_copy(path, to):
    """A copy of the point with one changed byte in its stored chunks."""
    offset, size = survey(path, scratch=path.parent).stored.pieces(0, "chunks")[0]
    content = bytearray(path.read_bytes())
    content[offset + size // 2] ^= 1
    to.write_bytes(content)


@pytest.mark.parametrize(
    "names", [("bad", "good"), ("good", "bad"), ("bad", "worse", "good"), ("bad", "archive"), ("worse", "bad", "archive")], ids="-".join
)
def test_a_damaged_file_takes_no_place_from_the_same_point_elsewhere(tmp_path, names):
    """A merge selects the first copy before it knows which copies are damaged."""
    write_point(tmp_path / "good.h5", measured())
    for name in ("bad", "worse"):
        damaged_copy(tmp_path / "good.h5", tmp_path / f"{name}.h5")
    merge([str(tmp_path / "good.h5")], tmp_path / "archive.h5")
    whole = merge([str(tmp_path / "good.h5")], tmp_path / "whole.h5")

    done = merge([str(tmp_path / f"{name}.h5") for name in names], tmp_path / "new.h5")

    assert (done.digest, done.n_points) == (whole.digest, 1)
    assert sorted(Path(e.path).stem for e in done.bad) == sorted({"bad", "worse"} & set(names))
    assert {c.is_good for c in check([str(tmp_path / "new.h5")]).points.values()} == {True}


def test_a_damaged_whole_copy_of_a_point_leaves_the_summary_that_is_here(tmp_path):
    write_point(tmp_path / "good.h5", measured())
    damaged_copy(tmp_path / "good.h5", tmp_path / "bad.h5")
    summary = merge([str(tmp_path / "good.h5")], tmp_path / "summary.h5", is_raw_kept=False)

    done = merge([str(tmp_path / "summary.h5"), str(tmp_path / "bad.h5")], tmp_path / "new.h5")

    assert (done.digest, done.n_points, len(done.bad)) == (summary.digest, 1, 1)


@pytest.mark.parametrize("words", [b"", b"x", b"x 600", b"x 600 10000000000000", b"x 99999999999999 1", b"x y z", b"x 1 0"])
def test_a_file_that_begins_like_an_archive_and_is_none_costs_no_other(tmp_path, words):
    write_point(tmp_path / "p.h5", measured())
    (tmp_path / "bad.h5").write_bytes((STRUCTURE + words + b"\n").ljust(40_000, b"\0"))

    done = merge([str(tmp_path / "bad.h5"), str(tmp_path / "p.h5")], tmp_path / "new.h5")

    assert (done.n_points, [e.path for e in done.bad]) == (1, [str(tmp_path / "bad.h5")])
