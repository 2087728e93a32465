"""Tables as Markdown, CSV and JSON: the same figures, each with its definition."""

import csv
import dataclasses
import io
import json
import math

import pytest
from conftest import measured

import glm5bench.report.readable
from glm5bench.analysis.comparison import compared
from glm5bench.analysis.cost import Economy
from glm5bench.analysis.rows import Row, Series
from glm5bench.archive.summary import row_of
from glm5bench.errors import UsageError
from glm5bench.report.readable import DEFINITIONS, ISO_DEFINITION, as_markdown
from glm5bench.report.records import point_row
from glm5bench.report.tables import NAMES, as_csv, as_json, only, tables

CHEAP = Series("measured", "h200", "sglang", "zai-org/GLM-5-FP8", "fp8", "mtp", 8192, 1024)
FAST = dataclasses.replace(CHEAP, hardware="b200")
ECONOMY = Economy({"h200": 1.8, "b200": 3.6, "b300": None}, {"h200": 1.0, "b200": 2.0})


def row(series, interactivity, throughput, *, tp=8, concurrency=None, **other):
    users = concurrency or round(10_000 / interactivity)
    made = Row(
        series, "k" * 20, "d" * 64, tp, tp, 8, users, 0, 0, "arm", 4, throughput, math.nan, throughput / 9,
        interactivity, 1 / interactivity, 0.25, math.nan, 40, "valid", (), "o",
    )  # fmt: skip
    return dataclasses.replace(made, **other)


def made(*rows, at=(20.0, 30.0, 50.0), economy=ECONOMY):
    return tables(compared(rows, economy, at=at, method="steffen"), price_id="mine", method="steffen")


TWO = (row(FAST, 20, 4000, tp=4), row(FAST, 40, 2000, tp=4), row(CHEAP, 60, 500), row(CHEAP, 20, 1000))


def cells(markdown, heading, after=""):
    """The first table below a heading (and a text after it): column names, and rows of stripped cells."""
    section = markdown.split(f"## {heading}", 1)[1].split("## ")[0].split(after or "\n\n", 1)[1]
    section = section[section.index("|") :].split("\n\n")[0]
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_milliseconds_begin_here():
    flat = point_row(row(CHEAP, 20, 1000), ECONOMY)

    assert (flat["tpot_ms"], flat["ttft_median_ms"]) == (50.0, 250.0)


def test_a_point_costs_its_gpus_and_beside_it_its_node():
    flat = point_row(row(CHEAP, 20, 1000, tp=4), ECONOMY)

    assert (flat["cost_usd_per_mtok"], flat["node_cost_usd_per_mtok"]) == (pytest.approx(0.5), pytest.approx(1.0))


def test_a_figure_that_a_source_does_not_give_is_none():
    flat = point_row(row(dataclasses.replace(CHEAP, hardware="b300"), 20, 1000), ECONOMY)

    assert all(flat[name] is None for name in ("input_tput_per_gpu_tok_s", "ttft_p99_ms", "cost_usd_per_mtok", "tput_per_mw_tok_s"))


def test_points_are_sorted_by_hardware_tp_and_concurrency():
    t = made(row(CHEAP, 20, 1000, concurrency=64), row(CHEAP, 60, 500, concurrency=4), row(FAST, 20, 4000), row(FAST, 10, 5000, tp=4))

    assert [(r["hardware"], r["tp"], r["concurrency"]) for r in t.points] == [
        ("b200", 4, 1000), ("b200", 8, 500), ("h200", 8, 4), ("h200", 8, 64),
    ]  # fmt: skip


def test_the_order_of_the_points_does_not_depend_on_the_order_of_the_files():
    told_apart = [dataclasses.replace(r, digest=f"{i:064d}") for i, r in enumerate(TWO)]

    assert as_markdown(made(*told_apart)) == as_markdown(made(*told_apart[::-1]))


def test_dominated_and_invalid_points_are_listed_and_not_on_the_frontier():
    t = made(*TWO, row(CHEAP, 15, 900), row(CHEAP, 80, 900, validity="invalid", reasons=("failed_requests",)))

    assert (len(t.points), len(t.frontier)) == (6, 4)
    assert [r["reasons"] for r in t.points if r["validity"] == "invalid"] == ["failed_requests"]


def test_json_is_one_object_with_every_table():
    read = json.loads(as_json(made(*TWO)))

    assert {name: len(read[name]) for name in NAMES[:5]} == {"points": 4, "frontier": 4, "arms": 0, "iso": 6, "bands": 1}


def test_json_has_no_nan():
    assert "NaN" not in as_json(made(row(CHEAP, 20, math.nan), *TWO))


def test_csv_of_one_table_reads_back_without_a_heading():
    t = made(*TWO)
    read = list(csv.DictReader(io.StringIO(as_csv(only(t, "points")))))

    assert [float(r["cost_usd_per_mtok"]) for r in read] == [r["cost_usd_per_mtok"] for r in t.points]


def test_csv_of_several_tables_names_each():
    lines = as_csv(made(*TWO)).splitlines()

    assert [line for line in lines if line.startswith("#")] == ["# points", "# frontier", "# iso", "# bands"]


