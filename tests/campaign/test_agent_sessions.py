"""Campaigns of agent sessions on this machine: from a file to tables and page, with a cache that is too small, and with wrong settings."""

import json
import math

import pytest
from conftest import compose
from program import bench, point_files

from glm5bench import recipe
from glm5bench.archive.pointfile import read_point

SESSIONS = ("engine=simulated", "engine.time_scale=20", "workload=sessions", "workload.file=shipped:coding", "workload.duration_s=60",
            "hardware=h200", "name=c", "wait=true")  # fmt: skip


def points(tmp_path):
    read = (read_point(path)[0] for path in (tmp_path / "outputs/c/points").glob("*.h5"))
    return {m.point["concurrency"]: m for m in read}


def test_sessions_go_from_a_file_to_a_table_and_a_page(tmp_path):
    done = bench(tmp_path, "sweep", *SESSIONS, "concurrency=2,4")
    told = json.loads(bench(tmp_path, "tables", "outputs/c", "--format", "json", "--token-prices", "1.40,0.26,4.40").stdout)
    page = bench(tmp_path, "report", "outputs/c", "-o", "r.html")
    exported = bench(tmp_path, "export", "csv", "outputs/c", "-o", "p.csv")
    imported = bench(tmp_path, "import", "csv", "p.csv", "-o", "again.h5")
    again = json.loads(bench(tmp_path, "tables", "again.h5", "--format", "json").stdout)

    assert done.returncode == 0, done.stderr
    assert "Agent sessions" in done.stdout
    assert [r["concurrency"] for r in told["sessions"]] == [2, 4]
    assert all(r["hit_share"] == pytest.approx(r["ideal_hit_share"], abs=0.002) for r in told["sessions"])  # an empty large cache
    assert all(r["cost_usd_per_session"] > 0 and r["weighted_cost_usd_per_mtok"] > 0 for r in told["sessions"])
    assert not told["frontier"]
    assert not told["iso"]
    assert any("a cached one 0.186" in note for note in told["notes"])
    assert page.returncode == 0, page.stderr
    assert exported.returncode == imported.returncode == 0, imported.stderr
    assert [r["hit_share"] for r in again["sessions"]] == [r["hit_share"] for r in told["sessions"]]
    assert all(r["total_tput_per_gpu_tok_s"] is None for r in (*told["points"], *again["points"]))
    for m in points(tmp_path).values():
        plays = m.requests.plays
        assert m.verdict().validity != "invalid"
        assert not [code for code in m.verdict().codes if code.startswith("cache_")]
        assert (plays.ideal_tokens - plays.cached_tokens >= 0).all()
        assert m.provenance["sessions"]["requests"] == sum(m.provenance["sessions"]["lengths"])


def test_a_cache_that_is_too_small_loses_hits_and_the_next_attempt_has_other_tokens(tmp_path):
    few = ("engine.extra_args=[--max-total-tokens,'40000']", "concurrency=1,8")
    done = bench(tmp_path, "sweep", *SESSIONS, *few)
    loss = {users: m.session_figures().hit_loss for users, m in points(tmp_path).items()}

    assert done.returncode == 0, done.stderr
    assert loss[1] < 0.05 < loss[8]  # one live session fits, eight do not


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("retract:1", "cache_above_ideal"),
        ("transferred", "cache_above_ideal"),
        ("reset:25", "cache_disagrees"),  # in the window; the counter is again above where it was at the beginning
        ("gauge", None),
        ("renamed", None),
        ("closes:1", None),
    ],
)
def test_a_server_that_miscounts_its_cache_gives_no_silent_number(tmp_path, fault, code):
    few = ("workload.duration_s=40", "concurrency=4", f"engine.fault={fault}")
    done = bench(tmp_path, "sweep", *SESSIONS, *few)
    (m,) = points(tmp_path).values()
    counted, shares = m.server["counted_tokens"], m.session_figures()

    assert done.returncode == 0, done.stderr
    assert m.requests.is_whole.all()
    assert {c for c in m.verdict().codes if c.startswith("cache_")} >= ({code} if code else set())
    assert math.isnan(shares.hit_share) == (code is not None)
    if fault == "renamed":
        assert counted["cache_hits"] == m.requests.plays.cached_tokens[m.requests.plays.is_measured].sum()
    if fault == "gauge":
        assert counted["cache_hits"] is None


