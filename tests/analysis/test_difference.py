"""Two sets of points: which settings differ, and which figures got better or worse beyond their intervals."""

import dataclasses
import json
import math

import numpy as np
import pytest
from conftest import measured, raw
from program import bench
from rows import CURVE, SERIES, row

from glm5bench.analysis.difference import difference, differing, settings_told
from glm5bench.archive.pointfile import write_point
from glm5bench.report.differing import as_words


def curve(factor=1.0, starts=1, spread=0.0, *, series=SERIES, **more):
    values = [1 + spread * (i - (starts - 1) / 2) for i in range(starts)]
    return [
        dataclasses.replace(row(x * v, y * factor * v, c, i, series=series), **more)
        for x, y, c in CURVE for i, v in enumerate(values)
    ]  # fmt: skip


def of(**settings):
    return dataclasses.replace(SERIES, **settings)


def words(d, figure="total_tput_per_gpu_tok_s"):
    return {c.word for c in d.changes if c.figure == figure}


def test_the_one_setting_that_differs_is_named_with_both_values():
    d = difference(curve(starts=3, series=of(engine_version="0.5.11")), curve(starts=3, series=of(engine_version="0.5.12")), tolerance=0.02)

    assert [(s.name, s.a, s.b) for s in d.settings] == [("engine_version", ("0.5.11",), ("0.5.12",))]
    assert as_words(d, tolerance=0.02).startswith("single variable: engine_version 0.5.11 -> 0.5.12\n")
    assert words(d) == {"same"}


def test_several_settings_are_counted():
    other = curve(series=of(engine_version="0.5.12", precision="nvfp4"))
    said = as_words(difference(curve(series=of(engine_version="0.5.11")), other, tolerance=0.02), tolerance=0.02)

    assert said.startswith("2 settings differ: engine_version 0.5.11 -> 0.5.12; precision fp8 -> nvfp4\n")


def test_another_number_of_requests_is_a_setting():
    one, other = (curve(series=of(protocol=f"requests={n}xC")) for n in (5, 10))

    assert [(s.name, s.a, s.b) for s in difference(one, other, tolerance=0.02).settings] == [
        ("requests", ("requests=5xC",), ("requests=10xC",))
    ]


@pytest.mark.parametrize(("factor", "word"), [(1.1, "better"), (0.9, "worse"), (1.01, "same"), (0.99, "same")])
def test_a_change_beyond_tolerance_and_interval_has_its_word(factor, word):
    a, b = curve(starts=4, spread=0.0005), curve(factor, starts=4, spread=0.0005)

    assert words(difference(a, b, tolerance=0.02)) == {word}


def test_what_the_starts_do_not_show_is_undecided_with_the_starts_that_would_decide():
    d = difference(curve(starts=3, spread=0.02), curve(0.93, starts=3, spread=0.02), tolerance=0.02)
    (change, *_) = [c for c in d.changes if c.figure == "total_tput_per_gpu_tok_s"]

    assert (change.word, change.low < 1 < change.high, d.is_worse) == ("undecided", True, False)
    more = difference(
        curve(starts=change.starts, spread=0.04 / change.starts),
        curve(0.93, starts=change.starts, spread=0.04 / change.starts),
        tolerance=0.02,
    )
    assert words(more) == {"worse"}
    assert f"undecided ({change.starts} starts each would decide)" in as_words(d, tolerance=0.02)


def test_identical_systems_are_undecided_where_the_tolerance_is_finer_than_the_noise():
    d = difference(curve(starts=3, spread=0.02), curve(starts=3, spread=0.02), tolerance=0.001)

    assert words(d) == {"undecided"}
    assert "more than 30 starts each would be needed" in as_words(d, tolerance=0.001)


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_one_start_on_a_side_decides_nothing(factor):
    d = difference(curve(), curve(factor, starts=3), tolerance=0.02)

    assert words(d) == {"undecided"}
    assert all(math.isnan(c.low) for c in d.changes)


def test_runs_of_one_start_decide_nothing():
    one_start = [dataclasses.replace(r, server_start="the only one") for r in curve(starts=3, spread=0.001)]

    assert words(difference(one_start, curve(0.5, starts=3, spread=0.001), tolerance=0.02)) == {"undecided"}


def test_more_comparisons_make_each_interval_wider():
    few, many = curve(starts=3, spread=0.02)[:3], curve(starts=3, spread=0.02)
    widths = [next(c.high - c.low for c in difference(rows, rows, tolerance=0.02).changes) for rows in (few, many)]

    assert widths[0] < widths[1]


def test_two_identical_systems_get_a_worse_in_at_most_5_of_100_calls():
    rng = np.random.default_rng(1)

    def measured_again():
        noise = 1 + 0.02 * rng.standard_normal((3, len(CURVE)))
        return [row(x * noise[s, i], y * noise[s, i], c, s) for i, (x, y, c) in enumerate(CURVE) for s in range(3)]

    assert np.mean([difference(measured_again(), measured_again(), tolerance=0.0).is_worse for _ in range(200)]) <= 0.05


def test_a_point_that_became_invalid_is_named_and_no_success():
    broken = [dataclasses.replace(r, validity="invalid") if r.concurrency == 4 else r for r in curve()]
    d = difference(curve(), broken, tolerance=0.02)

    assert ([r.concurrency for r in d.invalid_b], d.only_a, d.is_worse) == ([4], (), True)
    assert "invalid in B: measured h200 sglang fp8 mtp tp8 concurrency 4" in as_words(d, tolerance=0.02)


