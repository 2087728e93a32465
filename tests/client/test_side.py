"""Requests outside the load: limited in bytes, nesting and total time, and the information that they return about a server."""

import json

import httpx
import pytest
from provoked import MODELS, Behaviour, Provoked, measured_at, provoked
from scripted import End, Scripted, chunk, head, nowhere, sized

from glm5bench.client.endpoint import Endpoint
from glm5bench.client.vocabulary import SAFE, vocabulary
from glm5bench.client.workload import FIRST_ID, LAST_ID, ids
from glm5bench.errors import ServerError
from glm5bench.node.standalone import answering


def said(*steps, **how):
    """The answer to a GET of a server that plays these steps."""
    with Scripted(lambda request: list(steps)) as server:
        return Endpoint(server.url, "").ask("GET", "/x", **how)


def test_an_answer_comes_with_its_status_and_its_body():
    answer = said(sized(b'{"a": [1]}', status="418 Teapot"))

    assert (answer.status, answer.json(), answer.text) == (418, {"a": [1]}, '{"a": [1]}')


def test_an_answer_that_drips_ends_with_its_time():
    drips = [head("transfer-encoding: chunked"), *[step for _ in range(40) for step in (chunk(b" "), 0.05)]]

    with pytest.raises(httpx.ReadTimeout, match=r"hang: no whole answer to GET /x within 0\.3 s"):
        said(*drips, within_s=0.3)


def test_an_answer_that_is_larger_than_a_side_answer_may_be_is_an_error():
    with pytest.raises(httpx.RemoteProtocolError, match="too large: the answer has more than 8,388,608 bytes"):
        said(sized(b"a" * 2**23))
    assert len(said(sized(b"a" * 2**20)).body) == 2**20


@pytest.mark.parametrize("depth", [65, 900, 100_000])
def test_json_that_is_nested_too_deeply_is_none(depth):
    nested = said(sized(b"[" * depth + b"]" * depth))

    with pytest.raises(ValueError, match=r"nested more than 64|not JSON"):
        nested.json()


def test_json_as_deep_as_a_servers_information_is_read():
    assert said(sized(b"[" * 64 + b"]" * 64)).json()


def test_a_connection_that_the_server_closed_meanwhile_is_opened_again():
    with Scripted(lambda request: [sized(b"%d" % request.number), End.CLOSE]) as server, Endpoint(server.url, "k").asking() as side:
        assert [side.ask("GET", "/x").text for _ in range(3)] == ["0", "1", "2"]
        assert {r.headers["authorization"] for r in server.requests} == {"Bearer k"}


def test_a_request_on_a_connection_that_the_server_is_closing_is_sent_once_more():
    def play(request):
        return [End.RESET] if request.number == 1 else [sized(b"%d" % request.number)]

    with Scripted(play) as server, Endpoint(server.url, "").asking() as side:
        assert [side.ask("GET", "/x").text for _ in range(2)] == ["0", "2"]


def test_a_head_that_is_larger_than_heads_may_be_is_an_error():
    with pytest.raises(httpx.RemoteProtocolError, match="too large: the head of the answer has more than 65,536 bytes"):
        said(b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: %s\r\n" % (i, b"a" * 100) for i in range(700)), 5.0, within_s=3)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (None, "Cannot reach the server: connection refused at 127.0.0.1:"),
        ("http://no.such.host.invalid:80", "Cannot reach the server: unknown host no.such.host.invalid"),
    ],
)
def test_a_server_that_cannot_be_reached_is_told_with_the_cause(url, words):
    with pytest.raises(ServerError) as raised:
        answering(url or nowhere(), "", "model")

    assert str(raised.value.message).startswith(words)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (sized(b"no", status="401 Unauthorized"), "answers HTTP 401"),
        (sized(b"<html>"), "cannot be read (it is not JSON"),
        (sized(b'{"data": []}'), "names none"),
        (b"SSH-2.0\r\n", "has no answer (protocol: "),
    ],
)
def test_a_server_that_names_no_model_says_why_and_may_be_given_one(models, words):
    with Scripted(lambda request: [], models=[models]) as server:
        with pytest.raises(ServerError) as raised:
            answering(server.url, "", None)
        assert words in raised.value.message
        assert answering(server.url, "", "m")[1] == "m"


def of(behaviour, **how):
    with Provoked(behaviour) as server:
        return vocabulary(Endpoint(server.url, ""), "m", how.pop("info", {}), **how)


def test_the_vocabulary_is_the_users_word_then_the_servers_then_the_largest_id_that_it_makes():
    tokenized = Behaviour(tokenized=json.dumps({"tokens": [5, 31999, 7], "count": 3}).encode())
    card = Behaviour(models=json.dumps({"data": [{"id": "m", "meta": {"n_vocab": 32000}}]}).encode())

    assert (of(tokenized, told=500, info={"vocab_size": 9}).n, of(tokenized, info={"vocab_size": 900}).n) == (500, 900)
    assert of(tokenized, info={"model_config": {"vocab_size": 151552}}).n == 151552
    assert (of(card).n, of(tokenized).n) == (32000, 32000)
    assert (of(Behaviour()).n, of(Behaviour()).source) == (SAFE, "unknown to the server: a bound that is safe for every model")


