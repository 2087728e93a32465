"""The state of a campaign is read only from the files in its directory."""

import pytest
from conftest import measured, three_requests

from glm5bench.archive.pointfile import write_point
from glm5bench.archive.sealed import seal_of
from glm5bench.directory import Attempt, Campaign
from glm5bench.errors import EnvironmentLacks, FileError
from glm5bench.files import read_json, write_json, write_whole

A, B = "a" * 20, "b" * 20


@pytest.fixture
def campaign(tmp_path):
    return Campaign(tmp_path / "c")


def whole(campaign, key=A, number=1, *, validity="valid"):
    write_point(campaign.point_file(key, number), measured(key))
    path = campaign.point_file(key, number)
    record = {"status": "whole", "validity": validity, "seal": seal_of(path), "size_bytes": path.stat().st_size}
    write_json(campaign.attempt_file(key, number), record)


def failed(campaign, key=A, number=1, *, failure_class="server_oom"):
    write_json(campaign.attempt_file(key, number), {"status": "failed", "class": failure_class, "message": "CUDA out of memory"})


def test_a_whole_valid_attempt_makes_a_point_done(campaign):
    whole(campaign)

    assert campaign.done([A, B]) == {A}


def test_a_flagged_attempt_makes_a_point_done_and_an_invalid_one_does_not(campaign):
    whole(campaign, A, validity="flagged")
    whole(campaign, B, validity="invalid")

    assert campaign.done([A, B]) == {A}


def test_a_failed_attempt_tells_its_class_and_message(campaign):
    failed(campaign)

    assert campaign.attempts([A]) == {A: [Attempt(A, 1, "failed", "", "server_oom", "CUDA out of memory")]}
    assert campaign.done([A]) == set()


def test_a_later_attempt_makes_up_for_a_failed_one(campaign):
    failed(campaign)
    whole(campaign, number=2)

    assert campaign.done([A]) == {A}


def test_attempts_come_in_their_order_past_nine(campaign):
    for number in (10, 9, 2):
        failed(campaign, number=number)

    assert [a.attempt for a in campaign.attempts([A])[A]] == [2, 9, 10]


def test_a_point_without_attempts_has_none(campaign):
    assert campaign.attempts([A]) == {A: []}


def test_other_points_are_not_read(campaign):
    whole(campaign, B)

    assert campaign.attempts([A]) == {A: []}


def test_the_next_attempt_follows_the_last_of_either_file(campaign):
    assert campaign.next_attempt(A) == 1
    failed(campaign, number=3)
    write_point(campaign.point_file(A, 11), measured())
    failed(campaign, B, number=20)

    assert campaign.next_attempt(A) == 12


def test_a_whole_file_whose_record_a_kill_prevented_is_judged_from_itself(campaign):
    write_point(campaign.point_file(A, 1), measured())
    write_point(campaign.point_file(B, 1), measured(B, requests=three_requests(error=["", "reset", ""])))

    found = campaign.attempts([A, B])

    assert (found[A][0].status, found[A][0].validity) == ("whole", "flagged")
    assert (found[B][0].status, found[B][0].validity) == ("whole", "invalid")
    assert campaign.done([A, B]) == {A}


@pytest.mark.parametrize("damage", ["", "{", "null", "[]", "{}", '"whole"'])
def test_a_damaged_record_is_passed_over_for_the_file_itself(campaign, damage):
    whole(campaign)
    campaign.attempt_file(A, 1).write_text(damage)

    assert campaign.done([A]) == {A}


def test_a_record_of_a_file_that_is_gone_is_a_lost_attempt(campaign):
    whole(campaign)
    campaign.point_file(A, 1).unlink()

    (attempt,) = campaign.attempts([A])[A]

    assert (attempt.status, attempt.failure_class) == ("failed", "lost")


def test_a_damaged_file_without_a_record_is_a_lost_attempt(campaign):
    write_point(campaign.point_file(A, 1), measured())
    campaign.point_file(A, 1).write_bytes(b"half a file")

    (attempt,) = campaign.attempts([A])[A]

    assert (attempt.status, attempt.failure_class) == ("failed", "lost")


def test_unfinished_and_foreign_files_are_no_attempts(campaign):
    campaign.points.mkdir(parents=True)
    for name in (f".{A}.1.h5.99.part", f"{A}.1.h5.bak", f"{A}.x.h5", f"{A}.h5", "notes.json"):
        (campaign.points / name).write_text("")

    assert campaign.attempts([A]) == {A: []}
    assert campaign.next_attempt(A) == 1


def test_a_plan_is_read_back(campaign):
    campaign.write_plan({"jobs": [], "name": "c"})

    assert campaign.read_plan() == {"jobs": [], "name": "c"}


def test_a_directory_without_a_plan_is_no_campaign(campaign):
    with pytest.raises(FileError, match="This directory does not exist"):
        campaign.read_plan()
    campaign.root.mkdir()
    with pytest.raises(FileError, match="This is not a campaign directory"):
        campaign.read_plan()


@pytest.mark.parametrize("text", ["[]", "{}", '{"jobs": 3}'])
def test_a_plan_of_another_program_is_refused(campaign, text):
    campaign.root.mkdir()
    campaign.plan.write_text(text)

    with pytest.raises(FileError, match="was not written by glm5bench"):
        campaign.read_plan()


def test_a_plan_that_is_no_json_is_refused(campaign):
    campaign.root.mkdir()
    campaign.plan.write_text("{")

    with pytest.raises(FileError, match=r"plan\.json cannot be read"):
        campaign.read_plan()


def test_submissions_are_kept_in_their_order(campaign):
    for job in (1, 2, 3):
        campaign.append_submission({"job": job})

    assert campaign.read_submissions() == [{"job": 1}, {"job": 2}, {"job": 3}]


def test_a_submission_that_a_kill_cut_short_is_left_out(campaign):
    campaign.append_submission({"job": 1})
    with campaign.submissions.open("a") as file:
        file.write('{"job": ')

    assert campaign.read_submissions() == [{"job": 1}]


def test_a_submission_after_one_that_was_cut_short_is_not_lost(campaign):
    campaign.append_submission({"job": 1})
    with campaign.submissions.open("a") as file:
        file.write('{"job": ')
    campaign.append_submission({"job": 3})

    assert campaign.read_submissions() == [{"job": 1}, {"job": 3}]


def test_no_submissions_are_none(campaign):
    assert campaign.read_submissions() == []


def test_a_write_that_fails_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})

    def half(beside):
        beside.write_text("{")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_whole(path, half)
    assert read_json(path) == {"a": 1}
    assert [f.name for f in tmp_path.iterdir()] == ["x.json"]


def test_a_number_that_json_does_not_have_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"tpot": float("nan")})

    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_an_environment_that_lacks_it(tmp_path):
    (tmp_path / "outputs").write_text("")

    with pytest.raises(EnvironmentLacks) as refused:
        Campaign(tmp_path / "outputs" / "c").append_submission({"job": 1})

    assert refused.value.exit_code == 3


def test_a_point_whose_file_was_cut_or_exchanged_is_measured_again(campaign):
    whole(campaign, A)
    whole(campaign, B)
    campaign.point_file(A, 1).write_bytes(campaign.point_file(A, 1).read_bytes()[:-100])
    campaign.point_file(B, 1).write_bytes(campaign.point_file(A, 1).read_bytes())

    assert campaign.done([A, B]) == set()
    assert {a.failure_class for attempts in campaign.attempts([A, B]).values() for a in attempts} == {"lost"}