def test_only_one_table_is_left_where_one_is_asked_for():
    t = only(made(*TWO), "iso")

    assert (t.points, t.frontier, len(t.iso), t.price_id) == ([], [], 6, "mine")


def test_markdown_rounds_and_keeps_a_cent():
    (first, *_) = [r for r in cells(as_markdown(made(*TWO)), "Points") if r["hardware"] == "h200" and r["tok/s/user"] == "20.00"]

    assert (first["total tok/s/GPU"], first["TPOT ms"], first["TTFT ms"], first["$/Mtok"]) == ("1000.0", "50.00", "250", "0.50")


def test_every_definition_and_the_prices_stand_under_the_tables():
    text = as_markdown(made(*TWO))

    assert all(definition in text for definition in (*DEFINITIONS, ISO_DEFINITION))
    assert "- prices: mine, $ per GPU and hour: b200 3.6, h200 1.8" in text


def test_simulated_points_say_so_and_their_time_scale():
    simulated = dataclasses.replace(CHEAP, source="simulated")
    text = as_markdown(made(row(dataclasses.replace(simulated, time_scale=20.0), 20, 1000)))

    assert cells(text, "Points")[0]["source"] == "simulated ×20"
    assert "at time scale 20, in simulated time; nothing of them was measured on a GPU" in text


def test_measured_points_are_not_called_simulated():
    assert "simulated" not in as_markdown(made(*TWO))


def test_an_invalid_point_tells_why():
    text = as_markdown(made(row(CHEAP, 20, 900, validity="invalid", reasons=("failed_requests", "client_lag"))))

    assert cells(text, "Points")[0]["validity"] == "invalid (failed_requests,client_lag)"


def test_the_iso_table_has_a_line_an_interactivity_and_a_column_a_series():
    (at_20, at_30, at_50) = cells(as_markdown(made(*TWO)), "Iso-interactivity")

    assert (at_20["h200 sglang fp8 mtp"], at_20["b200 sglang fp8 mtp"]) == ("0.50", "0.25, whole node 0.50")
    assert at_30["h200 sglang fp8 mtp"].endswith(" (i)")
    assert (at_50["tok/s/user"], at_50["b200 sglang fp8 mtp"]) == ("50", "not measured (below concurrency 250)")


def test_a_ratio_to_the_baseline_stands_where_both_are_reached_only():
    ratios = cells(as_markdown(made(*TWO)), "Iso-interactivity", "perf/$ against h200 sglang fp8 mtp")

    assert ratios[0]["b200 sglang fp8 mtp"] == "2.00×, whole node 1.00×"
    assert [r["tok/s/user"] for r in ratios] == ["20", "30"]
    assert "h200 sglang fp8 mtp" not in ratios[0]


def test_a_ratio_of_several_steps_shows_them():
    fine = dataclasses.replace(FAST, precision="nvfp4", checkpoint="nvidia/GLM-5-NVFP4")
    (at_20,) = cells(as_markdown(made(*TWO, row(fine, 20, 10000), at=(20.0,))), "Iso-interactivity", "perf/$")

    assert at_20["b200 sglang nvfp4 mtp"] == "5.00× = hardware 2.00× × precision 2.50×"


def test_an_interactivity_without_a_price_says_so_and_no_number():
    free = dataclasses.replace(CHEAP, hardware="b300")
    (at_20,) = cells(as_markdown(made(row(free, 20, 1000), at=(20.0,))), "Iso-interactivity")

    assert at_20["b300 sglang fp8 mtp"] == "no price"


def test_text_from_an_archive_is_harmless_in_a_table():
    text = as_markdown(made(row(dataclasses.replace(CHEAP, engine="x|y\x1b[31m"), 20, 1000)))

    assert "\x1b" not in text
    assert "x\\|y?[31m" in text


def test_workloads_have_iso_tables_of_their_own():
    short = dataclasses.replace(CHEAP, isl_tokens=1024)
    text = as_markdown(made(*TWO, row(short, 20, 700)))

    assert [line for line in text.splitlines() if line.startswith("## Iso")] == [
        "## Iso-interactivity: measured, GLM-5, 1024/1024 over completions, fixed lengths, interpolation steffen",
        "## Iso-interactivity: measured, GLM-5, 8192/1024 over completions, fixed lengths, interpolation steffen",
    ]


def test_two_checkpoints_of_one_precision_do_not_share_a_column():
    other = dataclasses.replace(FAST, checkpoint="zai-org/GLM-5.2-FP8")
    (at_20,) = cells(as_markdown(made(*TWO, row(other, 20, 8000), at=(20.0,))), "Iso-interactivity")

    assert sorted(v for name, v in at_20.items() if name.startswith("b200")) == ["0.12", "0.25, whole node 0.50"]


def test_an_interactivity_that_no_series_has_is_left_out():
    assert [r["tok/s/user"] for r in cells(as_markdown(made(*TWO, at=(5.0, 20.0, 900.0))), "Iso-interactivity")] == ["20"]
    assert "no series was measured at these interactivities" in as_markdown(made(*TWO, at=(900.0,)))