@pytest.mark.parametrize("tokenized", [b"{}", b"[]", b'{"tokens": "x"}', b'{"tokens": [true, -1, 3.5]}', b"no"])
def test_a_server_that_tokenizes_oddly_has_a_vocabulary_that_is_safe(tokenized):
    assert of(Behaviour(tokenized=tokenized)).n == SAFE


@pytest.mark.parametrize("n", [64, 256, 32000, 151552])
def test_no_id_outside_the_vocabulary_is_sent(n):
    with Provoked(Behaviour(step_s=0.0)) as server:
        m = measured_at(server.url, 2, vocabulary=n, prompts=4)
        sent = {i for request in server.sent for i in request["prompt"]}

    assert ids(n)[0] <= min(sent) <= max(sent) < min(n, LAST_ID)
    assert m.provenance["vocabulary"] == {"n": n, "source": "--vocabulary"}
    assert ids(LAST_ID)[0] == FIRST_ID


def test_a_server_of_which_nothing_is_known_is_sent_ids_that_every_model_has():
    with Provoked(Behaviour(step_s=0.0)) as server:
        measured_at(server.url, 2, vocabulary=None, prompts=4)

        assert max(i for request in server.sent for i in request["prompt"]) < SAFE


@pytest.mark.parametrize(
    ("owner", "version", "engine"),
    [
        ("vllm", b'{"version": "0.33.0"}', "vllm"),
        ("tensorrt_llm", b'{"version": "1.2"}', "unstated"),
        ("", b'{"version": "1"}', "unstated"),
    ],
)
def test_a_version_alone_names_no_engine(owner, version, engine):
    m = provoked(2, behaviour=Behaviour(step_s=0.0, version=version, models=MODELS.replace(b"test", owner.encode())), prompts=4)

    assert m.point["engine"] == engine
    assert (m.point["engine_version"] == "unstated") == (engine == "unstated")


def test_fields_that_a_server_rejects_are_left_out_and_stand_in_the_name_of_the_curve():
    with Provoked(Behaviour(step_s=0.0)) as server:
        m = measured_at(server.url, 2, prompts=10, omit=("ignore_eos", "continuous_usage_stats"))
        with_all = measured_at(server.url, 2, prompts=10)
        bare, full = server.sent[0], server.sent[-1]

    assert ("ignore_eos" in bare, bare["stream_options"]) == (False, {"include_usage": True})
    assert (full["ignore_eos"], full["stream_options"]["continuous_usage_stats"]) == (True, True)
    assert m.key != with_all.key
    assert m.point["variant"] == "load omit=ignore_eos,continuous_usage_stats"


def test_answers_that_end_early_flag_a_point_only_where_they_were_allowed_to():
    early = [b'data: {"choices": [{"text": "a", "finish_reason": "stop"}], "usage": {"prompt_tokens": 40, "completion_tokens": 1}}\n\n']
    stream = [head("transfer-encoding: chunked"), *map(chunk, [*early, b"data: [DONE]\n\n", b""])]
    with Scripted(lambda request: stream) as server:
        allowed, forbidden = (measured_at(server.url, 1, prompts=6, omit=omit) for omit in (("ignore_eos",), ()))

    assert allowed.verdict().codes[0] == "ended_early"
    assert forbidden.verdict().codes[0] == "short_outputs"


def test_prefix_cache_hits_are_noticed_by_the_servers_counters():
    told = {"n": 0}

    def page(hits):
        counts = (told["n"] * 100, told["n"] * 24, told["n"] * hits)
        lines = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:prefix_cache_hits_total")
        told["n"] += 1
        return "".join(f"{name} {count}\n" for name, count in zip(lines, counts, strict=True)).encode()

    answer = [b'data: {"choices": [{"text": "a", "finish_reason": "length"}], "usage": {"prompt_tokens": 40, "completion_tokens": 1}}\n\n']
    stream = [head("transfer-encoding: chunked"), *map(chunk, [*answer, b"data: [DONE]\n\n", b""])]

    def at(hits):
        told["n"] = 0
        with Scripted(lambda request: stream if request.path.endswith("completions") else [sized(page(hits))]) as server:
            return measured_at(server.url, 1, prompts=6, osl_tokens=1).verdict().codes

    assert "prefix_cache" in at(40)
    assert "prefix_cache" not in at(0)


def test_the_vocabulary_is_that_of_the_model_that_is_asked():
    cards = {"data": [{"id": "big", "vocab_size": 150000}, {"id": "m", "vocab_size": 32000}]}

    assert of(Behaviour(models=json.dumps(cards).encode())).n == 32000
    assert of(Behaviour(models=json.dumps({"data": cards["data"][:1]}).encode())).n == SAFE


def test_metrics_that_cannot_be_read_are_no_counters():
    page = b'vllm:prompt_tokens_total{model_name="m"} 12.0\nvllm:generation_tokens_total +{} 3\n'

    assert provoked(2, behaviour=Behaviour(step_s=0.0, metrics=page), prompts=4).server["counted_tokens"] is None