@pytest.mark.parametrize("figure", [math.nan, 0.0])
def test_a_pair_without_a_figure_in_common_is_named_and_no_success(figure):
    empty = [
        dataclasses.replace(r, digest="other", total_tput_per_gpu_tok_s=figure, interactivity_tok_s_user=figure, ttft_median_s=figure)
        for r in curve()
    ]
    d = difference(curve(), empty, tolerance=0.02)

    assert (len(d.unclear), d.changes, d.is_worse) == (3, (), True)


def test_an_arm_is_compared_with_its_successor_although_its_neighbour_has_none():
    a = [*curve(starts=3, series=of(variant="aaaa")), *curve(starts=3, series=of(variant="bbbb", hardware="b200"))]
    d = difference(a, curve(starts=3, series=of(variant="cccc")), tolerance=0.02)

    assert words(d) == {"same"}
    assert [(s.name, s.a, s.b) for s in d.settings] == [("variant", ("aaaa",), ("cccc",))]
    assert {r.series.hardware for r in d.only_a} == {"b200"}


def test_points_without_a_counterpart_are_named():
    d = difference(curve(), curve()[:2], tolerance=0.02)

    assert [r.concurrency for r in d.only_a] == [4]
    assert "only in A: measured h200 sglang fp8 mtp tp8 concurrency 4" in as_words(d, tolerance=0.02)


@pytest.mark.parametrize(("last_s", "code", "word"), [(5.0, 0, "same"), (6.0, 1, "worse")])
def test_the_exit_code_says_whether_something_got_worse(tmp_path, last_s, code, word):
    for name, last in (("a", 5.0), ("b", last_s)):
        run = raw([0.0] * 8, [1.0] * 8, [last] * 8, prompt=[100] * 8, out=[50] * 8, chunks=[[(1.0, 1), (last, 49)]] * 8)
        for start in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            write_point(
                tmp_path / name / f"{start}.h5",
                measured(f"{name}{start:019d}", requests=run, repeat=start, provenance={"server_start": f"{start}"}),
            )
    told = bench(tmp_path, "diff", "a", "b", "--json")
    words = {c["change"] for c in json.loads(told.stdout)["changes"] if c["figure"] == "total_tput_per_gpu_tok_s"}

    assert (told.returncode, words) == (code, {word}), told.stderr


def test_every_setting_that_the_points_record_is_compared(tmp_path):
    for name, prompts, chunk in (("a", 10, "8192"), ("b", 5, "16384")):
        recipe = {"argv": ["python3", "--model-path", name, "--chunked-prefill-size", chunk, "--trust-remote-code"], "env": {"X": name}}
        write_point(tmp_path / f"{name}.h5", measured(arm={"workload": {"prompts_per_concurrency": prompts}}, recipe=recipe))
    told = json.loads(bench(tmp_path, "diff", "a.h5", "b.h5", "--json").stdout)

    assert {s["name"]: (s["a"], s["b"]) for s in told["settings"]} == {
        "workload.prompts_per_concurrency": (["10"], ["5"]),
        "--chunked-prefill-size": (["8192"], ["16384"]),
        "env X": (["a"], ["b"]),
    }


def test_settings_of_each_role_are_compared():
    def point(decode_page):
        words = {"prefill": ["x", "--page-size", "32"], "decode": ["x", "--page-size", decode_page, "--dist-init-addr", "$HEAD"]}
        return {"recipe": {"argv": ["router"], "roles": [{"role": r, "recipe": {"argv": w, "env": {}}} for r, w in words.items()]}}

    (found,) = differing([settings_told(point("64"))], [settings_told(point("128"))])

    assert (found.name, found.a, found.b) == ("decode --page-size", ("64",), ("128",))


def test_what_the_engine_sets_by_itself_is_no_difference_to_a_flag_that_asks_for_it():
    asked = {"recipe": {"argv": ["x", "--enable-flashinfer-allreduce-fusion", "--max-running-requests", "48"]}}
    own = {"recipe": {"argv": ["x"]}, "set_by_engine": {"--enable-flashinfer-allreduce-fusion": True, "--max-running-requests": 48}}

    assert differing([settings_told(asked)], [settings_told(own)]) == ()


def test_one_start_each_is_undecided_and_exit_code_0(tmp_path):
    for name in ("a", "b"):
        write_point(tmp_path / f"{name}.h5", measured())
    told = bench(tmp_path, "diff", "a.h5", "b.h5")

    assert (told.returncode, "undecided" in told.stdout) == (0, True)


def test_nothing_to_compare_is_said_and_exit_code_1(tmp_path):
    write_point(tmp_path / "a.h5", measured())
    write_point(tmp_path / "b.h5", measured(concurrency=3))
    told = bench(tmp_path, "diff", "a.h5", "b.h5")

    assert told.returncode == 1
    assert "nothing can be compared" in told.stderr


def test_a_tolerance_that_is_no_number_is_wrong_usage(tmp_path):
    assert bench(tmp_path, "diff", "published", "published", "--tolerance", "nan").returncode == 2


def test_a_side_that_is_not_there_is_wrong_usage(tmp_path):
    told = bench(tmp_path, "diff", "nowhere", "published")

    assert (told.returncode, "nowhere does not exist" in told.stderr) == (2, True)
