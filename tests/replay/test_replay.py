"""The replay of agent sessions against a server that answers at once and records what it got: order, pauses, contents, columns."""

import asyncio
import json
import time
from collections import defaultdict

import numpy as np
import pytest
from loopback import Loopback

from glm5bench.analysis.metrics import figures
from glm5bench.analysis.validity import Circumstances, verdict
from glm5bench.client.endpoint import Endpoint
from glm5bench.client.protocol import Patience
from glm5bench.errors import ClientError
from glm5bench.replay.bodies import Bodies
from glm5bench.replay.protocol import SessionsProtocol
from glm5bench.sessions.file import Call, Session, Sessions, written
from glm5bench.sessions.generate import Statistics, generated
from glm5bench.values.point import Point
from glm5bench.values.workload import Workload

CALM = Circumstances(1, None, None, None, None, None, None, engine_version=None, has_no_container=False)
TREE = Sessions(
    (
        Session(
            "a",
            16,
            (
                Call(0, 0, (), 0.0, ((0, 4),), 3, 4),
                Call(1, 1, (0,), 0.05, ((0, 2), (9, 2)), 1, 4),  # two children of the first request, in flight together
                Call(2, 2, (0,), 0.05, ((0, 3),), 2, 4),
                Call(3, 0, (0, 1, 2), 0.05, ((0, 6),), 1, 4),  # waits for both
            ),
        ),
    ),
)


class Answering(Loopback):
    """Answers each request after `takes_s` with the asked number of tokens, and records it."""

    def __init__(self, takes_s=0.05, *, usage=None, refuses=(), places=None):
        self.takes_s, self.usage, self.refuses, self.places = takes_s, usage, refuses, places
        self.got, self.flying, self.most = [], 0, 0

    async def answer(self, path, body):
        if path != "/v1/completions":
            yield b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
            return
        self.flying += 1
        self.most = max(self.most, self.flying)
        begin = time.monotonic()
        await asyncio.sleep(self.takes_s)
        if len(self.got) in self.refuses:
            text, kind = b'{"error": "no"}', "503 No"
        else:
            text, kind = self.stream(body), "200 OK"
        self.flying -= 1
        self.got.append((begin, time.monotonic(), body["prompt"], body["max_tokens"]))
        yield f"HTTP/1.1 {kind}\r\ncontent-length: {len(text)}\r\n\r\n".encode() + text

    def stream(self, body):
        n = body["max_tokens"]
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": n, **(self.usage(body["prompt"]) if self.usage else {})}
        events = [{"choices": [{"text": "a", "finish_reason": None}]} for _ in range(n - 1)]
        events += [
            {"choices": [{"text": "a", "finish_reason": "length"}]},
            {"choices": [], "usage": usage, "sglext": self.places(body["prompt"]) if self.places else {}},
        ]
        return b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in events) + b"data: [DONE]\n\n"


def replayed(tmp_path, sessions, server, *, concurrency=1, duration_s=0.6, attempt=1, seed=0, reports=True, **changes):
    """The result of a point, and what the server got in its window."""
    path = tmp_path / "s.jsonl"
    path.unlink(missing_ok=True)
    written(sessions, path)
    told = {"entry": (0.0, 0.0), "warmups_per_concurrency": 0, **changes}
    workload = Workload("s", 1, 1, 1.0, "completions", 10, None, content="sessions", file=str(path), duration_s=duration_s, **told)
    point = Point("k" * 20, "arm", concurrency, 0, seed, concurrency)
    with server:
        client = SessionsProtocol(
            Endpoint(server.url, ""), "m", workload, point, Patience(10), lambda done, of: None,
            vocabulary=5000, attempt=attempt, reports_cached=reports,
        )  # fmt: skip
        if client.has_warmups:
            client.warm_up()
            server.warm, server.got = server.got, []
        return client.measure(), server.got


