"""The transport against a real scripted server: what arrives, when, and how it fails."""

import asyncio
import itertools
import shutil
import ssl
import sys
import time

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from program import required
from scripted import End, Scripted, answer, certificate, chunk, chunked, head, loaded, nowhere, sessions, sized, tokens

from glm5bench.client.transport import Transport

EVENTS = b"".join(tokens(3))
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux stamps")


async def fetched(url, *, content=None, context=None, timeout=20.0, n=1):
    """The answers to n requests, one after another on one client; POST where there is content."""
    async with httpx.AsyncClient(transport=Transport(context), trust_env=False, timeout=timeout) as client:
        return [await client.request("GET" if content is None else "POST", url, content=content) for _ in range(n)]


def fetch(url, **how):
    """The answer to one request."""
    return asyncio.run(fetched(url, **how))[0]


def played(*steps, **how):
    """The answer to one request to a server that plays these steps."""
    with Scripted(lambda request: steps) as server:
        return fetch(server.url, **how)


def failed(*steps, **how):
    """The httpx error of one request to a server that plays these steps."""
    with pytest.raises(httpx.HTTPError) as raised:
        played(*steps, **how)
    return raised.value


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    required("" if shutil.which("openssl") else "openssl is not installed")
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls(pem):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def test_what_httpx_sends_arrives_and_what_the_server_answers_comes_back():
    with Scripted(lambda request: [sized(request.method.encode() + b" " + request.body, "x-name: value")]) as server:
        posted, got = fetch(server.url + "/a?b=c", content=b"hello"), fetch(server.url)

    assert (posted.status_code, posted.content, posted.headers["x-name"]) == (200, b"POST hello", "value")
    assert got.content == b"GET "
    assert server.requests[0].path == "/a?b=c"
    assert server.requests[0].headers["host"] == server.url.removeprefix("http://")


@pytest.mark.parametrize(
    "steps",
    [
        chunked(EVENTS[:50], EVENTS[50:51], EVENTS[51:]),
        [sized(EVENTS)],
        [head(), EVENTS, End.CLOSE],
        [head("connection: close"), EVENTS, End.CLOSE],
        [b"HTTP/1.0 200 OK\r\n\r\n" + EVENTS, End.CLOSE],
    ],
    ids=["chunked", "with its length", "until the end", "until the end it announced", "HTTP/1.0"],
)
def test_a_body_of_any_framing_comes_whole(steps):
    assert played(*steps).content == EVENTS


def test_an_answer_without_a_body_is_empty():
    assert played(head("content-length: 0")).content == b""
    assert played(head(status="204 No Content")).status_code == 204


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_an_answer_cut_anywhere_by_the_network_holds_the_same_bytes(data):
    whole = b"".join(chunked(EVENTS[:50], EVENTS[50:51], EVENTS[51:]))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    steps = itertools.chain.from_iterable((piece, 0.0002) for piece in pieces)

    got = played(*steps)

    exchange = got.extensions["exchange"]
    assert got.content == EVENTS
    assert list(exchange.cuts) == sorted(exchange.cuts)
    assert exchange.cuts[-1] == len(EVENTS)


def test_arrivals_ascend_between_the_sending_and_the_end():
    pieces = [step for event in tokens(9) for step in (chunk(event), 0.002)]
    exchange = played(head("transfer-encoding: chunked"), *pieces, chunk(b"")).extensions["exchange"]

    times = [exchange.sent_ns, exchange.first_byte_ns, *exchange.at, exchange.end_ns]
    assert times == sorted(times)
    assert len(set(exchange.at)) == len(exchange.at) > 5


@LINUX
def test_a_piece_has_the_time_at_which_the_kernel_took_it_and_not_that_of_the_reading():
    """The client is busy while the pieces arrive, and reads all of them at once later."""

    async def busy(url):
        async with httpx.AsyncClient(transport=Transport(), trust_env=False) as client:
            await client.get(url)  # by now the kernel stamps
            sending = asyncio.ensure_future(client.get(url))
            while not server.requests[1:]:
                await asyncio.sleep(0)
            while server.in_flight:
                pass  # as a client that has much to read elsewhere
            return time.monotonic_ns(), (await sending).extensions["exchange"]

    with Scripted(lambda request: [0.02, sized(EVENTS), 0.05, b""]) as server:
        after, exchange = asyncio.run(busy(server.url))

    assert exchange.at[0] < after - 30_000_000


