"""The simulated scheduler in virtual time."""

import dataclasses

import pytest
from conftest import compose
from hypothesis import given, settings
from hypothesis import strategies as st

from glm5bench.roofline import StepModel, acceptance_length
from glm5bench.simulator.scheduler import Limits, Request, Scheduler

ROOMY = Limits(max_running=100, capacity_tokens=10**9, chunk_tokens=8192)


def model(speculative="off", host_s=0.0):
    arm = compose(f"speculative={speculative}").arm
    efficiency = dataclasses.replace(arm.hardware.efficiency, host_s=host_s)
    return StepModel(dataclasses.replace(arm.hardware, efficiency=efficiency), arm.checkpoint, arm.tp, arm.speculative, "fp8")


def scheduler(*requests, limits=ROOMY, speculative="off"):
    s = Scheduler(model(speculative), limits)
    for request in requests:
        s.add(request)
    return s


def drained(s, at_most=100_000):
    steps = []
    while (step := s.step()) is not None:
        steps.append(step)
        assert len(steps) < at_most
    return steps


def tokens(step):
    return [(request.id, n) for request, n in step.tokens]


def test_an_empty_scheduler_has_nothing_to_do():
    assert scheduler().step() is None


def test_a_prefill_gives_the_first_token_and_each_decode_step_one_more():
    steps = drained(scheduler(Request(1, 100, 4)))

    assert [tokens(step) for step in steps] == [[(1, 1)]] * 4


def test_a_long_prompt_is_prefilled_in_chunks_that_give_no_token():
    steps = drained(scheduler(Request(1, 20_000, 2)))

    assert [tokens(step) for step in steps] == [[], [], [(1, 1)], [(1, 1)]]


def test_one_chunk_prefills_several_short_prompts():
    step = scheduler(Request(1, 4000, 9), Request(2, 4000, 9), Request(3, 4000, 9)).step()

    assert tokens(step) == [(1, 1), (2, 1)]


def test_a_request_is_admitted_after_the_hosts_work():
    s = Scheduler(model(host_s=0.1), ROOMY)
    s.add(Request(1, 100, 2))
    steps = drained(s)

    assert steps[0].duration_s == pytest.approx(0.1)
    assert [tokens(step) for step in steps] == [[], [(1, 1)], [(1, 1)]]


def test_a_request_waits_for_passes_in_flight_if_others_run():
    s = Scheduler(model(), dataclasses.replace(ROOMY, wait_passes=3))
    s.add(Request(1, 100, 50))
    s.step()
    s.step()
    s.add(Request(2, 100, 50))

    assert [tokens(s.step()) for _ in range(4)] == [[(1, 1)]] * 3 + [[(2, 1)]]


def test_a_request_that_is_aborted_before_it_is_ready_leaves_nothing():
    s = Scheduler(model(host_s=0.1), ROOMY)
    request = Request(1, 100, 2)
    s.add(request)
    s.abort(request)

    assert (s.n_waiting, s.step()) == (0, None)


def test_prefill_goes_before_decoding():
    s = scheduler(Request(1, 100, 50))
    s.step()
    s.add(Request(2, 100, 50))

    assert tokens(s.step()) == [(2, 1)]
    assert tokens(s.step()) == [(1, 1), (2, 1)]


def test_no_more_requests_run_than_the_limit():
    s = scheduler(*(Request(i, 10, 3) for i in range(5)), limits=dataclasses.replace(ROOMY, max_running=2))
    s.step()

    assert (s.n_running, s.n_waiting) == (2, 3)


def test_a_request_waits_while_its_tokens_do_not_fit_the_cache():
    s = scheduler(*(Request(i, 100, 100) for i in range(3)), limits=dataclasses.replace(ROOMY, capacity_tokens=300))
    s.step()

    assert (s.n_running, s.n_waiting) == (2, 1)  # each reserves 100 + 100/2


def test_a_request_larger_than_the_cache_runs_alone_rather_than_never():
    big = Request(1, 1000, 5)
    s = scheduler(big, Request(2, 10, 5), limits=dataclasses.replace(ROOMY, capacity_tokens=300))
    s.step()

    assert (s.n_running, s.n_waiting) == (1, 1)
    drained(s)
    assert big.done


def test_requests_are_admitted_in_their_order():
    s = scheduler(*(Request(i, 10, 2) for i in (7, 3, 5)), limits=dataclasses.replace(ROOMY, max_running=1))

    assert [request.id for step in drained(s) for request, _ in step.tokens] == [7, 7, 3, 3, 5, 5]


def test_the_cache_in_use_is_that_of_prefilled_and_emitted_tokens():
    s = scheduler(Request(1, 100, 5))
    s.step()
    s.step()

    assert s.used_tokens == 102


def test_an_aborted_request_gives_its_cache_back_and_gets_no_more_tokens():
    first, second = Request(1, 100, 100), Request(2, 100, 100)
    s = scheduler(first, second, limits=dataclasses.replace(ROOMY, capacity_tokens=200))
    s.step()
    s.abort(first)

    assert tokens(s.step()) == [(2, 1)]
    assert (first.done, first.emitted) == (True, 1)


def test_a_finished_request_gives_its_cache_back():
    s = scheduler(*(Request(i, 100, 100) for i in range(2)), limits=dataclasses.replace(ROOMY, capacity_tokens=300))
    drained(s)
    s.add(Request(2, 100, 100))
    s.add(Request(3, 100, 100))
    s.step()

    assert (s.n_running, s.n_waiting) == (2, 0)


def test_a_request_aborted_while_it_waits_is_never_run():
    second = Request(2, 10, 2)
    s = scheduler(Request(1, 10, 2), second, limits=dataclasses.replace(ROOMY, max_running=1))
    s.abort(second)

    assert {request.id for step in drained(s) for request, _ in step.tokens} == {1}


def test_speculation_gives_several_tokens_a_step():
    steps = drained(scheduler(Request(1, 100, 400), speculative="mtp"))
    given_in_decode = [n for step in steps[1:] for _, n in step.tokens]

    assert set(given_in_decode) <= {1, 2, 3, 4}
    assert len(set(given_in_decode)) > 1


def test_accepted_tokens_a_step_are_on_average_the_acceptance_length():
    request = Request(1, 100, 20_000)
    drained(scheduler(request, speculative="mtp"))

    assert request.emitted / request.verify_steps == pytest.approx(acceptance_length(model("mtp")), rel=0.02)


def test_the_same_seed_gives_the_same_steps():
    runs = [[(step.duration_s, tokens(step)) for step in drained(scheduler(Request(1, 50, 99), speculative="mtp"))] for _ in range(2)]

    assert runs[0] == runs[1]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 500), st.integers(1, 60)), min_size=1, max_size=12),
    running=st.integers(1, 8),
    capacity=st.integers(1, 2000),
    chunk=st.integers(1, 600),
    speculative=st.sampled_from(["off", "mtp"]),
)
def test_every_request_gets_all_of_its_tokens_within_the_limits(lengths, running, capacity, chunk, speculative):
    requests = [Request(i, p, o) for i, (p, o) in enumerate(lengths)]
    s = scheduler(*requests, limits=Limits(running, capacity, chunk), speculative=speculative)

    got = dict.fromkeys(range(len(requests)), 0)
    while (step := s.step()) is not None:
        assert step.duration_s > 0
        assert s.n_running <= running
        for request, n in step.tokens:
            got[request.id] += n

    assert [got[r.id] for r in requests] == [r.output_tokens for r in requests]
    assert all(r.done for r in requests)
    assert (s.n_running, s.n_waiting, s.used_tokens) == (0, 0, 0)
