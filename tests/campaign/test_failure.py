"""Failed points are sent again according to the policy of their class, or skipped with a reason."""

import time

import pytest
from conftest import compose, plan

from glm5bench.campaign.failure import Event, Missing, decisions, missing, nodes_away, orders
from glm5bench.campaign.jobs import Job
from glm5bench.directory import Attempt, Campaign
from glm5bench.errors import FileError
from glm5bench.files import read_json, write_json
from glm5bench.node.heartbeat import Beat
from glm5bench.schedulers.request import End
from glm5bench.schedulers.retries import is_tried_again_here
from glm5bench.schedulers.slurm.states import Told
from glm5bench.schedulers.submissions import Sent

FAILURE = compose().failure  # limit 3; a node is excluded after two faults
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


def ended(job_id, *keys, why="", told="", at=None, node="gpu1", state="ended", measured=(), sent=None):
    """A job that has ended. `why`: the reason in its end record. `at`: the point of its last heartbeat."""
    beats = () if at is None else (Beat(node, 1, 1, 0.0, key=at),)
    ends = (End(why, tuple(measured), (), keys, node, 0.0),) if why else ()
    return Job(job_id, sent, state, Told(told) if told else None, node, keys, beats, ends)


def refused(*keys):
    """A job that sbatch refused."""
    return ended("", *keys, node="", sent=Sent("c-1", "slurm", "login", "me", ((),), keys, 60.0, 0.0, refused="no such account"))


def decided(missed, **asked):
    (decision,) = decisions([missed], FAILURE, **asked)
    return decision


def lacking(class_, *, tries=1, nodes=(), n_sent=1, key="k"):
    """A point that failed this often with the same class, or that was never sent if the class is empty."""
    where = [*nodes, *[""] * (max(tries, 1) - len(nodes))] if class_ else []
    return Missing(key, tuple(Event(class_, node, i < tries) for i, node in enumerate(where)), n_sent)


def after(*classes):
    """A point with events of these classes, in order, on gpu1, gpu2 and so on."""
    return Missing("k", tuple(Event(class_, f"gpu{i}", FAILURE.policy(class_).counts) for i, class_ in enumerate(classes, 1)), len(classes))


def sent_again(class_, *, nodes=(), failure=FAILURE):
    """The order for one failed point of a job with two points, and the job."""
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
    (m,) = missing(["k"], {"k": []}, [], FAILURE)

    assert m == Missing("k", (), 0)
    assert (m.failure_class, m.deciding_class, m.tries, m.nodes(FAILURE), m.factor(FAILURE, "longer")) == ("", "", 0, (), 1.0)


def test_a_point_has_the_class_of_its_last_attempt_and_all_that_happened_before():
    attempts = [failed("server_crash", node="gpu1"), failed("client_error", number=2, node="gpu2")]

    (m,) = missing(["k"], {"k": attempts}, [ended("1", "k")], FAILURE)

    assert (m.failure_class, m.tries) == ("client_error", 2)
    assert m.events == (Event("server_crash", "gpu1", True), Event("client_error", "gpu2", True))


def test_a_point_stays_away_from_every_node_that_was_at_fault_and_from_no_other():
    assert after("node_fault", "server_crash", "node_fault", "node_fault").nodes(FAILURE) == ("gpu1", "gpu3", "gpu4")
    assert lacking("node_fault", nodes=["gpu1", "gpu1", ""], tries=3).nodes(FAILURE) == ("gpu1",)


@pytest.mark.parametrize("nothing", ["submit_refused", "cancelled", "preempted"])
def test_a_job_that_says_nothing_of_the_point_makes_nothing_forgotten(nothing):
    elsewhere, longer, never = after("node_fault", nothing), after("time_limit", nothing, nothing), after("server_oom", nothing)

    assert (elsewhere.failure_class, elsewhere.deciding_class, elsewhere.nodes(FAILURE)) == (nothing, "node_fault", ("gpu1",))
    assert longer.factor(FAILURE, "longer") == FAILURE.classes["time_limit"].factor
    assert (decided(never).is_sent, decided(never).why) == (False, FAILURE.classes["server_oom"].why)