@LINUX
def test_pieces_of_a_server_that_waits_for_acknowledgements_arrive_one_by_one():
    """The kernel would acknowledge them up to 40 ms late. Meanwhile the server collects eight pieces."""
    pieces = [step for event in tokens(8) for step in (chunk(event), 0.005)]
    with Scripted(lambda request: [head("transfer-encoding: chunked"), *pieces, chunk(b"")], is_nagled=True) as server:
        answers = asyncio.run(fetched(server.url, n=8))  # on a new connection the kernel acknowledges at once by itself
    reads = sorted(len(set(got.extensions["exchange"].at)) for got in answers)

    assert server.n_connections == 1
    assert reads[len(reads) // 2] > 6


@LINUX
def test_every_byte_of_a_run_is_stamped_by_the_kernel():
    with Scripted(lambda request: answer(20)) as server:
        health = loaded(server.url, sessions(8, n_out=20), concurrency=2).health

    assert health.kernel_stamp_share == 1.0
    assert health.clock_steps_ns == ()


@LINUX
@pytest.mark.parametrize("end", [End.CLOSE, End.RESET])
def test_the_end_of_a_connection_has_no_byte_that_could_be_stamped(end):
    with Scripted(lambda request: [head(), b"".join(tokens(2)), 0.01, end]) as server:
        health = loaded(server.url, sessions(4)).health

    assert health.kernel_stamp_share == 1.0


def test_an_interim_answer_is_not_the_answer():
    got = played(b"HTTP/1.1 100 Continue\r\nx-a: 1\r\n\r\n", 0.001, b"HTTP/1.1 103 Early Hints\r\n\r\n" + sized(b"then", "x-b: 2"))

    assert (got.status_code, got.content) == (200, b"then")
    assert "x-a" not in got.headers


def test_a_connection_is_kept_for_the_next_request():
    with Scripted(lambda request: [sized(b"x")]) as server:
        answers = asyncio.run(fetched(server.url, n=5))

    assert [a.content for a in answers] == [b"x"] * 5
    assert server.n_connections == 1


@pytest.mark.parametrize(
    "steps",
    [[sized(EVENTS, "connection: close"), End.CLOSE], [head(), EVENTS, End.CLOSE], [b"HTTP/1.0 200 OK\r\n\r\n", EVENTS, End.CLOSE]],
    ids=["as it says", "to end the body", "HTTP/1.0"],
)
def test_a_server_that_closes_after_each_answer_is_connected_to_again_and_nothing_is_sent_twice(steps):
    with Scripted(lambda request: steps) as server:
        result = loaded(server.url, sessions(6, n_out=3), concurrency=2)

    assert result.requests.error == ("",) * 6
    assert sorted(r.said["session"] for r in server.requests) == list(range(6))
    assert len({r.connection for r in server.requests}) == 6


def test_an_idle_connection_that_the_server_closed_is_not_used_again():
    async def twice(url):
        async with httpx.AsyncClient(transport=(transport := Transport()), trust_env=False) as client:
            first = await client.get(url)
            while any(c.is_open for c in transport._all):
                await asyncio.sleep(0.001)
            return first.content, (await client.get(url)).content

    with Scripted(lambda request: [sized(b"x"), 0.005, End.CLOSE]) as server:
        assert asyncio.run(twice(server.url)) == (b"x", b"x")

    assert (len(server.requests), server.n_connections) == (2, 2)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([End.RESET], "reset: "),
        ([End.CLOSE], "reset: the connection was closed before any answer"),
        ([head("transfer-encoding: chunked") + chunk(b"a"), 0.02, End.RESET], "reset: "),
        ([head("transfer-encoding: chunked") + chunk(b"a"), End.CLOSE], "cut short: the connection was closed in the middle"),
        ([head("content-length: 9") + b"a", End.CLOSE], "cut short: the connection was closed in the middle"),
        ([b"HTTP/1.1 200 OK\r\nx-a", End.CLOSE], "cut short: the connection was closed in the middle"),
        ([b"SSH-2.0-OpenSSH_9.6\r\n\r\n"], "protocol: "),
        ([head("transfer-encoding: chunked") + b"zz\r\n"], "protocol: "),
        ([head("content-length: 3", "content-length: 4") + b"abc"], "protocol: "),
        ([b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"], "protocol: "),
    ],
)
def test_an_answer_that_breaks_off_or_is_no_http_names_its_class(steps, said):
    assert str(failed(*steps)).startswith(said)


def test_what_a_server_says_after_the_end_of_an_answer_is_not_the_next_answer():
    with Scripted(lambda request: [sized(b"%d" % request.number) + sized(b"unasked")]) as server:
        answers = asyncio.run(fetched(server.url, n=3))

    assert [a.content for a in answers] == [b"0", b"1", b"2"]


def test_a_port_on_which_nobody_listens_is_refused():
    with pytest.raises(httpx.ConnectError, match=r"^refused: 127\.0\.0\.1:\d+: "):
        fetch(nowhere())


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 70 + ".invalid"])
def test_a_name_that_does_not_resolve_is_not_a_refused_port(host):
    with pytest.raises(httpx.ConnectError, match=rf"^dns: {host}: "):
        fetch(f"http://{host}/")


