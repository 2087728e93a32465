"""Verdicts and their reason codes."""

import dataclasses

import pytest
from conftest import measured, raw, three_requests
from hypothesis import given
from hypothesis import strategies as st

from glm5bench.analysis.metrics import figures
from glm5bench.analysis.validity import FLAGGED_CODES, INVALID_CODES, Circumstances, published_verdict, verdict

CALM = Circumstances(2, None, None, None, None, None, None, engine_version=None, has_no_container=False)


def judged(requests, **circumstances):
    return verdict(requests, figures(requests), dataclasses.replace(CALM, **circumstances))


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
    assert v.reasons[0].text == "1.0 requests were in flight, 2 were to be"


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
    assert v.reasons[0].text == "at most 1 requests ran at once, 2 were sent; the KV cache holds 12,345 tokens"


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

    assert ("packed_alone" in made.verdict().codes) == is_alone


def test_a_server_on_a_node_of_its_own_misses_no_neighbour():
    assert "packed_alone" not in measured().verdict().codes


def test_a_published_point_is_flagged_as_not_recomputable():
    v = published_verdict()

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

    assert set(v.codes) <= {*INVALID_CODES, *FLAGGED_CODES}
    assert v.validity == ("invalid" if set(v.codes) & set(INVALID_CODES) else "flagged" if v.codes else "valid")
