"""`glm5bench predict`: figures without a GPU, their errors, and calibration on one's own points."""

import json

import pytest
from conftest import compose, measured
from program import bench

from glm5bench import recipe
from glm5bench.archive.pointfile import write_point
from glm5bench.values.plain import plain

ARMS = ("hardware=h200,b200", "checkpoint=glm5_fp8", "speculative=off")


def write_own(path):
    """A point of SGLang on B200, with its arm and recipe as a node job writes them."""
    arm = compose("engine=sglang", "hardware=b200", "checkpoint=glm5_fp8").arm
    write_point(path, measured(arm=plain(arm), recipe=plain(recipe.bound(arm, 4))))


def predicted(here, *arguments):
    done = bench(here, "predict", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_curve_of_two_gpus_with_errors_cost_and_memory(tmp_path):
    found = predicted(tmp_path, *ARMS)["points"]

    assert [p["concurrency"] for p in found if p["hardware"] == "h200"] == [4, 8, 16, 32, 64, 128, 256]
    assert all(p["total_tput_per_gpu_tok_s"] > 0 and p["ttft_median_s"] > 0 and p["tpot_median_s"] > 0 for p in found)
    assert all(p["class"] == "fitted" and 0 < p["error_p90"]["tpot"] < 1 for p in found)
    assert all(p["kv_cache_tokens"] > 100_000 and p["weights_gib_per_gpu"] > 80 for p in found)
    rising = [p["interactivity_tok_s_user"] for p in found if p["hardware"] == "b200"]
    assert rising == sorted(rising, reverse=True)
    assert sum(p["is_on_frontier"] for p in found) >= 8


def test_the_table_says_that_nothing_was_measured_and_how_wrong_it_may_be(tmp_path):
    done = bench(tmp_path, "predict", "hardware=b300", "checkpoint=glm5_fp8", "concurrency=4,64", COLUMNS="100")

    assert "nothing was measured" in done.stdout
    assert "other GPU: no row is published for this GPU" in done.stdout
    assert done.stdout.count("±") >= 6
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["workload.arrivals=poisson", "workload.rate_rps=2"], "can be predicted"),
        (["hardware=b201"], "b201"),
        (["price.usd_per_gpu_h.b200=null"], "no price for b200"),
        (["concurrency=0"], "concurrency"),
        (["--from", "missing.h5"], "missing.h5"),
    ],
    ids=str,
)
def test_what_cannot_be_predicted_is_refused(words, said, tmp_path):
    done = bench(tmp_path, "predict", *words)

    assert done.returncode in (2, 3)
    assert said in done.stderr
    assert "next: " in done.stderr
    assert "Traceback" not in done.stderr


def test_points_of_ones_own_calibrate_the_model(tmp_path):
    write_own(tmp_path / "point.h5")
    own = ["hardware=b200", "engine=simulated", "concurrency=4", "--from", "point.h5"]
    [calibrated] = predicted(tmp_path, *own)["points"]
    [without] = predicted(tmp_path, *own[:-2])["points"]

    assert calibrated["class"] == "calibrated"
    assert calibrated["decode_factor"] != 1 != calibrated["prefill_factor"]
    assert calibrated["tpot_median_s"] != without["tpot_median_s"]


def test_points_of_another_gpu_do_not_calibrate(tmp_path):
    write_own(tmp_path / "point.h5")
    done = bench(tmp_path, "predict", "hardware=mi355x", "checkpoint=glm5_fp8", "concurrency=4", "--from", "point.h5")

    assert done.returncode == 2
    assert "--from has no point of sglang on mi355x; it has sglang on b200." in done.stderr
