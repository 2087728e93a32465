"""The requests of a point."""

import dataclasses
import json

import pytest
from conftest import compose
from hypothesis import given
from hypothesis import strategies as st

from glm5bench.client.workload import FIRST_ID, LAST_ID, WORDS, prompts
from glm5bench.point import Point
from glm5bench.workload import Workload

SMALL = Workload("small", 100, 50, 0.8, "completions", prompts_per_concurrency=10, prompts=None, warmups_per_concurrency=2)


def point(concurrency=4, *, seed=0, repeat=0):
    return Point("k", "a", concurrency, repeat, seed, concurrency)


def bodies(workload=SMALL, at=None):
    return [json.loads(p.body) for p in prompts(workload, at or point(), "glm")[1]]


def test_the_public_protocol_sends_2c_warmups_and_10c_requests():
    warm, sent = prompts(compose().workload, point(3), "glm")

    assert (len(warm), len(sent)) == (6, 30)


def test_a_fixed_number_of_prompts_holds_at_every_concurrency():
    sent = prompts(dataclasses.replace(SMALL, prompts=17), point(32), "glm")[1]

    assert len(sent) == 17


def test_a_range_ratio_of_one_fixes_the_lengths():
    sent = prompts(dataclasses.replace(SMALL, range_ratio=1.0), point(), "glm")[1]

    assert {(p.prompt_tokens, p.output_tokens) for p in sent} == {(100, 50)}


def test_completions_are_sent_token_ids_of_exactly_the_drawn_length():
    sent = prompts(SMALL, point(), "glm")[1]

    for p in sent:
        ids = json.loads(p.body)["prompt"]
        assert len(ids) == p.prompt_tokens
        assert all(FIRST_ID <= i < LAST_ID for i in ids)


def test_every_token_id_is_in_the_models_vocabulary():
    assert compose().checkpoint.architecture.vocabulary > LAST_ID


def test_chat_is_sent_a_word_a_token():
    sent = prompts(dataclasses.replace(SMALL, endpoint="chat"), point(), "glm")[1]
    body = json.loads(sent[0].body)

    assert "prompt" not in body
    words = body["messages"][0]["content"].split()
    assert len(words) == sent[0].prompt_tokens
    assert set(words) <= set(WORDS)


def test_every_request_asks_for_its_whole_output_and_for_counts():
    body, asked = bodies()[0], prompts(SMALL, point(), "glm")[1][0]

    assert (body["max_tokens"], body["ignore_eos"], body["temperature"]) == (asked.output_tokens, True, 0)
    assert (body["stream"], body["stream_options"]["include_usage"], body["model"]) == (True, True, "glm")


def test_no_prompt_repeats_neither_in_the_warmups_nor_at_another_concurrency():
    sent = [p.body for c in (4, 8) for batch in prompts(SMALL, point(c), "glm") for p in batch]

    assert len(set(sent)) == len(sent) == 12 * 12


def test_the_warmups_do_not_fill_the_cache_with_measured_prompts():
    warm, sent = prompts(dataclasses.replace(SMALL, warmups_per_concurrency=10), point(), "glm")

    assert len(warm) == len(sent)
    assert not {p.body for p in warm} & {p.body for p in sent}


@pytest.mark.parametrize("other", [point(seed=1), point(repeat=1)])
def test_another_seed_or_repeat_sends_other_prompts(other):
    assert not {str(b["prompt"]) for b in bodies()} & {str(b["prompt"]) for b in bodies(at=other)}


def test_the_same_point_has_the_same_prompts_everywhere():
    assert prompts(SMALL, point(), "glm") == prompts(SMALL, point(), "glm")


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 1), st.integers(0, 2**32))
def test_lengths_are_drawn_between_the_ratio_and_the_nominal(isl, osl, ratio, seed):
    w = dataclasses.replace(SMALL, isl_tokens=isl, osl_tokens=osl, range_ratio=ratio)

    for p in prompts(w, point(1, seed=seed), "glm")[1]:
        assert max(1, int(ratio * isl)) <= p.prompt_tokens <= isl
        assert max(1, int(ratio * osl)) <= p.output_tokens <= osl


def test_both_ends_of_the_range_are_drawn():
    short = dataclasses.replace(SMALL, isl_tokens=5, prompts=200)

    assert {p.prompt_tokens for p in prompts(short, point(), "glm")[1]} == {4, 5}
