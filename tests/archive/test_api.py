"""Archives from Python."""

import pytest
from conftest import measured

from glm5bench import api
from glm5bench.archive.decoding import measurements
from glm5bench.archive.pointfile import write_point
from glm5bench.errors import FileError, UsageError


def test_published_points_come_as_a_frame_with_a_row_each():
    frame = api.points(api.open("published"))

    best = frame[(frame.hardware == "b200") & (frame.precision == "nvfp4") & (frame.tp == 8)].iloc[0]
    assert len(frame) == 53
    assert (best.concurrency, best.total_tput_per_gpu_tok_s, best.interactivity_tok_s_user) == (4, 579.2, 140.08)
    assert frame.output_tokens.isna().all()


def test_a_bad_file_is_an_error_and_no_smaller_frame(tmp_path):
    (tmp_path / "bad.h5").write_text("")

    with pytest.raises(FileError, match="not a readable HDF5"):
        api.open(["published", tmp_path])


def test_requests_and_chunks_of_a_point_come_as_frames(tmp_path):
    write_point(tmp_path / "p.h5", measured())
    api.merge([tmp_path], tmp_path / "a.h5")

    requests, chunks = api.raw(api.open(tmp_path / "a.h5"), "a" * 20)

    assert requests.sent_ns.tolist() == [0, 0, 3_000_000_000]
    assert chunks.groupby("request").tokens.sum().tolist() == [5, 4, 11]
    assert chunks.arrival_ns.tolist() == [int(s * 1e9) for s in (1, 2, 3, 2, 5, 4, 6)]


def test_a_key_that_names_no_point_or_several_is_said(tmp_path):
    for host in "xy":
        write_point(tmp_path / f"{host}.h5", measured(provenance={"host": host}))
    archive = api.open(tmp_path)
    name = "-".join(next(measurements(tmp_path / "x.h5"))[1][part] for part in ("key", "digest"))

    with pytest.raises(UsageError, match="matches 2 measurements"):
        api.raw(archive, "a" * 20)
    with pytest.raises(UsageError, match="is not the key of a point"):
        api.raw(archive, "b")
    assert len(api.raw(archive, name[:37])[0]) == 3


def test_a_point_without_times_is_said(tmp_path):
    archive = api.open("published")

    with pytest.raises(FileError, match="contains no times"):
        api.raw(archive, api.points(archive).key[0])
