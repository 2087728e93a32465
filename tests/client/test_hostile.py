"""Hostile or broken servers: whatever they send, a run ends soon, uses little memory, and keeps what it measured."""

import os
import subprocess
import sys

import pytest
from hostile import ANSWERS, MODELS, SIDE, Hostile
from program import BUSY, environment

from glm5bench.archive.pointfile import read_point

MOST_BYTES = 512 * 2**20
WORDS = ("-c", "2", "--prompts", "12", "--warmups", "0", "--input-tokens", "16", "--output-tokens", "8", "--stall-timeout", "2")


def loaded(folder, mode):
    """(exit code, most bytes of memory, standard error) of a run against such a server."""
    with Hostile(mode) as server, (folder / "said").open("w+") as said:
        command = [sys.executable, "-m", "glm5bench", "load", server.url, *WORDS, "-o", "p.h5"]
        process = subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=subprocess.DEVNULL, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        return process.returncode, used.ru_maxrss * 1024, said.read()


@pytest.mark.parametrize("mode", ANSWERS)
def test_answers_without_end_fail_with_a_class_and_the_run_ends(tmp_path, mode):
    code, size, said = loaded(tmp_path, mode)
    m, _ = read_point(tmp_path / "p.h5")

    assert (code, size < MOST_BYTES, "Traceback" in said) == (1, True, False)
    assert {error.partition(":")[0] for error in m.requests.error} <= {"too large", "hang", "unreadable", "HTTP 500", "stopped"}
    assert "failed_requests" in m.verdict().codes


@pytest.mark.parametrize("mode", SIDE)
def test_side_answers_without_end_or_sense_cost_no_finished_run(tmp_path, mode):
    code, size, said = loaded(tmp_path, mode)
    m, _ = read_point(tmp_path / "p.h5")

    assert code == 0 or set(m.verdict().codes) & BUSY, said  # an invalid point is exit code 1
    assert (size < MOST_BYTES, "Traceback" in said) == (True, False)
    assert m.requests.error == ("",) * 12
    assert list(tmp_path.glob("*.unread.h5")) == []


@pytest.mark.parametrize("mode", MODELS)
def test_models_without_end_or_sense_are_an_error_with_its_cause(tmp_path, mode):
    code, size, said = loaded(tmp_path, mode)

    assert (code, size < MOST_BYTES, "Traceback" in said) == (1, True, False)
    assert "GET /v1/models" in said
    assert "--model NAME" in said
