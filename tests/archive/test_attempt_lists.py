"""A job's list of attempts has the same content as one file per attempt, and is faster to read."""

import json
import os
import shutil

import pytest
from conftest import measured
from hypothesis import given, settings
from hypothesis import strategies as st

from glm5bench.archive.pointfile import write_point
from glm5bench.archive.sealed import seal_of
from glm5bench.directory import ATTEMPT_FORMAT, LIST_FROM, Campaign
from glm5bench.files import write_json

A, B = "a" * 20, "b" * 20
OTHERS = [f"{i:020x}" for i in range(LIST_FROM)]  # points without attempts: with them the lists are read, without them the files


@pytest.fixture
def campaign(tmp_path):
    return Campaign(tmp_path / "c")


def recorded(campaign, key, number, job_id, **record):
    """Writes the record of an attempt as a job does: a file, and a line in the job's list."""
    same = {"format": ATTEMPT_FORMAT, "key": key, "attempt": number, "node": "gpu1", "job_id": job_id, "node_job": "b200-1"}
    full = {**same, **record}
    write_json(campaign.attempt_file(key, number), full)
    campaign.append_attempt(job_id, full)


def whole(campaign, key=A, number=1, job_id="7", *, validity="valid", reasons=(), **point):
    path = campaign.point_file(key, number)
    write_point(path, measured(key, **point))
    file = {"seal": seal_of(path), "size_bytes": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}
    recorded(campaign, key, number, job_id, status="whole", validity=validity, reasons=list(reasons), **file)


def failed(campaign, key=A, number=1, job_id="7", **record):
    recorded(campaign, key, number, job_id, **{"status": "failed", "class": "server_oom", "message": "CUDA out of memory", **record})


def by_list(campaign, *keys):
    found = campaign.attempts([*keys, *OTHERS])
    return {key: found[key] for key in keys}


def by_file(campaign, *keys):
    return campaign.attempts(keys)


def test_lists_and_files_agree(campaign):
    failed(campaign, A, 1)
    whole(campaign, A, 2, "8", validity="flagged", reasons=[{"code": "client_lag", "text": "late"}])
    whole(campaign, B, 1, "7.1", validity="invalid", reasons=[{"code": "failed_requests", "text": "3 of 4"}])

    assert by_list(campaign, A, B) == by_file(campaign, A, B)
    assert [(a.status, a.job_id, a.node) for a in by_list(campaign, A)[A]] == [("failed", "7", "gpu1"), ("whole", "8", "gpu1")]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.sampled_from([A, B]), st.sampled_from(["7", "7.1", "12_3"]), st.text(max_size=20)), max_size=8))
def test_lists_and_files_agree_whatever_failed_in_whichever_job(tmp_path_factory, tried):
    campaign = Campaign(tmp_path_factory.mktemp("c"))
    for number, (key, job_id, message) in enumerate(tried, start=1):
        failed(campaign, key, number, job_id, message=message)

    assert by_list(campaign, A, B) == by_file(campaign, A, B)
    assert sum(map(len, by_list(campaign, A, B).values())) == len(tried)


def test_what_is_done_is_the_same_by_list_and_by_file(campaign):
    whole(campaign, A)
    failed(campaign, B)

    assert campaign.done([A, B, *OTHERS]) == campaign.done([A, B]) == {A}


def test_an_attempt_whose_line_a_kill_cut_short_is_read_from_its_file(campaign):
    whole(campaign, A)
    failed(campaign, B)
    path = campaign.job("7") / "attempts.jsonl"
    path.write_bytes(path.read_bytes()[:-30])

    assert by_list(campaign, A, B) == by_file(campaign, A, B)
    assert by_list(campaign, B)[B][0].failure_class == "server_oom"


def test_a_line_after_one_that_was_cut_short_is_not_lost(campaign):
    failed(campaign, A)
    path = campaign.job("7") / "attempts.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    failed(campaign, B, message="listed")

    lines = path.read_text().splitlines()

    assert len(lines) == 2
    assert (json.loads(lines[1])["key"], json.loads(lines[1])["message"]) == (B, "listed")
    assert by_list(campaign, A, B) == by_file(campaign, A, B)