def test_a_server_that_says_nothing_is_not_waited_for_longer_than_httpx_was_told():
    assert str(failed(End.HANG, timeout=0.1)) == "hang: nothing came for 0.1 s"
    assert str(failed(head("content-length: 9") + b"a", End.HANG, timeout=0.1)) == "hang: nothing came for 0.1 s"


def test_an_answer_that_comes_slowly_is_waited_for_as_long_as_it_comes():
    pieces = [step for event in tokens(3) for step in (0.25, chunk(event))]

    assert len(played(head("transfer-encoding: chunked"), *pieces, chunk(b""), timeout=0.8).content) == len(b"".join(tokens(3)))


def test_a_request_larger_than_a_socket_takes_at_once_arrives_whole():
    content = bytes(range(256)) * 20_000
    with Scripted(lambda request: [sized(b"%d" % len(request.body))]) as server:
        answers = asyncio.run(fetched(server.url, content=content, n=2))

    assert [a.content for a in answers] == [b"5120000"] * 2
    assert [r.body == content for r in server.requests] == [True, True]
    assert server.n_connections == 1


def test_a_request_that_the_server_refuses_before_it_is_whole_has_the_server_s_answer():
    refused = sized(b"too large", "connection: close", status="413 Content Too Large")
    with Scripted(lambda request: [], early=[refused, End.CLOSE]) as server:
        assert fetch(server.url, content=bytes(20_000_000)).status_code == 413


@pytest.mark.parametrize("greeting", [[End.CLOSE], [0.02, End.RESET]], ids=["closes", "resets"])
def test_a_server_that_takes_a_connection_and_drops_it_at_once_is_a_reset_for_every_request(greeting):
    with Scripted(lambda request: [], greeting=greeting) as server:
        result = loaded(server.url, sessions(5), concurrency=2)

    assert {error.partition(":")[0] for error in result.requests.error} == {"reset"}
    assert result.ended_by is None


def test_a_server_that_takes_a_connection_and_says_nothing_in_the_handshake_is_a_hang():
    silent = Scripted(lambda request: [], greeting=[End.HANG])
    with silent as server, pytest.raises(httpx.ConnectTimeout, match=r"^hang: no connection to "):
        fetch(server.url.replace("http:", "https:"), timeout=0.1)


def test_a_request_that_its_caller_gave_up_ends_with_its_connection():
    async def given_up(url):
        async with httpx.AsyncClient(transport=Transport(), trust_env=False) as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.get(url), 0.1)
            while server.in_flight:
                await asyncio.sleep(0.001)

    with Scripted(lambda request: [End.HANG, b""]) as server:
        asyncio.run(asyncio.wait_for(given_up(server.url), 20))

    assert len(server.requests) == 1


def test_the_connection_of_an_answer_that_was_not_awaited_is_not_used_again():
    async def impatient(url):
        async with httpx.AsyncClient(transport=Transport(), trust_env=False) as client:
            async with client.stream("GET", url) as answer:
                assert answer.status_code == 200
            return (await client.get(url)).content

    first = [head("content-length: 9"), b"a", End.HANG]
    with Scripted(lambda request: first if request.number == 0 else [sized(b"second")]) as server:
        assert asyncio.run(impatient(server.url)) == b"second"


