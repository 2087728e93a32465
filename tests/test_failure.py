"""What failed is sent again by the policy of its class, or is not, with a reason."""

import time

import pytest
from conftest import compose

from glm5bench.errors import FileError
from glm5bench.launch.failure import Missing, decisions, is_tried_again_here, missing, nodes_away, orders
from glm5bench.launch.jobs import Job
from glm5bench.launch.request import End
from glm5bench.launch.slurm import Told
from glm5bench.node.heartbeat import Beat
from glm5bench.plan import plan
from glm5bench.store.campaign import Attempt, Campaign
from glm5bench.store.files import read_json, write_json

FAILURE = compose().failure  # limit 3, two faults make a node one to stay away from
SENT_BY_A_PERSON = {
    "node_fault", "server_crash", "server_hung", "server_start_timeout", "client_error", "invalid_point", "preempted", "time_limit",
    "cancelled", "submit_refused", "lost", "",
}  # fmt: skip
NEVER_SENT = {"server_oom", "image_missing", "checkpoint_missing"}
WAITS_FOR_A_PERSON = {"cancelled", "submit_refused"}


@pytest.fixture
def campaign(tmp_path):
    return Campaign(tmp_path / "c")


def failed(class_, *, job_id="1", node="gpu1", number=1, key="k"):
    return Attempt(key, number, "failed", "", class_, "", job_id, node)


def invalid(*, job_id="1", number=1):
    return Attempt("k", number, "whole", "invalid", "", "", job_id, "gpu1")


def ended(job_id, *keys, why="", told="", at=None, node="gpu1", state="ended"):
    """A job that is over; `why` is what it said of the points that it left, `at` the point of its last beat."""
    beats = () if at is None else (Beat(node, 1, 1, 0.0, key=at),)
    ends = (End(why, (), (), keys, node, 0.0),) if why else ()
    return Job(job_id, None, state, Told(told) if told else None, node, keys, beats, ends)


def decided(missed, **asked):
    (decision,) = decisions([missed], FAILURE, **asked)
    return decision


def lacking(class_, *, tries=1, nodes=(), n_sent=1, key="k"):
    return Missing(key, class_, tries, tuple(nodes), n_sent)


def sent_again(class_, *, nodes=(), failure=FAILURE):
    """The order that one failed point of a job of two becomes, and the job."""
    (job,) = plan([compose("cluster=example", "hardware=b200", "concurrency=[4,8]")]).jobs
    key = job.points[0].key
    (order,) = orders([job], {key: lacking(class_, nodes=nodes, key=key)}, failure)
    return order, job


def test_what_is_done_or_in_the_charge_of_a_live_job_is_not_missing():
    done = Attempt("done", 1, "whole", "valid", "", "", "1", "gpu1")
    live = ended("2", "live", state="queued")

    found = missing(["done", "live", "left"], {"done": [done], "live": [], "left": []}, [live], FAILURE)

    assert [m.key for m in found] == ["left"]


def test_a_point_that_was_never_sent_has_no_class_and_no_tries():
    assert missing(["k"], {"k": []}, [], FAILURE) == [Missing("k", "", 0, ())]


def test_a_point_has_the_class_of_its_last_attempt_and_the_nodes_where_it_happened():
    attempts = [failed("server_crash", node="gpu1"), failed("client_error", number=2, node="gpu2")]

    (m,) = missing(["k"], {"k": attempts}, [ended("1", "k")], FAILURE)

    assert (m.failure_class, m.tries, m.nodes) == ("client_error", 2, ("gpu2",))


def test_a_whole_attempt_that_is_invalid_is_a_class_too():
    (m,) = missing(["k"], {"k": [invalid()]}, [ended("1", "k")], FAILURE)

    assert (m.failure_class, m.tries) == ("invalid_point", 1)


def test_a_point_that_a_job_never_came_to_has_the_class_that_the_job_ended_with():
    (m,) = missing(["k"], {"k": []}, [ended("1", "k", why="time_limit")], FAILURE)

    assert (m.failure_class, m.tries, m.n_sent) == ("time_limit", 0, 1)


def test_what_happened_last_counts_and_not_an_earlier_attempt():
    (m,) = missing(["k"], {"k": [failed("server_crash", job_id="1")]}, [ended("1", "k"), ended("2", "k", told="NODE_FAIL")], FAILURE)

    assert (m.failure_class, m.tries, m.n_sent) == ("node_fault", 2, 2)


def test_a_job_that_died_costs_the_point_that_it_was_at_an_attempt_and_not_those_after_it():
    dead = ended("1", "at", "after", at="at")

    found = missing(["at", "after"], {}, [dead], FAILURE)

    assert [(m.key, m.failure_class, m.tries) for m in found] == [("at", "lost", 1), ("after", "lost", 0)]