def test_series_that_differ_in_their_image_have_names_that_say_so():
    image = dataclasses.replace(CHEAP, image="lmsysorg/sglang:v0.5.13@sha256:" + "a" * 64)
    t = made(row(CHEAP, 20, 1000), row(image, 20, 1100))

    assert {r["series"] for r in t.points} == {
        "h200 sglang fp8 mtp unknown image", "h200 sglang fp8 mtp lmsysorg/sglang:v0.5.13@aaaaaaaaaaaa",
    }  # fmt: skip
    assert {r["served by"] for r in cells(as_markdown(t), "Points")} == {"unknown image", "lmsysorg/sglang:v0.5.13@aaaaaaaaaaaa"}
    assert set(cells(as_markdown(t), "Iso-interactivity")[0]) >= {r["series"] for r in t.points}


def test_the_words_of_a_series_name_choose_it_as_the_baseline():
    new = dataclasses.replace(CHEAP, image="lmsysorg/sglang:v0.5.13", engine_version="0.5.13")
    old = dataclasses.replace(CHEAP, image="lmsysorg/sglang:v0.5.12", engine_version="0.5.12")
    rows = (row(old, 20, 1000), row(new, 20, 1100))

    for words in ("h200 fp8 mtp 0.5.12", "h200 lmsysorg/sglang:v0.5.12"):
        made_of = compared(rows, ECONOMY, at=(20.0,), method="steffen", baseline=words)
        assert [r.series for r in made_of.iso if r.is_baseline] == [old]
    with pytest.raises(UsageError, match="matches 2 series") as raised:
        compared(rows, ECONOMY, at=(20.0,), method="steffen", baseline="h200 fp8 mtp")
    assert "h200 sglang fp8 mtp 0.5.12 lmsysorg/sglang:v0.5.12" in raised.value.next_step


def test_a_series_of_mixed_numbers_of_requests_is_divided_and_one_with_a_rule_is_not():
    users = ((4, 20, 1000), (8, 15, 1500), (16, 10, 2000))

    def series(numbers):
        return {
            r["series"]
            for r in made(*(row(CHEAP, x, y, concurrency=c, n_requests=n) for (c, x, y), n in zip(users, numbers, strict=True))).points
        }

    assert series((40, 80, 160)) == series((512, 512, 512)) == {"h200 sglang fp8 mtp"}
    assert series((20, 80, 512)) == {f"h200 sglang fp8 mtp requests={n}xC" for n in (5, 10, 32)}


def test_every_interval_of_a_table_names_its_level():
    starts = [row(CHEAP, x * f, y * f, concurrency=c, repeat=i, server_start=str(i)) for c, x, y in ((8, 40, 700), (64, 20, 1000))
              for i, f in enumerate((0.99, 1.0, 1.01))]  # fmt: skip
    t = made(*starts, at=(30.0,))

    assert {r["interval"] for r in cells(as_markdown(t), "Frontier")} == {"3 starts"}
    assert cells(as_markdown(t), "Iso-interactivity")[0]["h200 sglang fp8 mtp"].endswith("] starts (i)")
    assert [r["interval"] for r in t.iso] == ["starts"]


def test_tables_of_nothing_hold_definitions_only():
    text = as_markdown(made())

    assert "## " not in text
    assert as_csv(made()) == ""


def test_a_packed_arm_pays_for_its_half_of_the_node_and_an_unpacked_one_for_all_of_it():
    half, whole = (row_of(measured(tp=4, gpus=4, packed=lanes), "d", "o") for lanes in (2, 1))

    assert (half.gpus_per_node, whole.gpus_per_node) == (4, 8)


def test_points_too_many_to_read_are_counted_and_asked_for_by_name(monkeypatch):
    monkeypatch.setattr(glm5bench.report.readable, "READABLE", 3)

    assert "4 points, too many to read: `--table points` prints them all" in as_markdown(made(*TWO))
    assert len(cells(as_markdown(only(made(*TWO), "points")), "Points")) == 4


def test_series_of_which_nobody_knows_whether_their_workloads_are_the_same_have_no_ratio():
    rows = [row(dataclasses.replace(s, range_ratio=-1.0), 20, y) for s, y in ((CHEAP, 1000), (FAST, 4000))]
    text = as_markdown(made(*rows, at=(20.0,)))

    assert "perf/$ against" not in text
    assert "at which a token costs" not in text


def test_each_arm_of_a_series_with_several_tps_has_a_frontier_of_its_own():
    wide, narrow, beaten = row(CHEAP, 60, 300, tp=8), row(CHEAP, 20, 1000, tp=4), row(CHEAP, 15, 500, tp=8)
    t = made(wide, narrow, beaten, at=(20.0,))

    assert [(r["tp"], r["interactivity_tok_s_user"]) for r in t.frontier] == [(4, 20), (8, 60)]
    assert [(r["tp"], r["interactivity_tok_s_user"]) for r in t.arms] == [(4, 20), (8, 15), (8, 60)]
    assert [r["TP"] for r in cells(as_markdown(t), "Frontier of each arm")] == ["4", "8", "8"]