def test_an_untrusted_certificate_is_said_to_be_one(tls):
    with Scripted(lambda request: [sized(b"x")], tls=tls) as server, pytest.raises(httpx.ConnectError) as raised:
        fetch(server.url)

    assert str(raised.value).startswith("tls: ")
    assert "certificate verify failed" in str(raised.value)
    assert server.requests == []


@pytest.mark.parametrize("greeting", [[b"HTTP/1.1 400 Bad Request\r\n\r\n", End.CLOSE], [0.02, End.RESET], [End.CLOSE]])
def test_a_server_that_breaks_off_the_handshake_is_a_failure_of_tls(greeting):
    with Scripted(lambda request: [], greeting=greeting) as server, pytest.raises(httpx.ConnectError, match=r"^tls: "):
        fetch(server.url.replace("http:", "https:"))


def test_an_answer_through_tls_comes_whole_and_in_time(pem, tls):
    context = ssl.create_default_context(cafile=str(pem))
    steps = [step for event in tokens(5) for step in (chunk(event), 0.002)]
    content = bytes(3_000_000)
    with Scripted(lambda request: [head("transfer-encoding: chunked"), *steps, chunk(b"")], tls=tls) as server:
        got = fetch(server.url, context=context, content=content)

    exchange = got.extensions["exchange"]
    assert got.content == b"".join(tokens(5))
    assert server.requests[0].body == content
    assert [exchange.sent_ns, *exchange.at, exchange.end_ns] == sorted([exchange.sent_ns, *exchange.at, exchange.end_ns])


def test_a_run_trusts_to_its_end_whom_it_trusted_at_its_start(pem, tls, monkeypatch):
    def play(request):
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        return [sized(b"".join(tokens(2)), "connection: close"), End.CLOSE]

    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    with Scripted(play, tls=tls) as server:
        assert loaded(server.url, sessions(3)).requests.error == ("",) * 3


def test_what_tls_says_for_itself_is_not_the_first_byte_of_an_answer(pem, tls):
    context = ssl.create_default_context(cafile=str(pem))
    with Scripted(lambda request: [0.1, sized(b"x")], tls=tls) as server:
        exchange = fetch(server.url, context=context).extensions["exchange"]

    assert exchange.first_byte_ns - exchange.sent_ns > 90_000_000


@pytest.mark.parametrize("until_close", [False, True])
def test_a_run_over_tls_is_whole_and_stamped(pem, tls, monkeypatch, until_close):
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    body = [head(), *tokens(3), End.CLOSE] if until_close else answer(3)
    with Scripted(lambda request: body, tls=tls) as server:
        result = loaded(server.url, sessions(5, n_out=3), concurrency=2)

    assert result.requests.error == ("",) * 5
    assert result.requests.output_tokens.tolist() == [3] * 5
    assert result.health.kernel_stamp_share == (1.0 if sys.platform.startswith("linux") else 0.0)


def test_without_uvloop_the_client_runs_on_asyncio_and_says_so(monkeypatch):
    with Scripted(lambda request: answer(2)) as server:
        before = loaded(server.url, sessions(2)).health.event_loop
        monkeypatch.setitem(sys.modules, "uvloop", None)
        result = loaded(server.url, sessions(4), concurrency=2)

    assert result.requests.error == ("",) * 4
    assert (before, result.health.event_loop) == ("uvloop" if sys.platform.startswith("linux") else "asyncio", "asyncio")


def test_without_the_kernel_s_stamps_times_are_those_of_the_reads_and_it_says_so(monkeypatch):
    monkeypatch.setattr("glm5bench.client.clock.asks_for_stamps", lambda sock: False)
    monkeypatch.setattr("glm5bench.client.connection.asks_for_stamps", lambda sock: False)
    with Scripted(lambda request: answer(2)) as server:
        result = loaded(server.url, sessions(3))

    assert result.requests.error == ("",) * 3
    assert result.health.kernel_stamp_share == 0.0
    assert (result.requests.first_token_ns > result.requests.sent_ns).all()
