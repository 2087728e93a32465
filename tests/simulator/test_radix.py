"""The prefix cache of the simulated server, compared with a brute-force search for common prefixes."""

import dataclasses

import numpy as np
import pytest
from conftest import compose

from glm5bench.roofline import step_model
from glm5bench.simulator.radix import Radix, pages_of
from glm5bench.simulator.scheduler import Cache, Limits, Request, Scheduler

PAGE = 4
MODEL = step_model(compose("hardware=b200").arm, "fp8")


def scheduler(capacity=10**6, **cache):
    return Scheduler(MODEL, Limits(64, capacity, 8192, cache=Cache(PAGE, **cache)))


def served(s, prompts, *, together=False):
    """The cached tokens of each prompt, sent one after another, or all at once."""
    made = []
    for i, prompt in enumerate(prompts):
        request = Request(i, len(prompt), 3)
        request.pages = pages_of(prompt, PAGE)
        s.add(request)
        made.append(request)
        while not together and s.step() is not None:
            pass
    while s.step() is not None:
        pass
    return [r.cached_tokens for r in made]


def oracle(prompts, kept_back=1):
    """The longest common prefix with any earlier prompt, in whole pages, without the last tokens."""
    found = []
    for i, prompt in enumerate(prompts):
        common = [
            next((k for k, (a, b) in enumerate(zip(prompt, p, strict=False)) if a != b), min(len(prompt), len(p))) for p in prompts[:i]
        ]
        whole = [c // PAGE * PAGE for c in common]
        found.append(min(max(whole, default=0), max(0, len(prompt) - kept_back) // PAGE * PAGE))
    return found


def drawn(rng, n):
    """Prompts that share beginnings of random length."""
    prompts = [list(rng.integers(0, 50, size=20))]
    for _ in range(n - 1):
        base = prompts[rng.integers(len(prompts))]
        prompts.append([*base[: rng.integers(len(base) + 1)], *rng.integers(0, 50, size=rng.integers(1, 15))])
    return [[int(i) for i in p] for p in prompts]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kept_back", [1, 2])
def test_the_cache_finds_the_longest_common_prefix(seed, kept_back):
    prompts = drawn(np.random.default_rng(seed), 40)

    assert served(scheduler(kept_back=kept_back), prompts) == oracle(prompts, kept_back)


def test_prompts_that_are_sent_before_their_common_prefix_is_computed_find_nothing():
    prompts = [[1] * 40, [1] * 40]

    assert served(scheduler(), prompts, together=True) == [0, 0]
    assert served(scheduler(), prompts) == [0, 36]


def test_a_small_cache_forgets_the_least_recently_used_and_a_larger_one_never_finds_less():
    prompts = drawn(np.random.default_rng(7), 80)
    found = [sum(served(scheduler(capacity), prompts)) for capacity in (60, 120, 400, 10**6)]

    assert found == sorted(found)
    assert found[0] < found[-1] == sum(oracle(prompts))


def test_what_leaves_the_gpu_is_found_on_the_host():
    prompts = [[i] * 40 for i in range(4)] * 2
    without, with_host = scheduler(100), scheduler(100, host_tokens=1000, host_token_s=1e-3)

    assert served(without, prompts)[4:] == [0, 0, 0, 0]
    assert served(with_host, prompts)[4:] == [36, 36, 36, 36]
    assert with_host._now_s > without._now_s - MODEL.prefill_s(160, 160 * 20)  # loading takes time


def test_each_group_has_its_own_cache():
    model = step_model(dataclasses.replace(compose("hardware=b200").arm, dp=2), "fp8")
    s = Scheduler(model, Limits(64, 10**6, 8192, cache=Cache(PAGE)))
    s.radix[1].commit(s.radix[1].take(pages_of([1] * 40, PAGE), 9))

    assert served(s, [[1] * 40, [1] * 40]) == [0, 36]  # both go to the first group


def test_pages_that_several_requests_hold_are_counted_once():
    s = scheduler()
    served(s, [[1] * 40])
    for i in range(3):
        request = Request(i, 42, 100)
        request.pages = pages_of([1] * 42, PAGE)
        s.add(request)
    while s.n_running < 3 or s.n_waiting:
        s.step()
    while s._prefilling:
        s.step()

    assert s.used_tokens <= 40 + 3 * (2 + 10)


def test_pages_that_requests_hold_are_not_evicted():
    radix = Radix(PAGE)
    held = radix.take(pages_of([1] * 16, PAGE), 4)
    radix.commit(held)
    radix.evict(0)
    again = radix.take(pages_of([1] * 16, PAGE), 4)
    radix.release(held, 0)
    radix.release(again, 9)
    radix.evict(1)

    assert again.device == 4
    assert radix.held_pages == 0
    assert radix.free_pages == 1
