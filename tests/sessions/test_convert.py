"""Traces of other tools as sessions, with hand-made examples of their formats."""

import json

import pytest

from glm5bench.errors import SettingsError
from glm5bench.sessions.convert import mooncake, weka


def row(t, ids, *, took=1.0, out=5, **changes):
    return {"t": t, "type": "n", "model": "m", "in": 64 * len(ids), "out": out, "hash_ids": ids, "api_time": took, **changes}


def trace(*requests, **changes):
    return {"id": "t", "models": ["m"], "block_size": 64, "hash_id_scope": "local", "requests": list(requests), **changes}


def told(tmp_path, *records, name="t.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return [str(path)]


def test_a_weka_trace_keeps_pauses_prompts_and_the_waits_for_sub_agents(tmp_path):
    agent = {"t": 2.0, "type": "subagent", "agent_id": "x", "duration_ms": 4000, "requests": [row(2.0, [50, 51]), row(4.0, [50, 51, 52])]}
    late = {"t": 2.5, "type": "subagent", "agent_id": "y", "duration_ms": 9000, "requests": [row(2.5, [60], took=8.0)]}
    done = weka(told(tmp_path, trace(row(0.0, [1, 2]), agent, late, row(6.0, [1, 2, 3]), row(8.0, [1, 2, 3, 4], out=0))))
    (one,) = done.sessions.sessions
    main = [c for c in one.calls if c.thread == 0]
    _, second, third = main

    assert [c.runs for c in main] == [((0, 2),), ((0, 2), (6, 1)), ((0, 2), (6, 2))]  # ids by first sight, prompts grow
    assert [one.calls[i].thread for i in second.after] == [0, 1]  # the background agent is still running
    assert second.delay_s == pytest.approx(1.0)  # from the end of the sub-agent at 5 s
    assert third.delay_s == pytest.approx(1.0)
    assert [c.delay_s for c in one.calls if c.thread == 1] == pytest.approx([1.0, 1.0])
    assert third.output_tokens == 1
    assert any("no output token was recorded: 1 request" in line for line in done.said)


def test_a_request_that_overlaps_the_one_before_it_is_sent_without_a_pause_and_that_is_said(tmp_path):
    done = weka(told(tmp_path, trace(row(0.0, [1], took=5.0), row(2.0, [1, 2]))))

    assert done.sessions.sessions[0].calls[1].delay_s == 0
    assert any("sent before the request before had ended: 1 request;" in line for line in done.said)


@pytest.mark.parametrize(
    "wrong",
    [
        {"requests": []},
        {"requests": [{"t": 1}]},
        {"block_size": None},
        {"block_size": 0},
        {"requests": 3},
        {"requests": [row(0.0, [1, 2], **{"in": 0})]},
        {"requests": [row(0.0, [1, 2], **{"in": float("inf")})]},
    ],
)
def test_what_is_no_weka_trace_is_refused_with_its_place(tmp_path, wrong):
    with pytest.raises(SettingsError, match="not a Weka trace"):
        weka(told(tmp_path, trace(row(0.0, [1])), {**trace(row(0.0, [1])), **wrong}))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"id": "a", "id": "b", "block_size": 64, "requests": []}'], ids=["deep", "twice"])
def test_json_that_no_parser_reads_alike_is_refused(tmp_path, text):
    (tmp_path / "t.json").write_text(text)

    with pytest.raises(SettingsError, match=r"nested too deeply|appears twice"):
        weka([str(tmp_path / "t.json")])


def test_prompts_that_are_longer_than_their_blocks_are_counted(tmp_path):
    done = weka(told(tmp_path, trace(row(0.0, [1]), row(2.0, [1], **{"in": 640}))))
    first, second = done.sessions.sessions[0].calls

    assert (first.tail_tokens, second.tail_tokens) == (0, 576)
    assert "prompts with fewer blocks than they are long: 1 request; no cache can have the rest" in done.said


ROWS = [
    {"session_id": "a", "timestamp": 0, "input_length": 1100, "output_length": 100, "hash_ids": [9, 8, 7]},
    {"session_id": "a", "timestamp": 5000, "input_length": 1700, "output_length": 50, "hash_ids": [9, 8, 6, 5]},
]


def test_mooncake_sessions_are_whole_or_incremental_as_asked(tmp_path):
    paths = told(tmp_path, *ROWS)
    whole = mooncake(paths, is_incremental=False, answered_in_s=2.0).sessions.sessions[0]
    parts = mooncake(paths, is_incremental=True, answered_in_s=None).sessions.sessions[0]

    assert [(c.runs, c.tail_tokens) for c in whole.calls] == [(((0, 2),), 76), (((0, 3),), 164)]
    assert whole.calls[1].delay_s == pytest.approx(3.0)  # from request to request, less the answer
    assert parts.prompt_tokens(parts.calls[1]) == 1100 + 100 + 1700
    assert parts.calls[1].delay_s == pytest.approx(5.0)


def test_a_line_that_is_no_request_is_refused_with_its_number(tmp_path):
    with pytest.raises(SettingsError, match=r"t\.jsonl:2"):
        mooncake(
            told(tmp_path, ROWS[0], {"session_id": "a", "input_length": -1, "output_length": 2}), is_incremental=False, answered_in_s=None
        )
