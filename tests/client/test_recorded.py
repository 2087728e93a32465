"""Recorded workloads: read completely, or refused with the position of the error."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm5bench.client.endpoint import Endpoint
from glm5bench.client.protocol import Patience, Protocol
from glm5bench.client.recorded import Exchanged, Traced, conversations, trace
from glm5bench.errors import ClientError, FileError, SettingsError
from glm5bench.settings import overrides
from glm5bench.values.point import Point


def talk(*said, roles=("human", "gpt")):
    return {"conversations": [{"from": roles[i % 2], "value": text} for i, text in enumerate(said)]}


def request(ms, n_in=10, n_out=5, **more):
    return {"timestamp": ms, "input_length": n_in, "output_length": n_out, **more}


@pytest.fixture
def lines(tmp_path):
    def write(*records):
        text = "".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in records)
        (tmp_path / "recorded.jsonl").write_text(text, encoding="utf-8")
        return str(tmp_path / "recorded.jsonl")

    return write


def refused(read, path):
    with pytest.raises(SettingsError) as error:
        read(path)
    assert error.value.where == path
    return error.value.message


def test_conversations_are_read_from_lines_and_from_one_list(lines):
    records = [talk("hello", "hi there, you"), talk("ä?", "ö")]
    expected = [[Exchanged("hello", "hi there, you", 3)], [Exchanged("ä?", "ö", 1)]]  # 13 characters, and 1

    assert conversations(lines(*records)) == expected
    assert conversations(lines(records[0], "", records[1])) == expected
    assert conversations(lines(json.dumps(records, indent=1))) == expected


@pytest.mark.parametrize("roles", [("human", "gpt"), ("user", "assistant"), ("Human", "GPT"), ("user", "chatgpt"), ("human", "bard")])
def test_whoever_asks_and_answers_by_another_name_is_known(lines, roles):
    assert conversations(lines(talk("q", "a", roles=roles))) == [[Exchanged("q", "a", 1)]]


def test_what_stands_before_the_first_question_is_passed_over(lines):
    system, greeting = {"from": "system", "value": "be brief"}, {"from": "gpt", "value": "hello"}

    for before in ([system], [greeting], [system, greeting]):
        assert conversations(lines({"conversations": [*before, *talk("q", "a")["conversations"]]})) == [[Exchanged("q", "a", 1)]]


def test_an_answer_to_nobodys_question_is_no_turn(lines):
    said = [*talk("q", "a")["conversations"], *talk("tool", "b", roles=("function", "gpt"))["conversations"]]

    assert conversations(lines({"conversations": said}), turns=2) == [[Exchanged("q", "a", 1)]]


def test_a_conversation_without_question_and_answer_is_left_out(lines):
    none = [talk("q"), talk("q", " "), talk("q", None), talk(), talk("q", "a", roles=("gpt", "human"))]

    assert conversations(lines(*none, talk("q", "a"))) == [[Exchanged("q", "a", 1)]]


def test_as_many_turns_are_read_as_were_asked_for(lines):
    path = lines(talk("q1", "a1", "q2", "a2", "q3"))

    assert [len(conversations(path, turns=n)[0]) for n in (1, 2, 3)] == [1, 2, 2]
    assert conversations(path, turns=2)[0][1] == Exchanged("q2", "a2", 1)


def test_an_answer_has_a_token_for_four_characters_and_never_none(lines):
    assert [t.output_tokens for t in conversations(lines(talk("q", "one two.", "q", "a")), 2)[0]] == [2, 1]


def test_what_follows_a_turn_without_an_answer_is_no_conversation(lines):
    assert [t.asked for t in conversations(lines(talk("q1", "a1", "q2", "", "q3", "a3")), 3)[0]] == ["q1"]


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ("{oops", "line 2 is not valid JSON: Expecting property name"),
        ({"messages": []}, "line 2 is not a conversation in ShareGPT's format: 'conversations' is missing."),
        ({"conversations": [{"from": "human"}]}, "line 2 is not a conversation in ShareGPT's format: 'value' is missing."),
        ({"conversations": None}, "line 2 is not a conversation in ShareGPT's format: 'NoneType' object is not iterable."),
        ("7", "line 2 is not a conversation in ShareGPT's format: 'int' object is not subscriptable."),
    ],
)
def test_a_line_that_is_no_conversation_is_refused_with_its_number(lines, record, why):
    assert why in refused(conversations, lines(talk("q", "a"), record))


def test_a_record_of_a_list_is_refused_with_its_number(lines):
    assert "record 2 is not a conversation" in refused(conversations, lines(json.dumps([talk("q", "a"), {}])))


@pytest.mark.parametrize(
    ("read", "why"), [(conversations, "contains no conversation with a question and an answer"), (trace, "contains no request")]
)
@pytest.mark.parametrize("content", ["", "\n\n", "[]"])
def test_a_file_without_a_record_is_refused(lines, read, why, content):
    assert why in refused(read, lines(content))


@pytest.mark.parametrize("read", [conversations, trace])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, read):
    (tmp_path / "latin").write_bytes(b"\xff\xfe")

    assert "cannot be read" in refused(read, str(tmp_path / "latin"))
    assert "cannot be read" in refused(read, str(tmp_path / "none"))
    assert "cannot be read" in refused(read, str(tmp_path))


def test_a_trace_is_read_in_the_order_of_its_times_from_its_first_request_on(lines):
    path = lines(request(7000, 600, 5, hash_ids=[1, 2]), request(3000, 20, 6), request(3500.0, 30, 7, hash_ids=[]))

    assert trace(path) == [Traced(0.0, 20, 6), Traced(0.5, 30, 7), Traced(4.0, 600, 5, (1, 2))]


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"timestamp": 0, "input_length": 1}, "line 2 is not a request of a trace: 'output_length' is missing."),
        (request("soon"), "line 2 is not a request of a trace: could not convert string to float"),
        (request(-1), "line 2 is not a request of a trace: timestamp -1, lengths 10 and 5."),
        (request(0, n_in=0), "line 2 is not a request of a trace: timestamp 0, lengths 0 and 5."),
        (request(0, n_out=0), "line 2 is not a request of a trace: timestamp 0, lengths 10 and 0."),
        (request(0, hash_ids=[-3]), "line 2 is not a request of a trace: timestamp 0, lengths 10 and 5."),
        (request(0, hash_ids=7), "line 2 is not a request of a trace: 'int' object is not iterable."),
        (request(float("nan")), "line 2 is not a request of a trace: timestamp nan"),
        (request(float("inf")), "line 2 is not a request of a trace: timestamp inf"),
        (request(0, n_in=float("inf")), "line 2 is not a request of a trace: cannot convert float infinity to integer."),
        ("[1", "line 2 is not valid JSON"),
    ],
)
def test_a_line_that_is_no_request_of_a_trace_is_refused_with_its_number(lines, record, why):
    assert why in refused(trace, lines(request(0), record))


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(1, 10**5), st.integers(1, 10**4)), min_size=1, max_size=20))
def test_no_request_of_a_trace_is_lost_and_the_pace_is_kept(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "t.jsonl"
    path.write_text("\n".join(json.dumps(request(*row)) for row in rows))
    read, first = trace(str(path)), min(ms for ms, _, _ in rows)

    assert sorted((r.prompt_tokens, r.output_tokens) for r in read) == sorted((i, o) for _, i, o in rows)
    assert [r.due_s for r in read] == pytest.approx(sorted((ms - first) / 1e3 for ms, _, _ in rows))


def composed(path, *more):
    return overrides.compose("workload.content=conversations", f"workload.file={path}", *more).workload


def test_the_hash_of_the_file_is_put_into_the_workload_and_with_it_into_the_key(lines, monkeypatch):
    path = lines(talk("q", "a"))
    monkeypatch.chdir(path.rpartition("/")[0])
    w = composed("recorded.jsonl")

    assert w.file == path
    assert w.file_sha256 == w.physics()["file_sha256"] == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert composed(path, f"workload.file_sha256={w.file_sha256}") == w


def test_a_file_that_is_missing_or_another_than_was_meant_is_refused(lines, tmp_path):
    with pytest.raises(SettingsError, match="cannot be read: No such file") as missing:
        composed(tmp_path / "none")
    with pytest.raises(SettingsError, match="is not the one whose hash") as another:
        composed(lines(talk("q", "a")), f"workload.file_sha256={'0' * 64}")

    assert missing.value.where == str(tmp_path / "none")
    assert another.value.where == str(tmp_path / "recorded.jsonl")


def test_a_file_that_was_changed_or_taken_away_after_planning_is_refused_on_the_node(lines, tmp_path):
    w = composed(lines(talk("q", "a")))
    node = Protocol(Endpoint("http://127.0.0.1:9", ""), "glm", w, Point("k", "a", 2, 0, 0, 2), Patience(1.0), lambda done, of: None)
    lines(talk("q", "another"))

    with pytest.raises(FileError, match="not the one that the plan used") as refused:
        node.encode()
    assert (refused.value.path, refused.value.next_step) == (w.file, "plan again")
    (tmp_path / "recorded.jsonl").unlink()
    with pytest.raises(ClientError, match="cannot be read here"):
        node.encode()