def test_the_server_reports_its_cache_and_keeps_connections_and_other_workloads_are_as_before():
    plain, sessions = (compose("hardware=b200", *more).arm for more in ((), SESSIONS[2:5]))
    flags = {name: recipe.bound(arm, 4).argv for name, arm in (("plain", plain), ("sessions", sessions))}
    vllm = recipe.bound(compose("engine=vllm", "hardware=h200", "speculative=off", *SESSIONS[2:5]).arm, 4)

    assert "--disable-radix-cache" in flags["plain"]
    assert "--enable-cache-report" not in flags["plain"]
    assert "--disable-radix-cache" not in flags["sessions"]
    assert "--enable-cache-report" in flags["sessions"]
    assert flags["sessions"][flags["sessions"].index("--max-running-requests") + 1] == "8"
    assert recipe.environment(sessions)["SGLANG_TIMEOUT_KEEP_ALIVE"] == "3600"
    assert "--enable-prompt-tokens-details" in vllm.argv
    assert vllm.env["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"] == "3600"
    assert "--no-enable-prefix-caching" not in vllm.argv


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("workload.duration_s=null",), "needs workload.duration_s"),
        (("workload.endpoint=chat",), "must be completions or generate"),
        (("workload.arrivals=poisson", "workload.rate_rps=1"), "is a closed loop"),
        (("workload.entry=[0.8,0.2]",), "must begin with the smaller share"),
        (("workload.omit=[ignore_eos]",), "forces the recorded lengths"),
        (("workload.file=shipped:none",), "shipped:coding"),
        (("workload.file=null",), "needs workload.file"),
        (("workload.session_header='a b'",), "is not a name of an HTTP header"),
        (("search=frontier", "search.band=[20,40]"), "content=sessions"),
        (("stop_when=saturated",), "sessions"),
    ],
)
def test_settings_that_contradict_sessions_are_refused(tmp_path, overrides, said):
    done = bench(tmp_path, "plan", *SESSIONS[:-1], *overrides)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pause_that_is_longer_than_connections_are_kept_needs_a_cap(tmp_path):
    request = {"id": 0, "blocks": [[0, 2]], "output_tokens": 3}
    long = {"session": "a", "block_tokens": 64, "requests": [request, {**request, "id": 1, "after": [0], "delay_s": 5000}]}
    (tmp_path / "s.jsonl").write_text(json.dumps(long) + "\n")
    asked = (*SESSIONS[:-1], "workload.file=s.jsonl")

    assert "workload.idle_cap_s" in bench(tmp_path, "plan", *asked).stderr
    assert bench(tmp_path, "plan", *asked, "workload.idle_cap_s=300").returncode == 0


def test_files_are_described_generated_and_converted(tmp_path):
    made = bench(tmp_path, "sessions", "generate", "-o", "g.jsonl", "--sessions", "3", "--seed", "1")
    twice = bench(tmp_path, "sessions", "generate", "-o", "g.jsonl")
    told = json.loads(bench(tmp_path, "sessions", "describe", "g.jsonl", "--json").stdout)
    wrong = bench(tmp_path, "sessions", "describe", "outputs/none.jsonl")
    row = {"session_id": "a", "timestamp": 0, "input_length": 1100, "output_length": 100, "hash_ids": [9, 8, 7]}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    unsaid = bench(tmp_path, "sessions", "convert", "mooncake", "m.jsonl", "-o", "c.jsonl")
    converted = bench(
        tmp_path, "sessions", "convert", "mooncake", "m.jsonl", "-o", "c.jsonl", "--prompts", "whole", "--delays", "after-answer"
    )

    assert made.returncode == 0, made.stderr
    assert "exists already" in twice.stderr
    assert told["sessions"] == 3
    assert wrong.returncode == 2
    assert "do not say what they mean" in unsaid.stderr
    assert "delays: from the end of an answer; prompts: whole" in converted.stderr
    assert not point_files(tmp_path)
