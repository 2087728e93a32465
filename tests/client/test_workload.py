"""The requests of a point."""

import dataclasses
import hashlib
import itertools
import json

import pytest
from conftest import compose
from hypothesis import given
from hypothesis import strategies as st

from glm5bench.client.recorded import Exchanged, Traced
from glm5bench.client.workload import FIRST_ID, LAST_ID, WORDS, Counting, Encoder, prompts
from glm5bench.errors import ClientError
from glm5bench.node.attempt import variant
from glm5bench.values.point import Point
from glm5bench.values.workload import Workload

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


def encoded(at=None, vocabulary=LAST_ID, counting=None, **changes):
    return Encoder(dataclasses.replace(SMALL, **changes), at or point(), "glm", vocabulary, counting or Counting())


def drawn(**how):
    return [[json.loads(p.body) for p in session] for session in encoded(**how).drawn()]


def n_common(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def n_words(content):
    return len(content.split())


def test_every_prompt_begins_with_the_prefix_and_shares_nothing_more():
    sent = [p["prompt"] for (p,) in drawn(prefix_tokens=30, range_ratio=1.0)]

    assert {len(p) for p in sent} == {100}
    assert all(n_common(a, b) == 30 for a, b in itertools.combinations(sent, 2))


def test_without_a_prefix_no_two_prompts_begin_alike():
    sent = [p["prompt"] for (p,) in drawn()]

    assert all(n_common(a, b) == 0 for a, b in itertools.combinations(sent, 2))


def test_a_prompt_shorter_than_the_prefix_keeps_its_length_and_a_token_of_its_own():
    sent = [p["prompt"] for (p,) in drawn(prefix_tokens=90, range_ratio=0.5)]
    short = [p for p in sent if len(p) <= 90]

    assert short
    assert all(n_common(p, q) == min(len(p), len(q), 91) - 1 for p, q in itertools.combinations(short, 2))


def test_the_warmups_have_the_prefix_too_and_else_prompts_of_their_own():
    encoder = encoded(prefix_tokens=30)
    warm = [json.loads(p.body)["prompt"] for (p,) in encoder.warmups()]
    sent = [json.loads(p.body)["prompt"] for (p,) in encoder.drawn()]

    assert {n_common(w, s) for w in warm for s in sent} == {30}


def test_a_chat_prefix_is_as_long_in_the_servers_count_as_it_should_be():
    two_a_word = Counting(overhead=10, per_word=2)
    sent = [p["messages"][0]["content"].split() for (p,) in drawn(endpoint="chat", prefix_tokens=60, range_ratio=1.0, counting=two_a_word)]

    assert {len(p) for p in sent} == {45}  # (100 - 10)/2
    assert all(30 <= n_common(a, b) < 40 for a, b in itertools.combinations(sent, 2))


def test_prompts_of_a_tiny_vocabulary_do_not_repeat():
    sent = [p["prompt"] for (p,) in drawn(vocabulary=64, isl_tokens=8, range_ratio=1.0, prompts=100)]

    assert {i for p in sent for i in p} == set(range(8, 64))
    assert len({tuple(p) for p in sent}) == 100


@pytest.mark.parametrize(
    "tiny",
    [{"vocabulary": 64, "isl_tokens": 1, "prompts": 57}, {"endpoint": "chat", "isl_tokens": 1, "prompts": 21}],
    ids=["ids", "words"],
)
def test_more_prompts_than_there_are_different_ones_are_refused(tiny):
    with pytest.raises(ClientError, match="There are not enough different prompts") as refused:
        drawn(range_ratio=1.0, **tiny)

    assert "isl_tokens" in refused.value.next_step


def test_a_vocabulary_without_a_token_to_send_is_refused_but_not_for_text():
    with pytest.raises(ClientError, match="vocabulary has 63 tokens"):
        encoded(vocabulary=63)
    assert len(list(encoded(vocabulary=63, endpoint="chat").drawn())) == 40


@pytest.mark.parametrize("changes", [{"turns": 3, "think_time_s": 2.0}, {"prefix_tokens": 20}, {"endpoint": "chat", "turns": 2}])
def test_conversations_are_the_same_for_the_same_point_and_others_for_another_repeat(changes):
    first, again, other = (list(encoded(at=at, **changes).drawn()) for at in (point(), point(), point(repeat=1)))

    assert first == again
    assert not {p.body for session in first for p in session} & {p.body for session in other for p in session}


def test_a_further_turn_begins_with_all_that_was_said_before():
    (session, *_) = encoded(turns=3, range_ratio=1.0).drawn()
    first, second, third = (json.loads(p.body)["prompt"] for p in session)

    assert [p.prompt_tokens for p in session] == [len(first), len(second), len(third)] == [100, 250, 400]
    assert second[:100] == first
    assert third[:250] == second


def test_a_prefix_stands_once_in_a_conversation():
    sessions = drawn(turns=2, prefix_tokens=30, range_ratio=1.0)
    answers, questions = ([second["prompt"][at : at + 30] for _, second in sessions] for at in (100, 150))
    prefix = sessions[0][0]["prompt"][:30]

    assert prefix not in (*answers, *questions)
    assert all(n_common(a, b) == 0 for a, b in itertools.combinations([*answers, *questions, prefix], 2))


def test_a_chat_of_several_turns_is_sent_as_messages_of_user_and_assistant_in_turn():
    (session, *_) = drawn(endpoint="chat", turns=3, range_ratio=1.0)

    assert [[m["role"] for m in body["messages"]] for body in session] == [
        ["user"], ["user", "assistant", "user"], ["user", "assistant", "user", "assistant", "user"],
    ]  # fmt: skip
    assert session[2]["messages"][:3] == session[1]["messages"]
    assert [n_words(m["content"]) for m in session[1]["messages"]] == [100, 50, 100]


def test_the_template_is_counted_once_and_a_word_as_the_server_counts_it():
    (session, *_) = drawn(endpoint="chat", turns=2, range_ratio=1.0, counting=Counting(overhead=10, per_word=2))

    assert [n_words(m["content"]) for m in session[1]["messages"]] == [45, 25, 50]


def test_pauses_stand_before_further_turns_only_and_have_the_mean_that_was_asked_for():
    sessions = list(encoded(turns=4, think_time_s=3.0, prompts=200).drawn())
    further = [p.pause_s for session in sessions for p in session[1:]]

    assert {session[0].pause_s for session in sessions} == {0.0}
    assert min(further) > 0
    assert sum(further) / len(further) == pytest.approx(3.0, rel=0.15)
    assert {p.pause_s for session in encoded(turns=2).drawn() for p in session} == {0.0}


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.integers(0, 39), st.integers(0, 2**32))
def test_every_prompt_of_ids_has_exactly_the_length_that_is_told(isl, osl, turns, prefix, seed):
    lengths = {"isl_tokens": isl, "osl_tokens": osl, "range_ratio": 0.5}
    encoder = encoded(at=point(1, seed=seed), turns=turns, prefix_tokens=min(prefix, isl - 1), prompts=3, **lengths)

    for session in encoder.drawn():
        told = [json.loads(p.body) for p in session]
        assert [len(b["prompt"]) for b in told] == [p.prompt_tokens for p in session]
        assert len(session) == turns
        assert session[-1].prompt_tokens + session[-1].output_tokens <= encoder.workload.longest_tokens