def test_an_attempt_that_no_list_names_is_read_from_its_file(campaign):
    whole(campaign, A)
    (campaign.job("7") / "attempts.jsonl").unlink()

    assert campaign.done([A, *OTHERS]) == {A}


def test_an_attempt_whose_own_record_is_damaged_is_known_from_its_list(campaign):
    failed(campaign, A)
    campaign.attempt_file(A, 1).write_text("")

    assert [a.failure_class for a in by_list(campaign, A)[A]] == ["server_oom"]


@pytest.mark.parametrize(
    "line", ["null", "[]", "3", "{}", '{"key": "k"}', '{"key": [], "attempt": 1}', '{"key": "k", "attempt": "1"}', "\x00", '"whole"']
)
def test_a_line_that_is_no_attempts_is_passed_over(campaign, line):
    whole(campaign, A)
    with (campaign.job("7") / "attempts.jsonl").open("a") as file:
        file.write(line + "\n")

    assert campaign.done([A, *OTHERS]) == {A}


def test_a_line_without_the_files_that_it_speaks_of_is_no_attempt(campaign):
    whole(campaign, A)
    campaign.point_file(A, 1).unlink()
    campaign.attempt_file(A, 1).unlink()

    assert by_list(campaign, A) == {A: []}


def test_a_point_file_that_was_exchanged_is_lost_although_it_is_listed(campaign):
    whole(campaign, A, log="one")
    whole(campaign, B, log="two")
    os.replace(campaign.point_file(B, 1), campaign.point_file(A, 1))

    (attempt,) = by_list(campaign, A)[A]

    assert (attempt.status, attempt.failure_class) == ("failed", "lost")
    assert by_list(campaign, A) == by_file(campaign, A)


def test_a_point_file_that_was_exchanged_for_one_of_the_same_size_is_lost_although_it_is_listed(campaign):
    whole(campaign, A)
    path = campaign.point_file(A, 1)
    body = bytearray(path.read_bytes())
    body[20:30] = bytes(reversed(body[20:30]))  # part of the seal
    path.write_bytes(body)

    assert [a.failure_class for a in by_list(campaign, A)[A]] == ["lost"]


def test_a_point_file_that_was_cut_or_is_gone_is_lost_although_it_is_listed(campaign):
    whole(campaign, A)
    whole(campaign, B)
    campaign.point_file(A, 1).write_bytes(campaign.point_file(A, 1).read_bytes()[:-100])
    campaign.point_file(B, 1).unlink()

    assert {a.failure_class for attempts in by_list(campaign, A, B).values() for a in attempts} == {"lost"}


def test_a_point_that_is_lost_keeps_who_measured_it_and_where(campaign):
    whole(campaign, A, job_id="7.1")
    campaign.point_file(A, 1).unlink()

    (attempt,) = by_list(campaign, A)[A]

    assert (attempt.failure_class, attempt.job_id, attempt.node) == ("lost", "7.1", "gpu1")
    assert by_list(campaign, A) == by_file(campaign, A)


def test_a_point_file_that_was_touched_or_copied_is_still_done(campaign):
    whole(campaign, A)
    whole(campaign, B)
    os.utime(campaign.point_file(A, 1), ns=(1, 1))
    copy = campaign.points / "copy"
    shutil.copyfile(campaign.point_file(B, 1), copy)
    os.replace(copy, campaign.point_file(B, 1))

    assert campaign.done([A, B, *OTHERS]) == campaign.done([A, B]) == {A, B}


def test_a_list_that_lacks_the_file_s_seal_is_passed_over_for_the_point_itself(campaign):
    whole(campaign, A)
    path = campaign.job("7") / "attempts.jsonl"
    path.write_text(json.dumps({"key": A, "attempt": 1, "status": "whole", "validity": "invalid"}) + "\n")

    assert campaign.done([A, *OTHERS]) == {A}


def test_a_list_keeps_only_what_a_state_is_told_from(campaign):
    failed(campaign, A, summary={"n_requests": 4}, ended_utc="2026-01-01")

    (line,) = (campaign.job("7") / "attempts.jsonl").read_text().splitlines()

    assert set(json.loads(line)) == {"key", "attempt", "status", "class", "message", "node", "job_id"}
