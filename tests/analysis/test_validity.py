"""Verdicts and their reason codes."""

import dataclasses

import numpy as np
import pytest
from conftest import besides_waves, measured, raw, three_requests, waves
from hypothesis import given
from hypothesis import strategies as st

from glm5bench.analysis.metrics import figures
from glm5bench.analysis.reasons import FLAGGED, INVALID
from glm5bench.analysis.validity import Circumstances, published_verdict, verdict
from glm5bench.archive.summary import row_of

CALM = Circumstances(2, None, None, None, None, None, None, engine_version=None, has_no_container=False)


def judged(requests, **circumstances):
    return besides_waves(verdict(requests, figures(requests), dataclasses.replace(CALM, **circumstances)))


def test_a_whole_point_that_kept_its_concurrency_is_valid():
    v = judged(three_requests())

    assert (v.validity, v.codes) == ("valid", ())


def test_one_failed_request_makes_a_point_invalid_and_its_error_is_told():
    v = judged(three_requests(error=["", "HTTP 503", ""]))

    assert (v.validity, v.codes) == ("invalid", ("failed_requests",))
    assert v.reasons[0].text == "1 of 3 requests failed, the first with: HTTP 503"


def test_a_point_without_requests_is_invalid():
    assert judged(raw([], [], [], prompt=[], out=[])).codes == ("no_requests",)


def test_an_answer_shorter_than_asked_makes_a_point_invalid():
    v = judged(three_requests(asked=[5, 4, 12]))

    assert (v.validity, v.codes) == ("invalid", ("short_outputs",))


def test_an_answer_without_tokens_makes_a_point_invalid():
    v = judged(three_requests(out=[5, 0, 11], asked=[5, 4, 11]))

    assert (v.validity, v.codes) == ("invalid", ("zero_tokens",))


def test_a_client_that_did_not_reach_the_concurrency_makes_a_point_invalid():
    one_by_one = raw([0, 1, 2, 3], [0.5, 1.5, 2.5, 3.5], [1, 2, 3, 4], prompt=[1] * 4, out=[2] * 4)

    v = judged(one_by_one)

    assert (v.validity, v.codes) == ("invalid", ("concurrency_not_reached",))
    assert v.reasons[0].text == "1.0 requests were in flight instead of 2"


def test_the_tail_of_a_closed_loop_does_not_count_against_its_concurrency():
    long_tail = raw([0, 0, 3], [1, 1, 4], [3, 3.1, 60], prompt=[1] * 3, out=[2] * 3)

    assert judged(long_tail).validity == "valid"


def test_fewer_requests_than_the_concurrency_are_not_held_against_the_client():
    assert judged(three_requests(), concurrency=3).validity == "valid"


def test_an_engine_that_is_not_the_recipe_s_flags_a_point():
    assert judged(three_requests(), engine_version=("0.5.12", "0.5.23")).codes == ("engine_version",)
    assert judged(three_requests(), engine_version=("0.5.12", "0.5.12")).codes == ()
    assert judged(three_requests(), has_no_container=True).codes == ("no_container",)


def test_a_concurrency_that_its_few_requests_cannot_reach_is_not_reached():
    assert judged(three_requests(), concurrency=4).codes == ("concurrency_not_reached",)


def test_failed_connections_are_not_blamed_on_the_cache():
    v = judged(three_requests(error=["", "reset", ""]), server_peak_running=1, server_capacity_tokens=12345)

    assert v.codes == ("failed_requests",)


def test_a_server_that_admits_fewer_requests_flags_a_point():
    v = judged(three_requests(), server_max_running=1)

    assert (v.validity, v.codes) == ("flagged", ("admission_capped",))


def test_a_server_without_room_for_all_requests_flags_a_point_with_the_concurrency_that_ran():
    v = judged(three_requests(), server_peak_running=1, server_capacity_tokens=12345)

    assert (v.validity, v.codes) == ("flagged", ("kv_limited",))
    assert v.reasons[0].text == "at most 1 requests ran at once, but 2 were sent; the KV cache holds 12,345 tokens"


def test_a_capped_admission_is_not_also_called_a_full_cache():
    assert judged(three_requests(), server_max_running=1, server_peak_running=1).codes == ("admission_capped",)


@pytest.mark.parametrize(
    ("code", "circumstance", "bound"),
    [("client_lag", "client_lag_p99_s", 0.05), ("clock_step", "clock_step_s", 0.05), ("simulator_lag", "simulator_late_share", 0.25)],
)
def test_a_clock_past_its_bound_flags_a_point_and_at_its_bound_does_not(code, circumstance, bound):
    assert judged(three_requests(), **{circumstance: bound}).validity == "valid"
    assert judged(three_requests(), **{circumstance: bound * 1.01}).codes == (code,)


