"""Two sets of points over time: which settings differ, and what got better or worse beyond its interval."""

import dataclasses
import json
import math

import pytest
from conftest import measured, raw
from program import bench
from rows import CURVE, SERIES, row

from glm5bench.analysis.difference import difference
from glm5bench.report.differing import as_words
from glm5bench.store.pointfile import write_point

KNOWN = {"total_tput_per_gpu_se_tok_s": 5.0, "interactivity_se_tok_s_user": 0.1}


def curve(factor=1.0, repeats=1, spread=0.0, **more):
    values = [1 + spread * (i - (repeats - 1) / 2) for i in range(repeats)]
    return [dataclasses.replace(row(x * v, y * factor * v, c, i), **more) for x, y, c in CURVE for i, v in enumerate(values)]


def words(d, figure="total_tput_per_gpu_tok_s"):
    return {c.word for c in d.changes if c.figure == figure}


def test_the_one_setting_that_differs_is_named_with_both_values():
    d = difference(curve(engine_version="0.5.11"), curve(engine_version="0.5.12"), tolerance=0.02)

    assert [(s.name, s.a, s.b) for s in d.settings] == [("engine_version", ("0.5.11",), ("0.5.12",))]
    assert as_words(d, tolerance=0.02).startswith("single variable: engine_version 0.5.11 -> 0.5.12\n")
    assert words(d) == {"same"}


def test_several_settings_are_counted():
    other = curve(engine_version="0.5.12", series=dataclasses.replace(SERIES, precision="nvfp4"))
    said = as_words(difference(curve(engine_version="0.5.11"), other, tolerance=0.02), tolerance=0.02)

    assert said.startswith("2 settings differ: engine_version 0.5.11 -> 0.5.12; precision fp8 -> nvfp4\n")


@pytest.mark.parametrize(("factor", "word"), [(1.1, "better"), (0.9, "worse"), (1.01, "same"), (0.99, "same")])
def test_a_change_beyond_tolerance_and_interval_has_its_word(factor, word):
    assert words(difference(curve(**KNOWN), curve(factor, **KNOWN), tolerance=0.02)) == {word}


def test_a_change_within_the_interval_of_repeats_is_none():
    d = difference(curve(repeats=3, spread=0.1), curve(0.93, repeats=3, spread=0.1), tolerance=0.02)

    assert words(d) == {"same"}
    assert all(c.low < 1 < c.high for c in d.changes if c.figure == "total_tput_per_gpu_tok_s")


def test_the_same_change_is_one_with_closer_repeats():
    assert words(difference(curve(repeats=3, spread=0.002), curve(0.93, repeats=3, spread=0.002), tolerance=0.02)) == {"worse"}


def test_without_any_interval_the_tolerance_alone_decides():
    (change, *_) = difference(curve(), curve(0.9), tolerance=0.02).changes

    assert (change.word, math.isnan(change.low)) == ("worse", True)


def test_a_single_run_s_latency_is_unsure_and_a_repeated_one_is_not():
    slow = [dataclasses.replace(r, ttft_median_s=0.6) for r in curve()]
    slower = [dataclasses.replace(r, ttft_median_s=0.6 + 0.001 * r.repeat) for r in curve(repeats=3)]
    before = [dataclasses.replace(r, ttft_median_s=0.5 + 0.001 * r.repeat) for r in curve(repeats=3)]

    assert words(difference(curve(), slow, tolerance=0.02), "ttft_median_s") == {"unsure"}
    assert words(difference(before, slower, tolerance=0.02), "ttft_median_s") == {"worse"}


def test_a_point_that_became_invalid_is_named_and_no_success():
    broken = [dataclasses.replace(r, validity="invalid") if r.concurrency == 4 else r for r in curve()]
    d = difference(curve(), broken, tolerance=0.02)

    assert ([r.concurrency for r in d.invalid_b], d.only_a, d.is_worse) == ([4], (), True)
    assert "invalid in B: measured h200 sglang fp8 mtp tp8 concurrency 4" in as_words(d, tolerance=0.02)


@pytest.mark.parametrize("figure", [math.nan, 0.0])
def test_a_pair_without_a_figure_in_common_is_named_and_no_success(figure):
    empty = [
        dataclasses.replace(r, total_tput_per_gpu_tok_s=figure, interactivity_tok_s_user=figure, ttft_median_s=figure) for r in curve()
    ]
    d = difference(curve(), empty, tolerance=0.02)

    assert (len(d.unclear), d.changes, d.is_worse) == (3, (), True)


def test_several_measurements_of_one_configuration_are_all_compared():
    twice = [*curve(), *(dataclasses.replace(r, digest="other") for r in curve(0.5))]

    assert words(difference(curve(), twice, tolerance=0.02)) == {"same", "worse"}


def test_points_without_a_counterpart_are_named():
    d = difference(curve(), curve()[:2], tolerance=0.02)

    assert [r.concurrency for r in d.only_a] == [4]
    assert "only in A: measured h200 sglang fp8 mtp tp8 concurrency 4" in as_words(d, tolerance=0.02)


@pytest.mark.parametrize(("last_s", "code"), [(5.0, 0), (6.0, 1)])
def test_the_exit_code_says_whether_something_got_worse(tmp_path, last_s, code):
    for name, last in (("a", 5.0), ("b", last_s)):
        run = raw([0.0] * 8, [1.0] * 8, [last] * 8, prompt=[100] * 8, out=[50] * 8, chunks=[[(1.0, 1), (last, 49)]] * 8)
        write_point(tmp_path / f"{name}.h5", measured(requests=run))
    told = bench(tmp_path, "diff", "a.h5", "b.h5", "--json")
    words = {c["change"] for c in json.loads(told.stdout)["changes"] if c["figure"] == "total_tput_per_gpu_tok_s"}

    assert (told.returncode, words) == (code, {"worse" if code else "same"}), told.stderr


def test_nothing_to_compare_is_said_and_exit_code_1(tmp_path):
    write_point(tmp_path / "a.h5", measured())
    write_point(tmp_path / "b.h5", measured(concurrency=3))
    told = bench(tmp_path, "diff", "a.h5", "b.h5")

    assert told.returncode == 1
    assert "nothing could be compared" in told.stderr


def test_a_tolerance_that_is_no_number_is_wrong_usage(tmp_path):
    assert bench(tmp_path, "diff", "published", "published", "--tolerance", "nan").returncode == 2


def test_a_side_that_is_not_there_is_wrong_usage(tmp_path):
    told = bench(tmp_path, "diff", "nowhere", "published")

    assert (told.returncode, "There is no nowhere" in told.stderr) == (2, True)
