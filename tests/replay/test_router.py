"""Agent sessions over two simulated servers behind SGLang's own router: a session finds its cache only if a header names it."""

import contextlib
import os
import subprocess
import sys

import httpx
import pytest
from program import ROOT, until

from glm5bench.client.endpoint import Endpoint
from glm5bench.client.protocol import Patience
from glm5bench.node.server import free_port
from glm5bench.replay.protocol import SessionsProtocol
from glm5bench.sessions.file import written
from glm5bench.sessions.generate import Statistics, generated
from glm5bench.values.point import Point
from glm5bench.values.workload import Workload

CHAINS = Statistics(sessions=6, requests=8, shared_tokens=0, first_tokens=1200, new_tokens=300, output_tokens=8, delay_s=0.3,
                    subagent_share=0, subagent_requests=1, block_tokens=64)  # fmt: skip
SCALE = 20


@contextlib.contextmanager
def started(*words):
    process = subprocess.Popen([sys.executable, "-m", *words], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def routed(path, policy):
    """The port of a router over two servers, each with its own cache."""
    *servers, port, metrics = [free_port() for _ in range(4)]
    asked = ("engine.time_scale=20", "workload=sessions", f"workload.file={path}", "speculative=off", "concurrency=8")
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.enter_context(started("glm5bench", "simulate", "--port", str(server), *asked))
        urls = [f"http://127.0.0.1:{server}" for server in servers]
        of_router = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics)]
        words = ("sglang_router.launch_router", "--worker-urls", *urls, "--policy", policy, "--log-level", "error", *of_router)
        stack.enter_context(started(*words))

        def is_ready():
            with contextlib.suppress(httpx.HTTPError, ValueError):
                return httpx.get(f"http://127.0.0.1:{port}/readiness").json().get("healthy_workers") == 2
            return False

        until(is_ready, "two healthy workers", 60)
        yield port


@pytest.mark.parametrize(("policy", "header"), [("manual", "X-SMG-Routing-Key"), ("round_robin", "")])
def test_a_session_finds_its_cache_if_the_router_knows_it(tmp_path, policy, header):
    path = tmp_path / "s.jsonl"
    written(generated(CHAINS), path)
    asked = {"content": "sessions", "file": str(path), "duration_s": 30.0, "session_header": header}
    workload = Workload("s", 1, 1, 1.0, "generate", 10, None, 4, **asked)
    with routed(path, policy) as port:
        client = SessionsProtocol(
            Endpoint(f"http://127.0.0.1:{port}", ""), "m", workload, Point("k" * 20, "a", 4, 0, 0, 4), Patience(30), lambda done, of: None,
            vocabulary=5000, time_scale=SCALE, wants_places=True,
        )  # fmt: skip
        client.warm_up()
        done = client.measure()
    plays = done.requests.plays
    is_own = plays.is_measured
    cached, ideal = plays.cached_tokens[is_own], plays.ideal_tokens[is_own]

    assert done.requests.is_whole.all()
    assert (cached <= ideal).all()
    if header:
        assert (cached == ideal).all()  # as if there were one cache: the warm-up is found, too
    else:
        assert 0.3 * ideal.sum() < cached.sum() < 0.97 * ideal.sum()  # the other server has an older, shorter prefix