def test_a_clock_that_stepped_back_flags_a_point():
    assert judged(three_requests(), clock_step_s=-0.2).codes == ("clock_step",)


def test_a_point_that_is_both_flagged_and_invalid_is_invalid_and_says_both():
    v = judged(three_requests(asked=[6, 4, 11]), client_lag_p99_s=1.0)

    assert (v.validity, v.codes) == ("invalid", ("short_outputs", "client_lag"))


@pytest.mark.parametrize(
    ("neighbours", "codes"), [((0, 0), ()), ((1, 1), ()), ((3, 3), ()), ((1, 0), ("packed_alone",)), ((3, 2), ("packed_alone",))]
)
def test_a_server_that_was_to_have_neighbours_under_load_and_had_fewer_flags_a_point(neighbours, codes):
    v = judged(three_requests(), neighbours=neighbours)

    assert (v.validity, v.codes) == ("flagged" if codes else "valid", codes)


@pytest.mark.parametrize(
    ("before", "after", "is_alone"),
    [
        (["b200-1 measuring"], ["b200-1 warm-up"], False),
        (["b200-1 measuring"], ["b200-1 loading"], True),
        (["b200-1 loading"], ["b200-1 measuring"], True),
        (["b200-1 measuring"], [], True),
    ],
)
def test_what_a_lane_saw_beside_it_at_both_ends_of_its_window_says_whether_it_was_alone(before, after, is_alone):
    made = measured(provenance={"host": "gpu001", "lanes": 2, "beside_before": before, "beside_after": after})

    assert ("packed_alone" in besides_waves(made.verdict()).codes) == is_alone


def test_a_server_on_a_node_of_its_own_misses_no_neighbour():
    assert "packed_alone" not in besides_waves(measured().verdict()).codes


def test_a_published_point_is_flagged_as_not_recomputable():
    v = published_verdict({"total_tput_per_gpu_tok_s": 5.0}, {})

    assert (v.validity, v.codes) == ("flagged", ("not_recomputable",))


@given(
    errors=st.lists(st.sampled_from(["", "reset"]), min_size=3, max_size=3),
    asked=st.lists(st.integers(1, 12), min_size=3, max_size=3),
    lag=st.none() | st.floats(0, 1),
    running=st.none() | st.integers(1, 4),
    restarted=st.booleans(),
)
def test_a_verdict_follows_from_its_codes_which_are_all_stable(errors, asked, lag, running, restarted):
    v = judged(
        three_requests(error=errors, asked=asked), client_lag_p99_s=lag, server_max_running=running, has_no_container=restarted
    )  # fmt: skip

    assert set(v.codes) <= {*INVALID, *FLAGGED}
    assert v.validity == ("invalid" if set(v.codes) & set(INVALID) else "flagged" if v.codes else "valid")


def due(requests, seconds):
    return dataclasses.replace(requests, due_ns=np.array(seconds) * 10**9)


def one_by_one():
    """Four requests of one second each, one after another."""
    return raw([0, 1, 2, 3], [0.5, 1.5, 2.5, 3.5], [1, 2, 3, 4], prompt=[1] * 4, out=[2] * 4)


def sent(workload, requests=None, **changes):
    return measured(requests=requests or one_by_one(), arm={"workload": workload}, **changes)


@pytest.mark.parametrize(("late", "codes"), [(0, ()), (1, ()), (2, ("late_sends",))])
def test_more_than_a_hundredth_sent_late_flags_an_open_loop(late, codes):
    hundred = raw([0] * 100, [1] * 100, [2] * 100, prompt=[1] * 100, out=[2] * 100)
    v = judged(hundred, keeps_concurrency=False, late_sends=late, late_send_max_s=0.25)

    assert v.codes == codes
    assert [r.text for r in v.reasons] == ["2 of 100 requests were sent late, by up to 0.25 s"] * len(codes)


def test_late_sends_are_those_that_the_client_counted_and_of_an_open_loop_only():
    told = {"client": {"late_sends": 4, "late_send_max_s": 1.5}}

    assert besides_waves(sent({"arrivals": "poisson"}, provenance=told).verdict()).codes == ("late_sends",)
    assert "late_sends" not in besides_waves(sent({}, three_requests(), provenance=told).verdict()).codes


@pytest.mark.parametrize(
    ("asked", "codes"), [([10, 20, 30], ()), ([10, 20, 30.6], ()), ([10, 20, 31], ("prompt_lengths",)), ([9, 20, 30], ("prompt_lengths",))]
)
def test_prompts_that_the_server_counts_a_hundredth_longer_or_shorter_flag_a_point(asked, codes):
    assert judged(dataclasses.replace(three_requests(), asked_prompt_tokens=np.array(asked))).codes == codes


