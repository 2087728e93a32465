import pytest

from glm5bench.errors import FileError
from glm5bench.store.frames import points


def test_published_points_come_as_a_frame_with_a_row_each():
    frame = points(["published"])

    best = frame[(frame.hardware == "b200") & (frame.precision == "nvfp4") & (frame.tp == 8)].iloc[0]
    assert len(frame) == 53
    assert (best.concurrency, best.total_tput_per_gpu_tok_s, best.interactivity_tok_s_user) == (4, 579.2, 140.08)


def test_a_bad_file_is_an_error_and_no_smaller_frame(tmp_path):
    (tmp_path / "bad.h5").write_text("")

    with pytest.raises(FileError, match="no readable HDF5"):
        points(["published", str(tmp_path)])
