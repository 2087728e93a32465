import dataclasses

import pytest
from curves_of import arm, prior, question, true_point

from glm5bench.search.decision import claimed, decide, expected, remaining

PLANNED = (3, 10, 25, 60)


def measured(name="a", at=PLANNED, start="s", **changed):
    seen = [true_point(c, start) for c in at]
    return arm(name, seen, running=start, **changed)


def test_planned_points_come_first_on_one_server():
    first = decide(question(), [arm()], "a")
    second = decide(question(), [measured(at=(3,))], "a")

    assert (first.action, first.concurrency, first.is_new_start, first.code) == ("point", 3, True, "planned")
    assert (second.concurrency, second.is_new_start) == (10, False)


def test_the_planned_design_may_end_a_search_at_once_and_a_later_claim_must_hold_twice():
    first = [true_point(c, "s") for c in PLANNED]
    second = [true_point(c, "t") for c in PLANNED]
    claims = [claimed(question(), [arm(seen=[*first, *second[:n]])]).value for n in range(5)]
    n = next(n for n in range(1, 5) if claims[n] < min(claims[:n]))  # the first point that makes it narrower than ever
    tight = question(tolerance=(claims[n] + min(claims[:n])) / 2)

    assert decide(question(tolerance=claims[0]), [measured()], "a").code == "reached"
    assert decide(tight, [arm(seen=[*first, *second[:n]], running="t")], "a").action == "point"
    assert decide(question(tolerance=max(claims[3:])), [arm(seen=[*first, *second], running="t")], "a").code == "reached"


def test_the_same_points_give_the_same_choice():
    tight = question(tolerance=0.02)
    one, other = (decide(tight, [measured(), measured("b", prior=prior(2.0))], "a") for _ in range(2))

    assert one == other
    assert one.code == "best"
    assert one.candidates


def test_a_large_spread_asks_for_another_start():
    choice = decide(question(tolerance=0.02, spread=0.05), [measured(at=(3, 6, 10, 16, 25, 40, 60))], "a")

    assert choice.is_new_start


def test_a_concurrency_is_not_measured_twice_on_one_start():
    choice = decide(question(tolerance=0.005), [measured(at=(2, 3, 5, 10, 13, 16, 25, 60))], "a")
    on_this_server = [c.concurrency for c in choice.candidates if not c.is_new_start]

    assert not {2, 3, 5, 10, 13, 16, 25, 60} & set(on_this_server)


def test_an_arm_that_cannot_win_in_the_band_is_dropped_and_the_winner_is_not():
    strong, weak = arm("strong", series="x"), arm("weak", series="x", prior=prior(0.2))

    near = question(high=60.0)  # both surely reach it

    assert decide(near, [strong, weak], "weak").code == "dropped"
    assert decide(near, [strong, weak], "strong").action == "point"


def test_a_search_ends_at_its_budget_or_its_number_of_points_without_success():
    tight = question(tolerance=0.001, most_points=4)
    by_points = decide(tight, [measured()], "a")
    by_budget = decide(dataclasses.replace(tight, most_points=40, budget_node_h=0.2), [measured()], "a")

    assert (by_points.action, by_points.code) == ("stop", "most_points")
    assert (by_budget.action, by_budget.code) == ("stop", "budget")


def test_the_budget_counts_every_node_of_a_server_and_a_share_of_a_packed_one():
    alone = measured()
    two, half = (dataclasses.replace(alone, nodes=n) for n in (2.0, 0.5))
    hours = alone.spent_s / 3600

    assert [two.spent_s, half.spent_s] == pytest.approx([2 * alone.spent_s, alone.spent_s / 2])
    budget = question(tolerance=0.001, most_points=40, budget_node_h=1.5 * hours)
    assert [decide(budget, [a], "a").code == "budget" for a in (two, alone, half)] == [True, False, False]


def test_an_arm_does_not_wait_for_arms_that_have_no_point_yet():
    others = [arm("b", prior=prior(2.0)), arm("c", prior=prior(3.0))]
    choice = decide(question(tolerance=0.15), [measured(), *others], "a")

    assert claimed(question(), [measured(), *others]).value > 0.15
    assert choice.code == "arm_reached"


def test_the_claim_of_two_series_is_about_their_ratio():
    a, b = measured(), measured("b", prior=prior(2.0))
    both = claimed(question(), [a, b])

    assert both.value > max(both.series.values())


def test_the_expected_claim_is_about_the_one_that_the_planned_points_give():
    before = expected(question(), [arm()]).value

    assert before == pytest.approx(claimed(question(), [measured()]).value, rel=0.35)


def test_a_band_that_an_arm_cannot_reach_ends_its_search_and_not_that_of_the_others():
    far = question(low=200.0, high=300.0)
    slow = measured("slow", prior=prior(1.0))
    fast = measured("fast")

    assert decide(far, [slow], "slow").code == "out_of_reach"
    near = question(tolerance=0.3)
    crippled = arm(
        "crippled", [dataclasses.replace(s, interactivity_tok_s_user=s.interactivity_tok_s_user / 8) for s in fast.seen], running="s"
    )
    assert decide(near, [fast, crippled], "crippled").code == "out_of_reach"
    assert decide(near, [fast, dataclasses.replace(crippled, has_ended=True)], "fast").code == "reached"


@pytest.mark.parametrize(("code", "is_reached"), [("most_points", False), ("budget", False), ("dropped", True), ("reached", True)])
def test_an_arm_that_ended_at_a_limit_is_not_expected_to_be_reached(code, is_reached):
    arms = (dataclasses.replace(measured(), has_ended=True, ended_as=code),)

    assert remaining(question(), arms).is_reached == is_reached
