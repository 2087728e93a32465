"""Agent sessions on SGLang's own server on a CPU: its cached tokens are the longest common prefixes of the prompts that were sent.

By hand: see test_engine.py.
"""

import json

import pytest
from program import bench
from test_engine import asked, points

from glm5bench.client.workload import ids
from glm5bench.replay.bodies import Bodies, Seed
from glm5bench.sessions.file import read_sessions, written
from glm5bench.sessions.generate import Statistics, generated

pytestmark = pytest.mark.engine
SMALL = Statistics(sessions=6, requests=8, shared_tokens=256, first_tokens=200, new_tokens=60, output_tokens=20, delay_s=0.1,
                   subagent_share=0.1, subagent_requests=2, block_tokens=16)  # fmt: skip


def common(one, other):
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def sent(m, path):
    """The prompts of a point in the order in which they were sent, with what the server said it had of each."""
    sessions, p = read_sessions(str(path)), m.point
    bodies = Bodies(sessions, Seed((p["seed"], p["repeat"], p["concurrency"], 1)), ids(4096), lambda place, n: {"prompt": place})
    plays = m.requests.plays
    for i in sorted(range(len(plays.phase)), key=lambda i: plays.sent_ns[i]):
        session = int(plays.session[i])
        call = next(c for c in sessions.sessions[session].calls if c.id == plays.request[i])
        yield json.loads(bodies.of(int(plays.play[i]), session, call, 1))["prompt"], int(plays.cached_tokens[i]), bool(plays.phase[i])


@pytest.mark.parametrize("endpoint", ["completions", "generate"])
def test_the_cached_tokens_of_a_real_server_are_the_longest_common_prefix(engines, tmp_path, endpoint):
    path = tmp_path / "s.jsonl"
    written(generated(SMALL), path)
    sessions = ("workload=sessions", f"workload.file={path}", "workload.duration_s=8", f"workload.endpoint={endpoint}")
    overrides, env = asked(engines, "wait=true", "concurrency=1,3")
    lengths = ("workload.isl_tokens", "workload.osl_tokens", "workload.prompts_per_concurrency", "workload.warmups_per_concurrency")
    overrides = [o for o in overrides if not o.startswith(lengths)]
    done = bench(tmp_path, *overrides, *sessions, timeout=300, **env)

    assert done.returncode == 0, done.stdout + done.stderr
    for m in points(tmp_path):
        assert not {c for c in m.verdict().codes if c.startswith("cache_")}, m.verdict()
        earlier, one_by_one = [], m.point["concurrency"] == 1
        for prompt, cached, is_measured in sent(m, path):
            expected = min(max((common(prompt, p) for p in earlier), default=0), len(prompt) - 1)
            assert cached == expected if one_by_one and is_measured else cached <= expected, (cached, expected, len(prompt))
            earlier.append(prompt)
        assert m.session_figures().hit_share > 0.5
        assert (m.requests.output_tokens == m.requests.asked_tokens).all()
        assert m.server["counted_tokens"]["cache_hits"] == m.requests.plays.cached_tokens[m.requests.plays.is_measured].sum()
