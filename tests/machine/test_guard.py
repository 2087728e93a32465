"""The key of a server is removed before anything else, and from its log wherever it is."""

import os
import stat

import pytest

from glm5bench.machine.guard import KEY_FILE, LOG, PIECE, clean_up

KEY = b"k" * 32


@pytest.mark.parametrize("at", [0, 10, PIECE - 32, PIECE - 16, PIECE - 1, PIECE, 2 * PIECE - 5])
def test_the_key_is_removed_from_the_log_also_across_two_pieces(tmp_path, at):
    (tmp_path / KEY_FILE).write_bytes(KEY)
    (tmp_path / LOG).write_bytes(b"a" * at + KEY + b"b" * (PIECE + 7) + KEY + b"end")

    clean_up(str(tmp_path), "")

    assert (tmp_path / LOG).read_bytes() == b"a" * at + b"<redacted>" + b"b" * (PIECE + 7) + b"<redacted>end"
    assert not (tmp_path / KEY_FILE).exists()
    assert not stat.S_IMODE((tmp_path / LOG).stat().st_mode) & 0o022


def test_a_log_or_key_that_is_a_link_is_left_alone(tmp_path):
    secret = tmp_path / "elsewhere"
    secret.write_bytes(b"of somebody else " + KEY)
    (tmp_path / KEY_FILE).write_bytes(KEY)
    os.symlink(secret, tmp_path / LOG)

    clean_up(str(tmp_path), "")

    assert secret.read_bytes() == b"of somebody else " + KEY
    assert (tmp_path / LOG).is_symlink()
    assert not (tmp_path / KEY_FILE).exists()
