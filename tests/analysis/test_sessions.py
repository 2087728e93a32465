"""Figures of agent sessions, from examples that are checked by hand, and what is withheld."""

import dataclasses
import json
import math

import h5py
import numpy as np
import pytest
from agents import plays_of, point
from conftest import power_of, raw

from glm5bench.analysis.cost import Economy
from glm5bench.analysis.metrics import Plays
from glm5bench.analysis.sessions import OF_CACHE
from glm5bench.analysis.telemetry import Telemetry, Track
from glm5bench.archive.collection import collect
from glm5bench.archive.pointfile import read_point, write_point
from glm5bench.archive.summary import SESSION_COLUMNS, row_of, summary
from glm5bench.archive.union import merge
from glm5bench.report.records import session_row


def test_the_figures_are_those_that_a_person_computes():
    m = point(session=[0, 0, 1], late=0.003)
    s = m.session_figures()
    share = 8 / 10  # of the last request's ten seconds, eight lie in the window

    assert s.hit_share == pytest.approx(270 / 600)
    assert s.ideal_hit_share == pytest.approx(288 / 600)
    assert s.hit_loss == pytest.approx(18 / 600)
    assert s.cached_tput_tok_s == pytest.approx((90 + 180 * share) / 10)
    assert s.fresh_tput_tok_s == pytest.approx((100 + 110 + 120 * share) / 10)
    assert s.output_tput_tok_s == pytest.approx((200 + 100 * share) / 10)
    assert s.request_rate_rps == pytest.approx((2 + share) / 10)
    assert s.session_rate_per_s == pytest.approx((1 / 4 + 1 / 4 + share / 2) / 10)
    assert s.normalised_median_tok_s == pytest.approx(25)
    assert math.isnan(s.normalised_p90_tok_s)  # three requests
    assert s.lateness_p99_s == pytest.approx(0.003)


def test_the_ninetieth_percentile_is_that_of_the_time_and_not_of_the_speed():
    sent = [float(i) for i in range(120)]
    took = [2.0, 4.0, 10.0] * 40
    last = [s + t for s, t in zip(sent, took, strict=True)]
    r = raw(
        sent,
        [s + 1 for s in sent],
        last,
        prompt=[10] * 120,
        out=[100] * 120,
        chunks=[[(s + 1, 1), (e, 99)] for s, e in zip(sent, last, strict=True)],
    )
    r = dataclasses.replace(r, plays=plays_of([0] * 120, [0] * 120, [10] * 120, sent=sent))
    m = dataclasses.replace(point(window_s=200.0), requests=r)

    assert m.session_figures().normalised_median_tok_s == pytest.approx(25)
    assert m.session_figures().normalised_p90_tok_s == pytest.approx(10)
    assert "few_session_requests" not in m.verdict().codes


def test_a_hand_example_of_the_normalised_speed():
    assert 1 / np.percentile(np.array([2, 4, 10]) / 100, 90) == pytest.approx(1 / 0.088)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"cached": (0, -1, 180)}, "cache_unknown"),
        ({"cached": (0, 200, 180), "ideal": (0, 199, 192)}, "cache_impossible"),
        ({"cached": (0, 199, 299), "ideal": (0, 199, 64)}, "cache_above_ideal"),
        ({"server": {"counted_tokens": {"prompt_tokens": 600, "generation_tokens": 300, "cache_hits": 500}}}, "cache_disagrees"),
        ({"server": {"counted_tokens": {"prompt_tokens": 600, "generation_tokens": 300, "cache_hits": 0}}}, "cache_disagrees"),
    ],
)
def test_figures_of_a_cache_that_cannot_be_right_are_withheld_and_the_cost_of_a_session_stays(changes, code):
    m = point(**changes)
    row = summary(m, m.digest())

    assert code in m.verdict().codes
    assert m.verdict().validity == "flagged"
    assert all(math.isnan(getattr(m.session_figures(), name)) for name in OF_CACHE)
    assert math.isnan(row["fresh_tput_per_gpu_tok_s"])
    assert row["sessions_per_h"] > 0
    told = session_row(row_of(m, m.digest(), "x"), Economy({"b200": 2.0}, {}, (0.2, 3.0)))
    assert told["weighted_cost_usd_per_mtok"] is None
    assert told["cost_usd_per_session"] > 0


