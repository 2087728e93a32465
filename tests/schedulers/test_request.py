"""Requests are plain JSON with the version that planned them, and end records can be read by another process."""

from dataclasses import replace

from conftest import compose, plan

from glm5bench import __version__
from glm5bench.directory import Campaign
from glm5bench.files import write_json
from glm5bench.schedulers.request import Request, read_end
from glm5bench.values.plain import from_json, plain

REQUEST = Request(plan([compose("engine=simulated")]).jobs[0], compose().failure, retries=2, limit_s=60.0)


def test_a_request_comes_back_from_its_json(tmp_path):
    write_json(tmp_path / "r.json", plain(REQUEST))

    assert from_json(Request, (tmp_path / "r.json").read_bytes()) == REQUEST


def test_code_of_another_version_than_the_one_that_planned_is_said():
    other = replace(REQUEST, glm5bench="0.0.9", git="abc")

    assert REQUEST.mismatch() == ""
    assert f"runs glm5bench {__version__}" in other.mismatch()
    assert "was planned with 0.0.9 abc" in other.mismatch()


def test_a_job_that_said_nothing_has_no_last_word(tmp_path):
    assert read_end(Campaign(tmp_path), "7") is None