def test_a_request_waits_for_all_that_it_names_and_children_are_in_flight_together(tmp_path):
    server = Answering(takes_s=0.1)
    done, got = replayed(tmp_path, TREE, server, duration_s=0.4)
    plays = done.requests.plays
    begin, end = ([round(t, 3) for t in times] for times in zip(*[(b, e) for b, e, *_ in got], strict=True))

    assert server.most == 2
    assert sorted(plays.request[:3].tolist()) == [0, 1, 2]
    assert plays.request.tolist()[3] == 3
    assert begin[3] >= max(end[1], end[2]) + 0.05 - 0.002  # the pause is from the last end, however long the answers took
    assert begin[1] >= end[0] + 0.05 - 0.002
    assert (plays.sent_ns >= plays.due_ns).all()
    assert (plays.due_ns - plays.ready_ns == np.where(plays.request == 0, 0, 50_000_000)).all()
    assert done.requests.is_whole.all()


def test_the_window_ends_the_load_and_what_is_in_flight_is_finished(tmp_path):
    done, got = replayed(tmp_path, TREE, Answering(takes_s=0.2), duration_s=0.1)

    assert len(got) == 1
    assert done.ended_by is None
    assert done.requests.is_whole.all()


def test_a_session_in_a_pause_is_live_so_no_other_begins(tmp_path):
    slow = Sessions((Session("a", 16, (Call(0, 0, (), 0.0, ((0, 2),), 0, 2), Call(1, 0, (0,), 900.0, ((0, 3),), 0, 2))),))
    done, _ = replayed(tmp_path, slow, Answering(takes_s=0.0), duration_s=0.3)

    assert done.requests.plays.request.tolist() == [0]


def test_as_many_sessions_are_live_as_asked_and_each_is_played_once_before_any_again(tmp_path):
    many = generated(Statistics(sessions=6, requests=3, first_tokens=100, new_tokens=50, output_tokens=3, delay_s=0.0, shared_tokens=0))
    done, _ = replayed(tmp_path, many, Answering(takes_s=0.02), concurrency=3, duration_s=1.0)
    plays = done.requests.plays
    of_play = dict(zip(plays.play.tolist(), plays.session.tolist(), strict=True))
    spans = [(plays.ready_ns[own].min(), done.requests.end_ns[own].max()) for own in (plays.play == p for p in of_play)]
    live = [sum(begin <= t <= end for begin, end in spans) for t in np.linspace(0.1e9, 0.9e9, 200)]

    assert [of_play[p] for p in sorted(of_play)][:6] == list(dict.fromkeys(of_play[p] for p in sorted(of_play)))[:6]
    assert max(live) <= 3
    assert np.median(live) == 3


def prompts_of(sessions, tmp_path, **changes):
    _, got = replayed(tmp_path, sessions, Answering(takes_s=0.0), duration_s=0.4, **changes)
    return [prompt for *_, prompt, _ in got]


def common(one, other):
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def test_prompts_share_what_the_file_says_within_a_play_and_nothing_but_shared_blocks_with_others(tmp_path):
    shared = Sessions((Session("a", 16, (Call(0, 0, (), 0.0, ((0, 5),), 3, 2), Call(1, 0, (0,), 0.0, ((0, 7),), 0, 2))),), shared_blocks=2)
    first, second, *others = prompts_of(shared, tmp_path)

    assert [len(first), len(second)] == [5 * 16 + 3, 7 * 16]
    assert common(first, second) in (80, 81)  # all blocks of the first prompt; by chance a token of its tail
    assert len(others) > 2
    assert {min(common(p, q), 33) for p in (first, second) for q in others} <= {32, 33}
    for again in (prompts_of(shared, tmp_path, attempt=2), prompts_of(shared, tmp_path, concurrency=2)):
        assert common(first, again[0]) < 32  # another attempt or point has other tokens from the first one on
    assert prompts_of(shared, tmp_path)[0] == first  # the same point has the same


