"""The file of agent sessions: what is read, and what is refused with its line."""

import json

import pytest

from glm5bench.errors import FileError, SettingsError
from glm5bench.sessions.file import Call, Session, Sessions, joined, read_sessions, runs_of, written
from glm5bench.sessions.generate import Statistics, generated
from glm5bench.sessions.ideal import Ideal, facts, ideal_share
from glm5bench.sessions.shipped import located


def request(number=0, **changes):
    return {"id": number, "thread": 0, "after": [], "delay_s": 0.0, "blocks": [[0, 2]], "tail_tokens": 3, "output_tokens": 5, **changes}


def session(*requests, **changes):
    return {"session": "a", "block_tokens": 64, "requests": list(requests or [request()]), **changes}


def read(tmp_path, *records):
    path = tmp_path / "s.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return read_sessions(str(path))


def test_a_file_becomes_sessions_with_positions_instead_of_ids(tmp_path):
    found = read(tmp_path, {"shared_blocks": 2}, session(request(7), request(3, after=[7], delay_s=1.5, blocks=[[0, 2], [2, 4], [9, 1]])))
    (one,) = found.sessions
    second = one.calls[1]

    assert found.shared_blocks == 2
    assert (second.after, second.delay_s, second.runs) == ((0,), 1.5, ((0, 6), (9, 1)))
    assert one.prompt_tokens(second) == 7 * 64 + 3
    assert found.longest_tokens == 7 * 64 + 3 + 5


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([session(), session()], "line 2: session 'a' appears twice"),
        ([session(request(after=[1]))], "`after` names 1, which is not an earlier request"),
        ([session(request(0, after=[1]), request(1, after=[0]))], "`after` names 1"),  # a cycle
        ([session(request(), request())], "its id appears twice"),
        ([session(request(delay_s=-1))], "`delay_s` must be a number of seconds, not -1"),
        ([session(request(delay_s=True))], "`delay_s` must be"),
        ([session(request(delay_s=10**400))], "`delay_s` must be a number of seconds, not 1000"),
        ([json.dumps(session()).replace('"thread": 0', '"id": 5')], "`id` appears twice in an object"),
        ([{"shared_blocks": 2_000_000_000}, session()], "`shared_blocks` is 2,000,000,000, but the highest block id is 1"),
        ([{"shared_blocks": 2**22}, session(request(blocks=[[2**22, 1]]))], "the shared blocks have 268,435,456 tokens"),
        ([session(*(request(i, blocks=[[i * 2**17, 2**17]]) for i in range(9)))], "its blocks have 75,497,472 tokens, more than"),
        ([session(request(output_tokens=0))], "`output_tokens` must be a whole number of at least 1, not 0"),
        ([session(request(blocks=[], tail_tokens=0))], "its prompt is empty"),
        ([session(request(blocks=[[0, 0]]))], "a count below 1"),
        ([session(request(blocks=[[0, 2_000_000_000]]))], "its prompt has 16,777,216 tokens or more"),
        ([session(request(blocks=[0, 1]))], "must be a list of [first id, count]"),
        ([session(request(hash_ids=[1]))], "`hash_ids` is unknown here"),
        ([session(block_tokens=0)], "`block_tokens` must be"),
        ([session(requests=[])], "`requests` must be a list that is not empty"),
        ([{"shared_blocks": 1}, session(), session(session="b", block_tokens=32)], "shared blocks have one length"),
        (["{"], "line 1 is not valid JSON"),
        ([[]], "line 1: a session must be a JSON object"),
        ([], "contains no session"),
        (
            ['{"session": "a", "block_tokens": 64, "requests": [{"id": 0, "delay_s": NaN, "blocks": [[0, 1]], "output_tokens": 1}]}'],
            "delay_s",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path, records, said):
    with pytest.raises(SettingsError) as error:
        read(tmp_path, *records)

    assert said in str(error.value)
    assert str(tmp_path / "s.jsonl") in str(error.value)


def test_what_is_written_is_read_again(tmp_path):
    made = generated(Statistics(sessions=5, requests=6, subagent_share=0.5, seed=3))
    written(made, tmp_path / "g.jsonl")

    assert facts(read_sessions(str(tmp_path / "g.jsonl"))) == pytest.approx(facts(made), abs=1e-6)
    with pytest.raises(FileError, match="exists already"):
        written(made, tmp_path / "g.jsonl")


def test_generated_sessions_have_the_means_and_are_the_same_for_the_same_seed():
    asked = Statistics(sessions=200, requests=20, output_tokens=300, delay_s=2.0, subagent_share=0.1, seed=1)
    made = generated(asked)
    calls = [call for s in made.sessions for call in s.calls]
    first = [len([c for c in s.calls if c.thread == 0]) for s in made.sessions]

    assert made == generated(asked)
    assert sum(first) / len(first) == pytest.approx(20, rel=0.15)
    assert sum(c.output_tokens for c in calls) / len(calls) == pytest.approx(300, rel=0.1)
    assert {c.thread > 0 for c in calls} == {True, False}
    assert any(len(c.after) == 2 for c in calls)  # waits for a sub-agent


def test_runs_are_joined():
    assert joined([(0, 2), (2, 3), (7, 1)]) == ((0, 5), (7, 1))
    assert runs_of([4, 5, 6, 2]) == ((4, 3), (2, 1))


def test_the_infinite_cache_has_what_earlier_prompts_of_the_play_began_with():
    def call(i, *runs, tail=0):
        return Call(i, 0, (), 0.0, runs, tail, 1)

    one = Session("a", 10, (call(0, (0, 3), tail=5), call(1, (0, 5)), call(2, (0, 2), (8, 1)), call(3, (0, 5))))
    cache = Ideal(Sessions((one,), shared_blocks=1))
    first = [cache.cached_tokens(0, one, c) for c in one.calls]
    other = [cache.cached_tokens(1, one, c) for c in one.calls]

    assert first == [0, 30, 20, 49]  # the last token is always computed
    assert other == [10, 30, 20, 49]  # another play finds the shared block only
    assert ideal_share(Sessions((one,))) == pytest.approx((30 + 20 + 49) / (35 + 50 + 30 + 50))


def test_the_shipped_file_is_valid_and_others_are_refused_by_name():
    assert facts(read_sessions(located("shipped:coding")))["ideal_hit_share"] > 0.9
    with pytest.raises(SettingsError, match="shipped:coding"):
        located("shipped:other")