def test_a_page_more_than_the_ideal_and_a_counter_that_agrees_are_no_fault():
    counted = {"counted_tokens": {"prompt_tokens": 600, "generation_tokens": 300, "cache_hits": 271}}

    assert {c for c in point(cached=(0, 97, 192), server=counted).verdict().codes if c.startswith("cache_")} == {"cache_disagrees"}
    assert not {c for c in point(cached=(0, 90, 180), server=counted).verdict().codes if c.startswith("cache_")}


def test_a_server_that_counts_no_cached_tokens_does_not_contradict_its_answers():
    counted = {"counted_tokens": {"prompt_tokens": 600, "generation_tokens": 300, "cache_hits": None}}

    assert not {c for c in point(server=counted).verdict().codes if c.startswith("cache_")}


def test_the_energy_of_a_session_is_over_the_window_of_the_rates():
    """A server that idles after its last answer uses energy too, and one that answers after the window is not charged for that."""
    idle, device = 100.0, "GPU-a"
    at = [t * 10**9 for t in range(-1, 22)]
    watts = [900.0 if t < 10 * 10**9 else idle for t in at]
    m = point(window_s=20.0, telemetry=Telemetry.of([(Track(device, "power", "W"), at, watts)]))
    m = dataclasses.replace(m, point={**m.point, "gpus": 1})
    row = summary(m, m.digest())

    assert row["sessions_per_h"] > 0
    assert row["energy_per_session_j"] == pytest.approx((900 * 9.5 + 100 * 10.5) / 20 / (row["sessions_per_h"] / 3600), rel=0.03)


def test_cached_and_computed_tokens_are_never_added():
    m = point()
    row = summary(m, m.digest())

    assert all(math.isnan(row[name]) for name in ("total_tput_per_gpu_tok_s", "input_tput_per_gpu_tok_s", "total_tput_tok_s"))
    assert row["cached_tput_per_gpu_tok_s"] > 0


def test_the_costs_of_a_session_and_of_a_weighted_token():
    m = point(session=[0, 0, 1])
    told = session_row(row_of(m, m.digest(), "x"), Economy({"b200": 2.0}, {}, (0.2, 3.0)))
    s = m.session_figures()
    weighed = s.fresh_tput_tok_s + 0.2 * s.cached_tput_tok_s + 3.0 * s.output_tput_tok_s

    assert told["cost_usd_per_session"] == pytest.approx(2.0 * 8 / 3600 / s.session_rate_per_s)
    assert told["cost_usd_per_request"] == pytest.approx(2.0 * 8 / 3600 / s.request_rate_rps)
    assert told["weighted_cost_usd_per_mtok"] == pytest.approx(2.0 * 8 / 3600 / weighed * 1e6)
    assert (told["cached_weight"], told["output_weight"]) == (0.2, 3.0)
    assert session_row(row_of(m, m.digest(), "x"), Economy({"b200": 2.0}, {}))["weighted_cost_usd_per_mtok"] is None


def test_energy_is_given_for_a_session():
    m = point(session=[0, 0, 1], telemetry=power_of(500.0, stop=14))
    m = dataclasses.replace(m, point={**m.point, "gpus": 1, "gpus_per_node": 1})

    assert summary(m, m.digest())["energy_per_session_j"] == pytest.approx(500 / m.session_figures().session_rate_per_s)


def test_a_short_script_finds_the_same_figures_in_the_file(tmp_path):
    write_point(tmp_path / "p.h5", point(session=[0, 0, 1]))
    with h5py.File(tmp_path / "p.h5") as file:
        r, s, told = file["requests"][:], file["sessions"][:], json.loads(file["summary"][()].tobytes())["columns"]
    share = np.clip(10e9 - r["sent_ns"], 0, r["end_ns"] - r["sent_ns"]) / (r["end_ns"] - r["sent_ns"])  # of its time in the window of 10 s
    fresh = r["prompt_tokens"] - s["cached_tokens"]
    e2el_s = (r["last_token_ns"] - r["sent_ns"]) / 1e9

    assert told["hit_share"] == pytest.approx(s["cached_tokens"].sum() / r["prompt_tokens"].sum())
    assert told["fresh_tput_per_gpu_tok_s"] == pytest.approx((fresh * share).sum() / 10 / 8)
    assert told["window_requests_per_h"] == pytest.approx(share.sum() / 10 * 3600)
    assert told["sessions_per_h"] == pytest.approx((share / np.array([4, 4, 2])).sum() / 10 * 3600)
    assert told["normalised_median_tok_s"] == pytest.approx(1 / np.median(e2el_s / r["output_tokens"]))