TALKS = [[Exchanged(f"q{i}", f"a{i}", 7 + i), Exchanged(f"more{i}", f"yes{i}", 1)] for i in range(3)]


def test_recorded_conversations_are_sent_with_the_answers_that_were_recorded():
    sessions = list(encoded(content="conversations", endpoint="chat", turns=2, prompts=3).conversations(TALKS))
    second = {json.loads(s[1].body)["messages"][0]["content"]: json.loads(s[1].body)["messages"] for s in sessions}

    first = next(asked for asked in second if asked.endswith("] q1"))
    assert sorted(asked.partition(" ")[2] for asked in second) == ["q0", "q1", "q2"]
    assert second[first] == [
        {"role": "user", "content": first}, {"role": "assistant", "content": "a1"}, {"role": "user", "content": "more1"},
    ]  # fmt: skip
    assert sorted(s[0].output_tokens for s in sessions) == [7, 8, 9]


def test_a_recorded_conversation_that_comes_again_has_another_number_before_it():
    sessions = encoded(content="conversations", prompts=8).conversations([talk[:1] for talk in TALKS], len)
    sent = [json.loads(p.body)["prompt"] for (p,) in sessions]

    assert len({s.partition(" ")[0] for s in sent}) == 8
    assert sorted(s.partition(" ")[2] for s in sent[:3]) == ["q0", "q1", "q2"]


def test_an_answer_of_a_file_is_asked_for_at_the_length_that_the_server_counts():
    sessions = encoded(content="conversations", prompts=3).conversations([talk[:1] for talk in TALKS], lambda text: 40)

    assert [s[0].output_tokens for s in sessions] == [40, 40, 40]


def traced(requests, **how):
    return [json.loads(p.body) for (p,) in encoded(content="trace", **how).traced(requests)]


