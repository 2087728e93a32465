import math

import numpy as np
import pytest
from curves_of import prior, question

from glm5bench.errors import SettingsError
from glm5bench.search.curves import Seen
from glm5bench.search.prior import candidates
from glm5bench.search.question import limits_of, question_of
from glm5bench.search.slo import crossing, next_probe
from glm5bench.values.search import Search


def tpot_s(c):
    return 0.008 + 0.0004 * c


def ttft_s(c):
    return 0.3 + (0.02 * c if c < 40 else 0.8 + 0.3 * (c - 40))


def slo_prior(high=256):
    grid = candidates(1, high)
    return prior(
        high=high, latency={"tpot_p99": tuple(math.log(tpot_s(c)) for c in grid), "ttft_p99": tuple(math.log(ttft_s(c)) for c in grid)}
    )


def probe(c, start="s", factor=1.0):
    return Seen(c, 100.0, 20.0, start, {"tpot_p99": factor * tpot_s(c), "ttft_p99": factor * ttft_s(c)})


def searched(asked, factor=1.0, effects=None, high=256):
    """The probes of a search on a server whose latencies are `factor` times the predicted ones, and the last decision."""
    seen, running, effects = [], "", effects or {}
    while True:
        step = next_probe(asked, slo_prior(high), seen, running)
        if not step.concurrency:
            return seen, step
        running = f"s{len({s.start for s in seen})}" if step.is_new_start else running
        seen.append(probe(step.concurrency, running, factor * effects.get(running, 1.0)))


def within(text, **changed):
    return question(limits=limits_of(text), **changed)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.4])
def test_the_crossing_is_found_in_few_probes_with_points_on_both_sides_of_it_on_two_starts(factor):
    seen, end = searched(within("tpot_p99<=25ms"), factor)
    truth = (0.025 / factor - 0.008) / 0.0004

    assert end.code == "reached"
    assert len(seen) <= 6
    assert len({s.start for s in seen}) == 2
    assert end.crossing.passes <= truth <= end.crossing.fails
    assert end.crossing.low <= truth <= end.crossing.high


def test_the_limit_that_is_reached_first_decides():
    seen, end = searched(within("ttft_p99<=2s,tpot_p99<=30ms"))

    assert end.crossing.binding == "ttft_p99<=2s"
    assert end.crossing.passes <= 43.0 <= end.crossing.fails
    assert seen


def test_an_interval_is_wider_if_starts_differ_more():
    narrow, wide = (crossing(within("tpot_p99<=25ms", spread=s), slo_prior(), [probe(42)]) for s in (0.01, 0.05))

    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_a_limit_that_no_concurrency_exceeds_or_keeps_is_no_success():
    _, every = searched(within("tpot_p99<=10s"), high=16)
    _, none = searched(within("tpot_p99<=1ms"))

    assert every.code == "all_pass"
    assert none.code == "none_passes"


def test_a_search_ends_at_its_number_of_points():
    seen, end = searched(within("tpot_p99<=25ms", most_points=2), factor=1.3)

    assert end.code == "most_points"
    assert len(seen) == 2


@pytest.mark.parametrize(
    "text", ["", "ttft<=2s", "ttft_p99<2s", "ttft_p99<=0s", "ttft_p99<=2s,ttft_p99<=3s", "ttft_p99<=2", "ttft_p99<=1.2.3s"]
)
def test_a_limit_that_cannot_be_read_is_refused_with_an_example(text):
    with pytest.raises(SettingsError, match=r"search\.slo"):
        limits_of(text)


def test_contradicting_settings_are_refused():
    with pytest.raises(SettingsError, match="empty"):
        question_of(Search("frontier", band=(80.0, 20.0), tolerance=0.1))
    with pytest.raises(SettingsError, match="empty"):
        question_of(Search("frontier", band=(20.0, 80.0), tolerance=0.1, candidates=(8, 8)))
    assert question_of(Search("none")) is None


def test_latency_is_a_step_where_the_knee_is():
    found = crossing(within("ttft_p99<=2s"), slo_prior(), ())

    assert found.estimate == pytest.approx(43, rel=0.05)
    assert np.isfinite(found.low)


def test_a_pass_and_a_fail_side_by_side_on_one_server_ask_for_another_start():
    asked = within("tpot_p99<=25ms", spread=0.03, most_points=12)
    seen = [probe(60), probe(42), probe(43, factor=1.02)]
    step = next_probe(asked, slo_prior(), seen, "s")

    assert step.is_new_start
    assert step.concurrency in (42, 43)


@pytest.mark.parametrize("seed", range(12))
def test_a_noisy_search_always_ends(seed):
    rng = np.random.default_rng(seed)
    asked = within("tpot_p99<=25ms,ttft_p99<=2s", spread=0.05, most_points=12)
    seen, running = [], ""
    while (step := next_probe(asked, slo_prior(), seen, running)).concurrency:
        running = str(len(seen)) if step.is_new_start else running
        seen.append(probe(step.concurrency, running, math.exp(rng.normal(0.05, 0.1))))

    assert len(seen) <= 12