@pytest.mark.parametrize("nothing", ["submit_refused", "cancelled", "preempted"])
def test_a_point_to_which_nothing_else_happened_has_the_policy_of_that(nothing):
    assert after(nothing).deciding_class == nothing
    assert decided(after(nothing)).is_sent


def test_a_class_of_last_and_the_class_that_decides_can_both_be_named():
    m = after("server_oom", "cancelled")

    assert [decided(m, only=[class_]).is_sent for class_ in ("server_oom", "cancelled", "lost")] == [True, True, False]


def test_what_a_person_has_to_decide_waits_for_one_whatever_happened_before():
    assert decided(after("server_crash", "cancelled"), retries=9).why == "its policy needs a manual resubmit"


def test_every_job_that_was_too_short_makes_the_next_one_longer_still():
    assert [after(*["time_limit"] * n).factor(FAILURE, "longer") for n in (0, 1, 2, 3)] == [1.0, 1.5, 1.5**2, 1.5**3]
    assert after("time_limit", "server_crash", "time_limit").factor(FAILURE, "longer") == 1.5**2
    assert after("time_limit", "server_start_timeout").factor(FAILURE, "patient") == 2


def test_a_whole_attempt_that_is_invalid_is_a_class_too():
    (m,) = missing(["k"], {"k": [invalid()]}, [ended("1", "k")], FAILURE)

    assert (m.failure_class, m.tries) == ("invalid_point", 1)


def test_a_point_that_a_job_never_came_to_has_the_class_that_the_job_ended_with():
    (m,) = missing(["k"], {"k": []}, [ended("1", "k", why="server_crash", at="other")], FAILURE)

    assert (m.failure_class, m.tries, m.n_sent) == ("server_crash", 0, 1)


def test_a_time_that_was_too_short_for_any_point_is_a_try_and_one_that_sufficed_for_some_is_none():
    (none,) = missing(["k"], {}, [ended("1", "k", why="time_limit")], FAILURE)
    (some,) = missing(["k"], {}, [ended("1", "k", why="time_limit", measured=["other"])], FAILURE)

    assert (none.failure_class, none.tries) == ("time_limit", 1)
    assert (some.failure_class, some.tries) == ("time_limit", 0)


def test_a_job_that_was_refused_was_not_sent():
    (m,) = missing(["k"], {}, [ended("1", "k", told="NODE_FAIL"), refused("k"), refused("k")], FAILURE)

    assert [e.failure_class for e in m.events] == ["node_fault", "submit_refused", "submit_refused"]
    assert (m.n_sent, m.tries, m.deciding_class) == (1, 1, "node_fault")


def test_a_job_that_nobody_heard_of_again_is_nothing_that_happened():
    (m,) = missing(["k"], {}, [ended("", "k", state="unconfirmed")], FAILURE)

    assert m == Missing("k", (), 0)


def test_attempts_of_jobs_stand_in_the_order_in_which_the_jobs_were_sent():
    attempts = [failed("server_crash", job_id="2"), failed("client_error", job_id="9", number=2)]

    (m,) = missing(["k"], {"k": attempts}, [ended("1", "k", told="PREEMPTED"), ended("2", "k"), ended("3", "k", told="TIMEOUT")], FAILURE)

    assert [e.failure_class for e in m.events] == ["client_error", "preempted", "server_crash", "time_limit"]


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

    assert (decision.is_sent, decision.why) == (False, "its class was not selected")


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

    assert (decision.is_sent, decision.why) == (False, "its policy needs a manual resubmit")


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
    assert read_json(campaign.nodes) == {"nodes": away, "seen_jobs": ["1", "2"]}
    assert time.time() + 23 * 3600 < away["gpu1"]["until_utc_s"] < time.time() + 25 * 3600


def test_two_points_of_one_job_are_one_fault_of_its_node(campaign):
    attempts = {key: [failed("node_fault", key=key)] for key in "kl"}

    assert nodes_away(campaign, attempts, [], FAILURE) == {}
    assert not campaign.nodes.exists()