@pytest.mark.parametrize("class_", ["preempted", "time_limit", "cancelled", "submit_refused"])
def test_what_is_nobodys_fault_is_no_attempt(class_):
    (m,) = missing(["k"], {"k": [failed(class_, number=n) for n in (1, 2, 3, 4)]}, [], FAILURE)

    assert m.tries == 0


def test_a_lane_s_attempt_is_one_of_its_job():
    (m,) = missing(["k"], {"k": [failed("server_crash", job_id="7.1")]}, [ended("7", "k", told="FAILED")], FAILURE)

    assert (m.failure_class, m.tries) == ("server_crash", 1)


@pytest.mark.parametrize("class_", sorted(SENT_BY_A_PERSON))
def test_a_person_sends_it_again(class_):
    assert decided(lacking(class_)).is_sent


@pytest.mark.parametrize("class_", sorted(NEVER_SENT))
def test_what_would_fail_again_is_never_sent_and_the_reason_is_said(class_):
    decision = decided(lacking(class_))

    assert (decision.is_sent, decision.why) == (False, FAILURE.classes[class_].why)


@pytest.mark.parametrize("class_", sorted(NEVER_SENT))
def test_a_class_that_the_user_names_overrules_never(class_):
    assert decided(lacking(class_), only=[class_]).is_sent


def test_a_class_that_the_user_did_not_name_is_not_sent():
    decision = decided(lacking("server_crash"), only=["time_limit", "lost"])

    assert (decision.is_sent, decision.why) == (False, "of another class")


def test_the_limit_of_attempts_stops_a_point_and_says_what_allows_more():
    assert decided(lacking("server_crash", tries=2)).is_sent

    stopped = decided(lacking("server_crash", tries=3))

    assert not stopped.is_sent
    assert "failure.limit=4" in stopped.why


def test_the_limit_holds_also_for_a_class_that_the_user_names():
    assert not decided(lacking("server_oom", tries=3), only=["server_oom"]).is_sent


def test_a_campaign_s_own_retries_are_bounded():
    own = [decided(lacking("server_crash", tries=n, n_sent=n), retries=1).is_sent for n in (0, 1, 2)]

    assert own == [True, True, False]


def test_a_campaign_s_own_retries_are_bounded_also_where_nothing_counts_as_an_attempt():
    assert decided(lacking("preempted", tries=0, n_sent=2), retries=2).is_sent
    assert not decided(lacking("preempted", tries=0, n_sent=3), retries=2).is_sent


def test_no_retries_are_none():
    assert not decided(lacking("server_crash"), retries=0).is_sent


@pytest.mark.parametrize("class_", sorted(WAITS_FOR_A_PERSON))
def test_what_a_person_has_to_decide_a_campaign_does_not_send_by_itself(class_):
    decision = decided(lacking(class_, tries=0), retries=9)

    assert (decision.is_sent, decision.why) == (False, "its policy waits for a person")


def test_only_the_points_that_are_sent_are_in_the_order():
    order, job = sent_again("server_crash")

    assert [p.key for p in order.job.points] == [job.points[0].key]


def test_a_job_of_which_nothing_is_sent_makes_no_order():
    _, job = sent_again("server_crash")

    assert orders([job], {}, FAILURE) == []


@pytest.mark.parametrize("class_", ["server_crash", "server_hung", "client_error", "invalid_point", "preempted", "lost", "cancelled", ""])
def test_anywhere_asks_for_what_was_asked_before(class_):
    order, job = sent_again(class_, nodes=["gpu1"])

    assert (order.exclude, order.time_factor, order.job.arm) == ((), 1.0, job.arm)


def test_elsewhere_stays_away_from_the_nodes_where_it_happened():
    order, _ = sent_again("node_fault", nodes=["gpu1", "gpu2"])

    assert order.exclude == ("gpu1", "gpu2")


def test_longer_asks_for_more_time():
    order, job = sent_again("time_limit")

    assert (order.time_factor, order.job.arm, order.exclude) == (1.5, job.arm, ())


def test_patient_waits_longer_for_the_server_and_the_key_stays():
    order, job = sent_again("server_start_timeout")

    assert order.job.arm.engine.start_timeout_s == 2 * job.arm.engine.start_timeout_s
    assert [p.key for p in order.job.points] == [job.points[0].key]
    assert order.job.starts[0].recipe == job.starts[0].recipe