def test_requests_of_a_trace_that_share_blocks_share_that_many_tokens():
    a, b, c = (body["prompt"] for body in traced([Traced(0, 1500, 5, (7, 8, 9)), Traced(1, 1100, 5, (7, 8, 3)), Traced(2, 600, 5, (2,))]))

    assert (len(a), len(b), len(c)) == (1500, 1100, 600)
    assert (n_common(a, b), n_common(a, c)) == (1024, 0)


@pytest.mark.parametrize("n", [1, 511, 512, 513, 1024])
def test_a_request_of_a_trace_is_as_long_as_it_was(n):
    assert len(traced([Traced(0, n, 5, (1, 2))])[0]["prompt"]) == n
    (message,) = traced([Traced(0, n, 5, (1, 2))], endpoint="chat")[0]["messages"]
    assert (message["role"], n_words(message["content"])) == ("user", n)


def test_the_last_block_of_a_request_is_shared_only_where_it_is_whole():
    a, b, c = (body["prompt"] for body in traced([Traced(0, n, 5, (7, 8)) for n in (900, 1000, 1024)]))

    assert (n_common(a, b), n_common(b, c)) == (512, 512)


def test_a_chat_request_of_a_trace_leaves_room_for_the_template():
    (body,) = traced([Traced(0, 512, 5, (7,))], endpoint="chat", counting=Counting(overhead=10, per_word=2))

    assert n_words(body["messages"][0]["content"]) == 251  # (512 - 10)/2, of a block of 256


def test_a_block_of_a_trace_is_another_text_in_another_repeat():
    one = Traced(0, 600, 5, (7,))
    first, again, other = (traced([one], at=at)[0]["prompt"] for at in (point(), point(), point(repeat=1)))

    assert first == again
    assert n_common(first, other) == 0


@pytest.mark.parametrize(
    ("endpoint", "digest"),
    [("completions", "d68bb74018f358189246"), ("chat", "6955c66cb5778e16eda0"), ("generate", "59da9302b2bd0678c809")],
)
def test_the_prompts_of_the_public_protocol_are_those_of_the_first_version(endpoint, digest):
    warm, sent = prompts(dataclasses.replace(SMALL, endpoint=endpoint), point(), "glm")

    assert hashlib.sha256(b"".join(p.body for p in (*warm, *sent))).hexdigest()[:20] == digest


def test_settings_that_came_later_are_not_in_the_key_of_the_public_protocol():
    assert compose("workload=8k1k").workload.physics() == {
        "id": "", "isl_tokens": 8192, "osl_tokens": 1024, "range_ratio": 0.8, "endpoint": "completions",
        "prompts_per_concurrency": 10, "prompts": None, "warmups_per_concurrency": 2,
    }  # fmt: skip


DEPARTING = {
    "content": "trace", "file_sha256": "0123456789abcdef", "prefix_tokens": 8, "turns": 2, "think_time_s": 1.5, "arrivals": "gamma",
    "rate_rps": 2.5, "burstiness": 0.5, "ramp_s": 10.0, "duration_s": 60.0, "omit": ("ignore_eos",), "idle_cap_s": 5.0,
    "session_header": "X-Session",
}  # fmt: skip


@pytest.mark.parametrize("name", DEPARTING)
def test_a_setting_that_departs_from_the_public_protocol_is_in_the_key_and_in_the_name_of_the_curve(name):
    arm = compose().arm
    other = dataclasses.replace(arm, workload=dataclasses.replace(arm.workload, **{name: DEPARTING[name]}))

    assert other.workload.physics() == {**arm.workload.physics(), name: DEPARTING[name]}
    told = ",".join(DEPARTING[name]) if isinstance(DEPARTING[name], tuple) else str(DEPARTING[name])[:12]
    assert (variant(arm), variant(other)) == ("", f"{name}={told}")


def test_every_setting_that_came_later_departs_but_for_what_a_good_request_keeps_and_where_the_file_lies():
    later = {f.name for f in dataclasses.fields(Workload) if f.default is not dataclasses.MISSING}
    w = compose().workload

    of_file = {"file", "most_tokens", "most_pause_s"}  # which has a hash

    assert later - set(DEPARTING) == {"goodput", "entry", *of_file}  # see below
    assert dataclasses.replace(w, entry=(0.0, 0.5)).departures() == ("entry=0..0.5",)
    assert dataclasses.replace(w, entry=(0.0, 0.5)).physics() == {**w.physics(), "entry": (0.0, 0.5)}
    assert dataclasses.replace(w, goodput="ttft<=2s", file="/elsewhere").physics() == w.physics()
    assert dataclasses.replace(w, goodput="ttft<=2s", file="/elsewhere").departures() == ()