def test_every_user_enters_within_the_asked_range_after_its_warm_up(tmp_path):
    chain = Session("a", 16, tuple(Call(i, 0, (i - 1,) if i else (), 0.0, ((0, 2 + i),), 0, 2) for i in range(20)))
    server = Answering(takes_s=0.01)
    done, _ = replayed(tmp_path, Sessions((chain,)), server, concurrency=4, duration_s=0.3, entry=(0.25, 0.75), warmups_per_concurrency=3)
    plays, n = done.requests.plays, len(done.requests.error)
    entries = {p: plays.request[:n][plays.play[:n] == p].min() for p in range(4)}

    assert all(5 <= entry <= 15 for entry in entries.values())
    assert len(server.warm) == 12
    assert {tokens for *_, tokens in server.warm} == {1}
    assert plays.phase.tolist() == [1] * n + [0] * 12
    assert (plays.sent_ns[n:] < 0).all()
    for p, entry in entries.items():
        assert plays.request[n:][plays.play[n:] == p].tolist() == [entry - 3, entry - 2, entry - 1]
        first = plays.ideal_tokens[:n][(plays.play[:n] == p) & (plays.request[:n] == entry)]
        assert first.tolist() == [(2 + entry - 1) * 16]  # the warm-up has its prefix


def test_the_load_is_the_same_for_the_same_seed(tmp_path):
    made = generated(Statistics(sessions=4, requests=4, first_tokens=100, new_tokens=50, output_tokens=3, delay_s=0.0))
    of = [replayed(tmp_path, made, Answering(takes_s=0.0), concurrency=2, seed=seed, duration_s=0.3) for seed in (0, 0, 1)]
    same, again, other = ({tuple(p) for *_, p, _ in got} for _, got in of)

    assert len(same & again) >= min(len(same), len(again)) - 4  # the last ones depend on when the window ended
    assert not same & other


@pytest.mark.parametrize(
    ("reports", "usage", "expected"),
    [
        (True, lambda prompt: {"prompt_tokens_details": {"cached_tokens": 16}}, 16),
        (True, lambda prompt: {"prompt_tokens_details": None}, 0),  # engines leave out a count of zero
        (True, lambda prompt: {}, 0),
        (False, lambda prompt: {}, -1),
        (False, lambda prompt: {"prompt_tokens_details": None}, -1),
    ],
)
def test_unknown_cached_tokens_are_not_zero(tmp_path, reports, usage, expected):
    done, _ = replayed(tmp_path, TREE, Answering(takes_s=0.0, usage=usage), reports=reports)

    assert set(done.requests.plays.cached_tokens.tolist()) == {expected}


def test_a_failed_request_ends_its_play_and_the_user_goes_on(tmp_path):
    done, _ = replayed(tmp_path, TREE, Answering(takes_s=0.0, refuses=[1]), duration_s=0.8)
    plays, failed = done.requests.plays, ~done.requests.is_whole

    assert failed.sum() == 1
    assert 3 not in plays.request[plays.play == 0]
    assert (plays.play > 0).any()


def test_a_server_that_refuses_everything_ends_the_run(tmp_path):
    """Each failure begins another play, so that the window would fill with refused requests, as fast as the server can refuse."""
    done, got = replayed(tmp_path, TREE, Answering(takes_s=0.0, refuses=range(10**6)), concurrency=2, duration_s=60.0)

    assert "answered none of 20 requests in a row (last: HTTP 503)" in str(done.ended_by)
    assert len(got) < 30


def test_after_a_failure_nobody_waits_for_the_requests_that_were_not_sent(tmp_path):
    calls = (Call(0, 0, (), 0.0, ((0, 2),), 0, 2), Call(1, 1, (0,), 0.0, ((0, 3),), 0, 2), Call(2, 2, (0,), 3000.0, ((0, 3),), 0, 2))
    done, _ = replayed(tmp_path, Sessions((Session("a", 16, calls),)), Answering(takes_s=0.0, refuses=[1]), duration_s=0.5)

    assert (done.requests.plays.play > 0).any()