def test_prompt_lengths_are_compared_where_both_are_known():
    def told(asked, **changes):
        return judged(dataclasses.replace(three_requests(**changes), asked_prompt_tokens=np.array(asked))).codes

    assert told([0, 0, 0]) == ()
    assert told([10, 0, 0]) == ()
    assert told([10, 99, 30], prompt=[10, 0, 30]) == ("no_prompt_tokens",)
    assert told([10, 99, 30], error=["", "reset", ""]) == ("failed_requests",)
    assert told([11, 0, 30]) == ("prompt_lengths",)


def test_a_run_that_was_ended_early_is_incomplete_and_its_concurrency_is_not_judged():
    v = judged(one_by_one(), is_complete=False)

    assert (v.validity, v.codes) == ("invalid", ("incomplete",))
    assert besides_waves(sent({}, provenance={"is_complete": False}).verdict()).codes == ("incomplete",)


@pytest.mark.parametrize("workload", [{"arrivals": "poisson"}, {"arrivals": "trace"}, {"turns": 2, "think_time_s": 1.0}])
def test_an_open_loop_and_one_with_pauses_need_not_reach_their_concurrency(workload):
    assert besides_waves(sent(workload).verdict()).codes == ()
    assert besides_waves(sent({"arrivals": "closed", "think_time_s": 0.0}).verdict()).codes == ("concurrency_not_reached",)


def test_a_server_is_not_blamed_for_a_concurrency_that_an_open_loop_never_had():
    server = {"max_running": 1, "peak_running": 1}

    assert besides_waves(sent({"arrivals": "poisson"}, server={"peak_running": 1}, concurrency=64).verdict()).codes == ()
    assert besides_waves(sent({"arrivals": "poisson"}, server=server, concurrency=64).verdict()).codes == ()
    assert besides_waves(sent({"arrivals": "poisson"}, three_requests(), server=server, concurrency=64).verdict()).codes == (
        "admission_capped",
    )


def ramp():
    """Two users, the second of them after five seconds."""
    return raw(
        [0, 1, 2, 3, 4, 5, 5, 6, 6], [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 5.5, 7, 7], [1, 2, 3, 4, 5, 6, 6, 8, 8], prompt=[1] * 9, out=[2] * 9
    )


def test_the_concurrency_is_judged_from_the_end_of_the_ramp_on():
    assert judged(ramp()).codes == ("concurrency_not_reached",)
    assert judged(ramp(), ramp_s=5.0).codes == ()
    assert besides_waves(sent({"ramp_s": 100.0}, ramp(), time_scale=20.0).verdict()).codes == ()
    assert besides_waves(sent({"ramp_s": 20.0}, ramp(), time_scale=20.0).verdict()).codes == ("concurrency_not_reached",)


def test_a_run_that_was_over_before_its_ramp_did_not_reach_its_concurrency():
    assert judged(ramp(), ramp_s=60.0).codes == ()  # both were there in the end
    assert judged(one_by_one(), ramp_s=60.0).codes == ("concurrency_not_reached",)


def test_an_open_loops_latencies_are_counted_from_when_a_request_was_due():
    late = due(raw([0, 2, 3], [1, 3, 4], [3, 5, 6], prompt=[1] * 3, out=[5, 4, 11], chunks=[[(1, 1), (3, 4)], [], []]), [0, 1, 3])
    counted = [figures(late, from_due=from_due) for from_due in (False, True)]

    assert [f.ttft.mean for f in counted] == [1.0, pytest.approx(4 / 3)]
    assert [f.e2el.mean for f in counted] == [3.0, pytest.approx(10 / 3)]
    assert [f.tpot.mean for f in counted] == [pytest.approx((2 / 4 + 2 / 3 + 2 / 10) / 3)] * 2
    assert sent({"arrivals": "poisson"}, late).figures() == counted[1]
    assert sent({}, late).figures() == counted[0]


def test_a_request_that_was_never_due_counts_from_when_it_was_sent():
    r = dataclasses.replace(three_requests(), due_ns=np.array([-1, -1, -1]))

    assert figures(r, from_due=True) == figures(three_requests())


@pytest.mark.parametrize(
    ("workload", "tput"),
    [({}, 33 / 8), ({"ramp_s": 4.0}, 33 / 8), ({"arrivals": "poisson"}, np.nan), ({"turns": 2, "think_time_s": 1.0}, np.nan)],
)
def test_the_steady_window_of_a_row_is_of_runs_that_keep_their_concurrency_and_after_the_ramp(workload, tput):
    row = row_of(sent(workload, waves()), "d", "x.h5")

    assert row.steady_tput_per_gpu_tok_s == pytest.approx(tput, nan_ok=True)
