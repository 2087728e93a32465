"""The tables on a terminal: they fit it, and explain what is on it."""

import dataclasses
import json

import pytest
from conftest import measured
from program import bench
from rows import CURVE, FAST, SERIES, row

from glm5bench.analysis.comparison import PUBLISHED_GRID, compared
from glm5bench.analysis.cost import Economy
from glm5bench.analysis.reasons import ADVICE, FLAGGED
from glm5bench.archive.collection import collect
from glm5bench.archive.pointfile import write_point
from glm5bench.report.screen import LINES, as_screen, one_table
from glm5bench.report.tables import NAMES, tables
from glm5bench.report.titles import titles
from glm5bench.settings.prices import power_table, price_table

PRICES = {"h200": 1.8, "b200": 3.6}
WIDTHS = (80, 100, 200)


def made(*rows, at=(25.0, 30.0, 40.0, 50.0), prices=PRICES):
    return tables(compared(rows, Economy(prices, {}), at=at, method="steffen"), price_id="mine", method="steffen")


def curve(series=SERIES, **more):
    return [row(x, y, c, series=series, **more) for x, y, c in CURVE]


@pytest.fixture(scope="module")
def published():
    rows = list(collect(["published"]).rows.values())
    economy = Economy(price_table("hyperscaler").usd_per_gpu_h, power_table())
    return tables(compared(rows, economy, at=PUBLISHED_GRID, method="steffen"), price_id="hyperscaler", method="steffen")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_default_output_fits_the_terminal_and_sixty_lines(published, width):
    lines = as_screen(published, width=width).splitlines()

    assert max(map(len, lines)) <= width
    assert len(lines) <= LINES == 60


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_one_table_fits_the_terminal(published, name, width):
    assert max(map(len, one_table(published, name, width=width).splitlines())) <= width


def test_many_series_of_two_workloads_fit_too():
    many = [dataclasses.replace(SERIES, variant=f"rate={i}", isl_tokens=1024 * (1 + i % 2)) for i in range(30)]
    text = as_screen(made(*(r for s in many for r in curve(s))), width=80)

    assert len(text.splitlines()) <= LINES
    assert max(map(len, text.splitlines())) <= 80
    assert "1 more table of other workloads or sources: `--table iso` prints all 2." in text
    assert "of 90 points: `--table frontier` prints all." in text


def test_costs_at_equal_interactivity_come_before_the_frontier():
    text = as_screen(made(*curve(), *curve(FAST)), width=100)

    assert text.index("Cost in $/Mtok at equal interactivity") < text.index("Frontier: ")


def test_a_column_is_explained_if_it_is_there_and_not_otherwise():
    without = as_screen(made(*curve(ttft_median_s=float("nan"))), width=200)
    with_p99 = as_screen(made(*curve(ttft_p99_s=1.5)), width=200)

    assert "TTFT" not in without
    assert "TTFT p99 ms" in with_p99
    assert "\nTTFT: time to first token" in with_p99
    assert "whole node" not in with_p99
    assert "×" not in with_p99
    assert "none:" not in with_p99


def test_a_flag_of_every_row_is_explained_once_with_advice_and_another_stands_in_its_row():
    all_ = as_screen(made(*curve(validity="flagged", reasons=("few_waves",))), width=100)
    rows = curve()
    rows[0] = dataclasses.replace(rows[0], validity="flagged", reasons=("drift",))
    one = as_screen(made(*rows), width=100)

    assert all_.count("few_waves") == 1
    assert " ".join(all_.split()).count("All 3 points are flagged few_waves: fewer than five requests a user. Advice: ") == 1
    assert one.count("drift") == 2  # in its row, and below
    assert f"Advice: {ADVICE['drift']}." in " ".join(one.split())


def test_every_flag_has_advice():
    assert ADVICE.keys() == FLAGGED.keys()


def test_what_was_not_measured_has_a_mark_that_is_explained():
    beyond = [row(x, y, c, series=FAST) for x, y, c in ((5.0, 3000.0, 128), (90.0, 900.0, 2))]
    text = as_screen(made(*curve(), *beyond, at=(10.0, 30.0, 70.0)), width=100)

    assert "c>64: not measured; it needs a concurrency above 64" in text
    assert "c<4: not measured; it needs a concurrency below 4" in text


def test_titles_contain_the_engine_and_the_source_only_where_they_differ():
    def titled(*series, with_source=False):
        rows = [{**dataclasses.asdict(s), "series": s.label} for s in series]
        return list(titles(rows, with_source=with_source).values())

    other = dataclasses.replace(SERIES, engine="vllm", speculative="off")

    assert titled(SERIES, FAST) == ["H200 FP8 MTP", "B200 FP8 MTP"]
    assert titled(SERIES, other) == ["H200 sglang FP8 MTP", "H200 vllm FP8 no MTP"]
    assert titled(SERIES, dataclasses.replace(FAST, source="published"), with_source=True) == ["H200 FP8 MTP", "B200 FP8 MTP, published"]


def test_own_points_come_before_published_ones():
    rows = (
        *curve(dataclasses.replace(SERIES, source="published")),
        *curve(dataclasses.replace(SERIES, source="simulated", time_scale=5.0)),
        *curve(),
    )

    assert [r["source"] for r in made(*rows).frontier] == ["measured"] * 3 + ["simulated"] * 3 + ["published"] * 3


def test_markdown_and_csv_are_complete_whatever_the_terminal(tmp_path):
    write_point(tmp_path / "p.h5", measured())
    narrow, wide = (bench(tmp_path, "tables", "p.h5", "--format", "md", COLUMNS=columns).stdout for columns in ("40", "300"))
    flat = json.loads(bench(tmp_path, "tables", "p.h5", "--format", "json").stdout)

    assert narrow == wide
    assert "steady" in narrow
    assert flat["points"]


def test_all_prints_every_table_that_there_is(tmp_path):
    write_point(tmp_path / "p.h5", measured())
    told = bench(tmp_path, "tables", "p.h5", "--all").stdout

    assert "\nPoints\n" in told


def test_flags_of_means_and_of_other_versions_are_explained_and_no_error():
    rows = [*curve(), row(40.0, 690.0, 16, 1), row(39.0, 650.0, 16, 2, validity="invalid")]
    strange = row(80.0, 100.0, 2, validity="flagged", reasons=("of_the_future",))
    text = as_screen(made(*rows, strange), width=200)

    assert "repeats_left_out: some repeats are invalid" in text
    assert "of_the_future: a flag of another version" in text
    assert as_screen(made(*rows, strange), width=200, is_whole=True)