def test_a_window_without_a_request_is_an_error_that_names_the_settings(tmp_path):
    calls = (Call(0, 0, (), 0.0, ((0, 2),), 0, 2), Call(1, 0, (0,), 3000.0, ((0, 3),), 0, 2))
    late = Sessions((Session("a", 16, calls),))

    with pytest.raises(ClientError, match="No request was due") as raised:
        replayed(tmp_path, late, Answering(takes_s=0.0), duration_s=0.2, entry=(0.9, 0.9))
    assert "workload.duration_s" in raised.value.next_step


def test_an_answer_without_cached_tokens_has_none_in_any_place(tmp_path):
    def places(prompt):
        return {"cached_tokens_details": {"device": 40, "host": 0}} if len(prompt) > 70 else {}

    def usage(prompt):
        return {"prompt_tokens_details": {"cached_tokens": 40}} if len(prompt) > 70 else {}

    done, _ = replayed(tmp_path, TREE, Answering(takes_s=0.0, usage=usage, places=places))
    plays = done.requests.plays

    assert set(plays.cached_tokens.tolist()) == {0, 40}
    assert plays.device_tokens.tolist() == plays.cached_tokens.tolist()


def test_refused_requests_are_not_in_the_ideal_cache(tmp_path):
    one = Sessions((Session("a", 16, (Call(0, 0, (), 0.0, ((0, 4),), 3, 4),)),), shared_blocks=4)
    done, _ = replayed(tmp_path, one, Answering(takes_s=0.02, refuses=[0]), duration_s=0.2)
    ideal = done.requests.plays.ideal_tokens.tolist()

    assert ideal[:3] == [-1, 0, 64]


@pytest.mark.parametrize("n_made", [0, 3])
def test_a_body_that_cannot_be_made_ends_the_run(tmp_path, monkeypatch, n_made):
    made, blocks = [], Bodies._blocks

    def failing(self, play, session, call):
        made.append(play)
        if len(made) > n_made:
            raise MemoryError("no memory for a body")
        return blocks(self, play, session, call)

    monkeypatch.setattr(Bodies, "_blocks", failing)
    with pytest.raises(MemoryError):
        replayed(tmp_path, TREE, Answering(takes_s=0.0), duration_s=5.0, concurrency=2)


def test_a_connection_that_the_server_has_closed_in_a_pause_is_opened_again(tmp_path):
    class Closing(Answering):
        async def answer(self, path, body):
            async for piece in super().answer(path, body):
                yield piece.replace(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nconnection: close\r\n", 1)

    done, _ = replayed(tmp_path, TREE, Closing(takes_s=0.0), duration_s=0.8)

    assert len(done.requests.plays.play) > 4
    assert done.requests.is_whole.all()


def test_an_answer_that_is_shorter_than_asked_is_not_silent(tmp_path):
    class Short(Answering):
        def stream(self, body):
            return super().stream({**body, "max_tokens": body["max_tokens"] - 1})

    done, _ = replayed(tmp_path, TREE, Short(takes_s=0.0), duration_s=0.5)

    assert all("cut" in error for error in done.requests.error)
    assert verdict(done.requests, figures(done.requests), CALM).validity == "invalid"


def test_pauses_are_shortened_to_the_cap(tmp_path):
    slow = Sessions((Session("a", 16, (Call(0, 0, (), 0.0, ((0, 2),), 0, 2), Call(1, 0, (0,), 900.0, ((0, 3),), 0, 2))),))
    done, _ = replayed(tmp_path, slow, Answering(takes_s=0.0), duration_s=0.5, idle_cap_s=0.1)
    pauses = defaultdict(set)
    for request, pause in zip(done.requests.plays.request, done.requests.plays.due_ns - done.requests.plays.ready_ns, strict=True):
        pauses[int(request)].add(int(pause))

    assert pauses == {0: {0}, 1: {100_000_000}}