def test_two_lanes_of_one_job_are_one_fault_of_its_node(campaign):
    lanes = {"k": [failed("node_fault", job_id="7")], "l": [failed("node_fault", job_id="7.1")]}
    assert nodes_away(campaign, lanes, [], FAILURE) == {}

    assert list(nodes_away(campaign, {**lanes, "m": [failed("node_fault", job_id="8.3")]}, [], FAILURE)) == ["gpu1"]


def test_who_only_looks_is_told_of_the_nodes_and_writes_nothing(campaign):
    attempts = {"k": [failed("node_fault", job_id=i) for i in "12"]}

    assert list(nodes_away(campaign, attempts, [], FAILURE, is_dry=True)) == ["gpu1"]
    assert not campaign.nodes.exists()


def test_what_a_server_did_is_no_fault_of_its_node(campaign):
    attempts = {"k": [failed("server_crash", job_id="1"), failed("server_crash", job_id="2")]}

    assert nodes_away(campaign, attempts, [], FAILURE) == {}


def test_a_node_that_slurm_lost_has_a_fault_though_nothing_was_tried_on_it(campaign):
    found = [ended("1", "k", told="NODE_FAIL"), ended("2", "k", told="NODE_FAIL"), ended("3", "k", told="NODE_FAIL", node="gpu2")]

    assert list(nodes_away(campaign, {}, found, FAILURE)) == ["gpu1"]


def test_an_entry_that_has_expired_does_not_count(campaign):
    write_json(campaign.nodes, {"nodes": {"gpu1": {"until_utc_s": time.time() - 1}, "gpu2": {"until_utc_s": time.time() + 60}}})

    assert list(nodes_away(campaign, {}, [], FAILURE)) == ["gpu2"]


def test_the_faults_that_an_expired_entry_names_do_not_renew_it_and_a_new_one_does(campaign):
    write_json(campaign.nodes, {"nodes": {"gpu1": {"jobs": ["1", "2"], "until_utc_s": 0}}, "seen_jobs": ["1", "2"]})
    faults = [failed("node_fault", job_id=i) for i in "123"]

    assert nodes_away(campaign, {"k": faults[:2]}, [], FAILURE) == {}
    assert nodes_away(campaign, {"k": faults}, [], FAILURE)["gpu1"]["jobs"] == ["1", "2", "3"]


def test_what_the_user_wrote_into_the_file_is_kept(campaign):
    mine = {"gpu8": {"why": "smells", "until_utc_s": 4e9}, "gpu1": {"why": "repaired", "jobs": ["1", "2"], "until_utc_s": 0}}
    write_json(campaign.nodes, {"nodes": mine, "seen_jobs": ["1", "2"]})
    repaired = [failed("node_fault", job_id=i) for i in "12"]
    bad = [failed("node_fault", job_id=i, node="gpu5") for i in "34"]

    away = nodes_away(campaign, {"k": repaired, "l": bad}, [], FAILURE)

    assert sorted(away) == ["gpu5", "gpu8"]
    assert {name: read_json(campaign.nodes)["nodes"][name] for name in mine} == mine


def test_an_entry_that_the_user_removed_comes_back_only_with_a_new_fault(campaign):
    faults = [failed("node_fault", job_id=i) for i in "123"]
    nodes_away(campaign, {"k": faults[:2]}, [], FAILURE)
    write_json(campaign.nodes, {**read_json(campaign.nodes), "nodes": {}})

    assert nodes_away(campaign, {"k": faults[:2]}, [], FAILURE) == {}
    assert list(nodes_away(campaign, {"k": faults}, [], FAILURE)) == ["gpu1"]


def test_an_entry_without_an_end_never_ends(campaign):
    write_json(campaign.nodes, {"nodes": {"gpu017": {"why": "ECC"}}})

    assert nodes_away(campaign, {}, [], FAILURE) == {"gpu017": {"why": "ECC"}}


@pytest.mark.parametrize(
    "text",
    [
        "[]", "{", "3", '{"gpu1": {"until_utc_s": 0}}', '{"nodes": []}', '{"nodes": {"gpu1": 3}}',
        '{"nodes": {"gpu1": {"until_utc_s": "tomorrow"}}}', '{"nodes": {}, "seen_jobs": 3}',
    ],
)  # fmt: skip
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