def test_what_is_unknown_stays_unknown_in_an_archive_beside_what_is_known(tmp_path):
    """A sweep that was measured in parts is merged from them."""
    known, unknown = (dataclasses.replace(m, key=k * 20) for k, m in (("a", point()), ("b", point(cached=(0, -1, 180)))))
    for i, m in enumerate((known, unknown)):
        write_point(tmp_path / f"{i}.h5", m)
    merge([str(tmp_path / "0.h5")], tmp_path / "one.h5")
    merge([str(tmp_path / "one.h5"), str(tmp_path / "1.h5")], tmp_path / "both.h5")
    told = {r.key[0]: session_row(r, Economy({"b200": 2.0}, {}, (0.2, 3.0))) for r in collect([str(tmp_path / "both.h5")]).rows.values()}

    assert (told["a"]["hit_share"], told["b"]["hit_share"]) == (pytest.approx(0.45), None)
    assert told["a"]["weighted_cost_usd_per_mtok"] > 0
    assert told["b"]["weighted_cost_usd_per_mtok"] is None
    assert told["a"]["cost_usd_per_session"] == told["b"]["cost_usd_per_session"] > 0


def test_ttft_is_a_line_of_the_computed_tokens():
    sent = [float(i) for i in range(20)]
    fresh = [100 * (i + 1) for i in range(20)]
    first = [s + 0.2 + 1e-3 * f for s, f in zip(sent, fresh, strict=True)]
    r = raw(sent, first, [f + 5 for f in first], prompt=[5000] * 20, out=[2] * 20, chunks=[[(f, 1), (f + 5, 1)] for f in first])
    r = dataclasses.replace(r, plays=plays_of([5000 - f for f in fresh], [4999] * 20, [5000] * 20, sent=sent))
    s = dataclasses.replace(point(window_s=100.0), requests=r).session_figures()

    assert s.ttft_per_fresh_token_s == pytest.approx(1e-3)
    assert s.ttft_base_s == pytest.approx(0.2)


def test_a_point_file_keeps_the_sessions_with_their_warm_up(tmp_path):
    m = point(warm=[(64, 64), (0, 0)])
    write_point(tmp_path / "p.h5", m)
    again, digest = read_point(tmp_path / "p.h5")

    assert digest == m.digest() == again.digest()
    for f in dataclasses.fields(Plays):
        assert getattr(again.requests.plays, f.name).tolist() == getattr(m.requests.plays, f.name).tolist()
    assert dataclasses.replace(m, requests=dataclasses.replace(m.requests, plays=None)).digest() != digest


def test_independent_lines_recompute_the_figures_from_the_file(tmp_path):
    m = point(session=[0, 0, 1])
    write_point(tmp_path / "p.h5", m)
    import h5py

    with h5py.File(tmp_path / "p.h5") as file:
        requests, sessions = file["requests"][()], file["sessions"][()]
        record = json.loads(file["records"][()].tobytes())
    own = sessions[sessions["phase"] == 1]
    window = record["point"]["arm"]["workload"]["duration_s"] * 1e9
    inside = (np.clip(requests["end_ns"], 0, window) - requests["sent_ns"]) / (requests["end_ns"] - requests["sent_ns"])
    hit = own["cached_tokens"].sum() / requests["prompt_tokens"].sum()
    sessions_per_h = (inside / np.array(record["provenance"]["sessions"]["lengths"])[own["session"]]).sum() / window * 3.6e12
    speed = 1 / np.median((requests["last_token_ns"] - requests["sent_ns"]) / 1e9 / requests["output_tokens"])
    row = summary(m, m.digest())

    assert [row[name] for name in ("hit_share", "sessions_per_h", "normalised_median_tok_s")] == pytest.approx([hit, sessions_per_h, speed])
    assert all(name in row for name in SESSION_COLUMNS)
