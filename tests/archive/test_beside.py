"""Telemetry, from the point file to the summary, the verdict and the tables."""

import dataclasses
import math

import h5py
import numpy as np
import pytest
from conftest import besides_waves, measured, power_of, three_requests
from program import bench

from glm5bench.analysis.startups import startups
from glm5bench.analysis.telemetry import Telemetry, Track
from glm5bench.archive.collection import collect
from glm5bench.archive.layout import decoded, encoded
from glm5bench.archive.pointfile import read_point, write_point
from glm5bench.archive.summary import row_of, summary
from glm5bench.archive.union import merge

GPUS = ("GPU-a", "GPU-b")
TOLD = {"host": "gpu001", "job_id": "7", "telemetry": {"devices": [{"uuid": d} for d in GPUS], "period_s": 1.0, "why_none": ""}}
STARTED = {"startup": {"start_s": 900.0, "load_s": 600.0, "weights_gib": 89.4, "kv_tokens": 90.0, "kv_tokens_predicted": 100.0}}


def powered(telemetry=None, **more):
    """Six seconds of two GPUs of 700 W each: 10, 20 and 31 prompt tokens, 5, 4 and 11 output tokens."""
    beside = power_of(700.0, devices=GPUS) if telemetry is None else telemetry
    return measured(provenance=TOLD, telemetry=beside, **{"gpus": 2, "tp": 2, **more})


def test_readings_come_back_from_their_file_as_they_were(tmp_path):
    m = powered()
    write_point(tmp_path / "p.h5", m)
    read, digest = read_point(tmp_path / "p.h5")

    assert (read.telemetry.tracks, digest) == (m.telemetry.tracks, m.digest())
    for name in ("track", "at_ns", "value"):
        assert getattr(read.telemetry, name).tolist() == getattr(m.telemetry, name).tolist()


def test_another_reading_is_another_measurement():
    other = powered(power_of(700.1, devices=GPUS))

    assert len({powered().digest(), other.digest(), measured(provenance=TOLD).digest()}) == 3


def test_a_point_says_what_it_took():
    m = powered()
    s = summary(m, m.digest())
    tokens = {"total": s["prompt_tokens"] + s["output_tokens"], "input": s["prompt_tokens"], "output": s["output_tokens"]}

    assert s["energy_j"] == pytest.approx(2 * 700 * s["duration_s"])
    assert s["gpu_power_w"] == pytest.approx(700)
    assert {kind: s[f"energy_per_{kind}_token_j"] for kind in tokens} == pytest.approx({k: s["energy_j"] / n for k, n in tokens.items()})
    assert s["energy_per_request_j"] == pytest.approx(s["energy_j"] / 3)
    assert s["total_tput_per_gpu_mw_tok_s"] == pytest.approx(s["total_tput_tok_s"] / 1400 * 1e6)
    assert s["reasons"] == "few_waves"


@pytest.mark.parametrize(
    ("telemetry", "code"),
    [
        (power_of(700.0, devices=GPUS[:1]), "power_gpu_missing"),
        (power_of(700.0, devices=GPUS, stop=3), "power_gap"),
        (
            Telemetry.of([
                (Track(d, n, ""), [t * 10**9 for t in range(-1, 13)], [v * (t + 1) if n == "energy" else v for t in range(-1, 13)])
                for d in GPUS for n, v in (("power", 700.0), ("energy", 500.0))
            ]),
            "power_disagrees",
        ),
    ],
)  # fmt: skip
def test_energy_that_cannot_be_said_is_absent_and_the_point_is_flagged(telemetry, code):
    m = powered(telemetry)
    s = summary(m, m.digest())

    assert (s["validity"], s["reasons"]) == ("flagged", f"few_waves,{code}")
    assert all(math.isnan(s[name]) for name in s if name.startswith("energy") or name in ("gpu_power_w", "total_tput_per_gpu_mw_tok_s"))
    assert math.isfinite(s["total_tput_tok_s"])


def test_gpus_that_nobody_could_read_flag_the_point_with_the_cause():
    none = {"devices": [], "period_s": 1.0, "why_none": "NVML: Driver Not Loaded"}
    m = dataclasses.replace(measured(provenance={"host": "a", "telemetry": none}), telemetry=None)

    assert [(r.code, r.text) for r in besides_waves(m.verdict()).reasons] == [("power_gpu_missing", "NVML: Driver Not Loaded")]


def test_a_point_beside_which_nothing_was_to_be_read_lacks_nothing():
    m = measured()

    assert besides_waves(m.verdict()).validity == "valid"
    assert math.isnan(summary(m, m.digest())["energy_j"])


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ({"running": 1.0, "queued": 1.0, "kv_usage": 0.95}, "at most 1 requests ran at once, but 2 were sent; the KV cache is full"),
        ({"running": 1.0, "queued": 1.0, "kv_usage": 0.5}, None),
        ({"running": 1.0, "queued": 0.0, "kv_usage": 0.95}, None),
        ({"running": 2.0, "queued": 1.0, "kv_usage": 0.95}, None),
    ],
)
def test_a_full_cache_that_lets_fewer_run_than_were_sent_is_said(server, says):
    m = powered(power_of(700.0, devices=GPUS, **server))
    s = summary(m, m.digest())

    assert [r.text for r in besides_waves(m.verdict()).reasons] == ([says] if says else [])
    assert (s["running_mean"], s["running_max"], s["kv_usage_max"]) == (server["running"], server["running"], server["kv_usage"])