def test_points_of_several_classes_in_one_job_ask_for_all_of_it_together():
    _, job = sent_again("")
    a, b = (p.key for p in job.points)

    (order,) = orders([job], {a: lacking("time_limit"), b: lacking("node_fault", nodes=["gpu1"])}, FAILURE, away=["gpu9"])

    assert (order.time_factor, order.exclude, len(order.job.points)) == (1.5, ("gpu1", "gpu9"), 2)


def test_a_node_with_two_faults_is_one_to_stay_away_from(campaign):
    attempts = {"k": [failed("node_fault", job_id="1"), failed("node_fault", job_id="2")], "l": [failed("node_fault", node="gpu2")]}

    away = nodes_away(campaign, attempts, [], FAILURE)

    assert list(away) == ["gpu1"]
    assert away == read_json(campaign.nodes)
    assert time.time() + 23 * 3600 < away["gpu1"]["until_utc_s"] < time.time() + 25 * 3600


def test_two_points_of_one_job_are_one_fault_of_its_node(campaign):
    attempts = {key: [failed("node_fault", key=key)] for key in "kl"}

    assert nodes_away(campaign, attempts, [], FAILURE) == {}
    assert not campaign.nodes.exists()


def test_what_a_server_did_is_no_fault_of_its_node(campaign):
    attempts = {"k": [failed("server_crash", job_id="1"), failed("server_crash", job_id="2")]}

    assert nodes_away(campaign, attempts, [], FAILURE) == {}


def test_a_node_that_slurm_lost_has_a_fault_though_nothing_was_tried_on_it(campaign):
    found = [ended("1", "k", told="NODE_FAIL"), ended("2", "k", told="NODE_FAIL"), ended("3", "k", told="NODE_FAIL", node="gpu2")]

    assert list(nodes_away(campaign, {}, found, FAILURE)) == ["gpu1"]


def test_an_entry_that_has_expired_does_not_count(campaign):
    write_json(campaign.nodes, {"gpu1": {"until_utc_s": time.time() - 1}, "gpu2": {"until_utc_s": time.time() + 60}})

    assert list(nodes_away(campaign, {}, [], FAILURE)) == ["gpu2"]


def test_the_faults_that_an_expired_entry_names_do_not_renew_it_and_a_new_one_does(campaign):
    write_json(campaign.nodes, {"gpu1": {"jobs": ["1", "2"], "until_utc_s": 0}})
    faults = [failed("node_fault", job_id=i) for i in "123"]

    assert nodes_away(campaign, {"k": faults[:2]}, [], FAILURE) == {}
    assert nodes_away(campaign, {"k": faults}, [], FAILURE)["gpu1"]["jobs"] == ["1", "2", "3"]


def test_what_the_user_wrote_into_the_file_is_kept(campaign):
    mine = {"gpu8": {"why": "smells", "until_utc_s": 4e9}, "gpu1": {"why": "repaired", "jobs": ["1", "2"], "until_utc_s": 0}}
    write_json(campaign.nodes, mine)
    repaired = [failed("node_fault", job_id=i) for i in "12"]
    bad = [failed("node_fault", job_id=i, node="gpu5") for i in "34"]

    away = nodes_away(campaign, {"k": repaired, "l": bad}, [], FAILURE)

    assert sorted(away) == ["gpu5", "gpu8"]
    assert {name: read_json(campaign.nodes)[name] for name in mine} == mine


@pytest.mark.parametrize("text", ["[]", '{"gpu1": 3}', "{"])
def test_a_file_of_nodes_that_is_none_is_refused(campaign, text):
    campaign.root.mkdir()
    campaign.nodes.write_text(text)

    with pytest.raises(FileError, match=r"nodes\.json"):
        nodes_away(campaign, {}, [], FAILURE)


@pytest.mark.parametrize(
    ("class_", "is_tried"),
    [
        ("server_crash", True),
        ("client_error", True),
        ("node_fault", False),
        ("server_oom", False),
        ("cancelled", False),
        ("time_limit", False),
    ],
)
def test_on_its_own_node_a_job_tries_again_what_its_policy_sends_anywhere(campaign, class_, is_tried):
    write_json(campaign.attempt_file("k", 1), {"status": "failed", "class": class_})

    assert is_tried_again_here(campaign, FAILURE, "k") == is_tried


def test_on_its_own_node_a_job_tries_a_point_no_more_often_than_the_limit_says(campaign):
    tried = []
    for number in (1, 2, 3):
        write_json(campaign.attempt_file("k", number), {"status": "failed", "class": "server_crash"})
        tried.append(is_tried_again_here(campaign, FAILURE, "k"))

    assert tried == [True, True, False]


def test_what_has_not_failed_yet_is_not_tried_again(campaign):
    assert not is_tried_again_here(campaign, FAILURE, "k")