def test_acceptance_is_of_the_answers_then_of_the_counters_then_of_the_servers_word():
    steps = dataclasses.replace(three_requests(), verify_steps=np.array([2, 2, 4]))
    counted = {"prompt_tokens": 61, "generation_tokens": 20}
    word = {"acceptance_length": 9.0}
    drafts, verified = {**counted, "drafts": 10, "accepted_tokens": 15}, {**counted, "verify_steps": 10}

    assert measured(requests=steps, server={**word, "counted_tokens": drafts}).acceptance_length() == 17 / 8
    assert measured(server={**word, "counted_tokens": drafts}).acceptance_length() == 2.5
    assert measured(server={**word, "counted_tokens": verified}).acceptance_length() == 1.7
    assert measured(server=word).acceptance_length() == 9.0
    assert math.isnan(measured().acceptance_length())
    s = summary(measured(requests=steps), "d")
    assert (s["acceptance_p10"], s["acceptance_median"], s["acceptance_p90"]) == pytest.approx((1.6, 2.0, 2.4))


@pytest.mark.parametrize(
    ("stated", "ranks", "says"),
    [
        (2.2, 1, None),
        (2.5, 1, "2.12 tokens per verify step in the answers, 2.50 in the server's average"),
        (1.9, 1, "2.12 tokens per verify step in the answers, 1.90 in the server's average"),
        (2.5, 2, None),
        (0.0, 1, None),
        (None, 1, None),
    ],
)
def test_answers_and_the_server_s_own_average_are_held_against_each_other(stated, ranks, says):
    """Three answers have 20 tokens, of which 17 came from 8 verify steps."""
    steps = dataclasses.replace(three_requests(), verify_steps=np.array([2, 2, 4]))
    m = measured(requests=steps, server={"acceptance_length": stated, "info": {"internal_states": [{}] * ranks}})

    assert [(r.code, r.text) for r in besides_waves(m.verdict()).reasons] == ([("acceptance_disagrees", says)] if says else [])


def test_verify_steps_come_back_from_their_file(tmp_path):
    requests = dataclasses.replace(three_requests(), verify_steps=np.array([2, -1, 4]))
    write_point(tmp_path / "p.h5", measured(requests=requests))

    assert read_point(tmp_path / "p.h5")[0].requests.verify_steps.tolist() == [2, -1, 4]


@pytest.mark.parametrize(
    ("column", "values", "why"),
    [
        ("track", [7] * 28, "a track that does not exist"),
        ("at_ns", list(range(28, 0, -1)), "not in order"),
        ("value", [math.nan] * 28, "are not finite"),
    ],
)
def test_readings_of_a_stranger_are_looked_at(column, values, why):
    rows = encoded(powered())
    rows["telemetry"][column] = values

    with pytest.raises(ValueError, match=why):
        decoded(rows, key="k", source="measured")


def test_a_summary_archive_keeps_the_figures_without_the_readings(tmp_path):
    write_point(tmp_path / "p.h5", powered())
    merge([str(tmp_path / "p.h5")], tmp_path / "all.h5", is_raw_kept=False)
    (row,) = collect([str(tmp_path / "all.h5")]).rows.values()
    with h5py.File(tmp_path / "all.h5") as file:
        assert file["telemetry"].shape == (0,)

    assert row.of("gpu_power_w") == pytest.approx(700)


def test_a_start_is_told_once_however_many_points_it_measured():
    points = [measured(f"{c}" * 20, concurrency=c, server=STARTED, provenance={"host": "a", "job_id": "1"}) for c in (1, 2)]
    points.append(measured("3" * 20, server={"startup": {"start_s": 1100.0}}, provenance={"host": "b", "job_id": "2"}))
    (told,) = startups([row_of(m, m.digest(), "o") for m in points])

    assert (told.n_starts, told.figures["start_s"], told.figures["load_s"]) == (2, 1000.0, 600.0)
    assert (told.figures["kv_tokens"], told.figures["kv_tokens_predicted"]) == (90.0, 100.0)


def test_some_of_a_servers_gpus_are_not_the_server():
    m = powered(gpus=8, tp=8)

    assert [(r.code, r.text) for r in besides_waves(m.verdict()).reasons] == [("power_gpu_missing", "2 of the server's 8 GPUs were read")]
    assert math.isnan(summary(m, m.digest())["energy_j"])


def test_a_full_cache_and_a_queue_at_different_times_are_no_want_of_cache():
    at = [t * 10**9 for t in range(-1, 13)]
    tracks = {
        "running": [1.0] * 14,
        "queued": [float(t % 2) for t in range(14)],
        "kv_usage": [0.95 if t % 2 == 0 else 0.5 for t in range(14)],
    }
    gpus = [(Track(d, "power", "W"), at, [700.0] * 14) for d in GPUS]
    m = powered(Telemetry.of([*gpus, *((Track("server", name, ""), at, values) for name, values in tracks.items())]))

    assert besides_waves(m.verdict()).reasons == ()


def test_readings_that_add_up_to_no_number_are_no_energy_and_no_line(tmp_path):
    m = powered(power_of(1.7e308, devices=GPUS))
    write_point(tmp_path / "p.h5", m)

    assert besides_waves(m.verdict()).codes == ("power_disagrees",)
    assert bench(tmp_path, "report", "p.h5", "-o", "r.html").returncode == 0


def test_the_checkpoint_that_was_served_is_held_against_the_one_asked_for():
    server = {"model_path": "/m/GLM-5", "info": {"model_path": "/m/OTHER"}}

    assert [r.text for r in besides_waves(measured(server=server).verdict()).reasons] == [
        "the server runs with other settings than asked: the checkpoint /m/GLM-5 became /m/OTHER"
    ]
