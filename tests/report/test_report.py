"""The page without a browser, the figures, and the plot in the terminal."""

import dataclasses
import json
import re

import pytest
from program import bench
from rows import CURVE, ECONOMY, FAST, SERIES, row

from glm5bench.analysis.comparison import compared
from glm5bench.report.figures import write_figures
from glm5bench.report.page import Beside, grid_of, page
from glm5bench.report.readable import as_latex
from glm5bench.report.records import iso_row
from glm5bench.report.tables import tables
from glm5bench.report.terminal import frontier_plot

BESIDE = Beside("t", {"mine": {"h200": 1.8, "b200": 3.6}}, "mine", "steffen", "2026-11-21", "0.1.0")


@pytest.fixture(scope="module")
def made():
    rows = [row(x, y, c, i) for x, y, c in CURVE for i in range(3)] + [row(x, 3 * y, c, series=FAST) for x, y, c in CURVE]
    return compared(rows, ECONOMY, at=(30.0,), method="steffen")


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_has_everything_in_it(made):
    text = page(made, BESIDE, asked=(30.0,))

    assert "plotly.js v" in text
    assert re.findall(r'(?:src|href)="(?!#)[^"]+"', text.replace(text[text.index("plotly.js v") :], "")) == []
    assert not re.search(r"/\*(STYLE|PLOTLY|DATA|SCRIPT|TITLE)\*/", text)


def test_costs_in_the_page_are_for_a_gpu_at_one_dollar(made):
    data = data_of(page(made, BESIDE, asked=(30.0,)))
    at = data["grid"].index(30.0)

    for told in map(iso_row, made.iso):
        (series,) = [s["id"] for s in data["series"] if s["hardware"] == told["hardware"]]
        (of,) = [r for r in data["iso"] if r["series"] == series]
        price = BESIDE.prices["mine"][told["hardware"]]
        assert of["cost_usd_per_mtok"][at] * price == pytest.approx(told["cost_usd_per_mtok"])
        assert of["cost_usd_per_mtok_low"][at] is None or of["cost_usd_per_mtok_low"][at] * price == pytest.approx(
            told["cost_usd_per_mtok_low"]
        )


def test_the_slider_stops_at_round_interactivities_and_those_asked_for(made):
    stops = grid_of(made, (30.5, 400.0))

    assert stops == sorted({*map(float, range(1, 61)), 30.5})


def test_nothing_a_stranger_wrote_ends_the_script_that_holds_it(made):
    strange = Beside("</script><b>", BESIDE.prices, "mine", "steffen", "", "", bad=[("</script><script>/*SCRIPT*/", "<!--")])
    text = page(made, strange, asked=(30.0,))

    assert data_of(text)["bad"] == [{"path": "</script><script>/*SCRIPT*/", "reason": "<!--"}]
    assert "<b>" not in text[: text.index("<style>")]


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_figures_are_written_and_the_same_points_make_the_same_bytes(made, tmp_path, kind):
    one, other = (write_figures(made, tmp_path / name, [kind], price_id="mine") for name in ("a", "b"))

    assert [f.name for f in one] == [f"throughput.{kind}", f"cost.{kind}"]
    assert [f.read_bytes() for f in one] == [f.read_bytes() for f in other]


def test_the_terminal_shows_a_line_a_series_with_its_source(made):
    plot = frontier_plot(made.fronts, 100)

    assert "o⠤ B200 FP8 MTP" in plot.replace("⠤o⠤", "o⠤")
    assert "x⠤ H200 FP8 MTP" in plot.replace("⠤x⠤", "x⠤")
    assert max(map(len, plot.splitlines())) <= 100
    assert frontier_plot({}, 100) == frontier_plot(made.fronts, 100, "latin-1") == ""


def test_latex_escapes_and_keeps_remarks_as_comments(made):
    text = as_latex(tables(made, price_id="mine_1", method="steffen"))
    outside = re.sub(r"\\begin\{tabular\}.*?\\end\{tabular\}", "", text, flags=re.DOTALL)

    assert text.count("\\toprule") == text.count("\\bottomrule") > 3
    assert all(line.startswith("%") for line in outside.splitlines() if line)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("published", "-o", "r.html", "--format", "html,png"), "cannot be combined"),
        (("published", "-o", "r.html", "--format", "gif"), "--format gif"),
        (("nowhere", "-o", "r.html"), "nowhere does not exist"),
        (("published", "-o", "r.html", "--baseline", "h300"), "matches no series"),
    ],
)
def test_wrong_usage_is_said_and_nothing_is_written(tmp_path, arguments, said):
    told = bench(tmp_path, "report", *arguments)

    assert (told.returncode, said in told.stderr) == (2, True), told.stderr
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(("output", "form"), [("all.h5", "html"), (".", "html"), ("all.h5", "png")])
def test_what_is_no_page_is_not_overwritten(tmp_path, output, form):
    (tmp_path / "all.h5").write_bytes(b"an archive")
    told = bench(tmp_path, "report", "published", "-o", output, "--format", form)

    assert (told.returncode, "give -o another name" in told.stderr) == (2, True)
    assert (tmp_path / "all.h5").read_bytes() == b"an archive"


def test_a_page_that_stands_there_is_made_anew(tmp_path):
    codes = [bench(tmp_path, "report", "published", "-o", "r.html").returncode for _ in range(2)]

    assert codes == [0, 0]


def test_a_variant_stands_in_a_label_where_it_tells_two_series_apart(made):
    def labels(*variants):
        rows = [row(x, y, c, series=dataclasses.replace(SERIES, variant=v)) for v in variants for x, y, c in CURVE]
        return sorted(
            s["label"] for s in data_of(page(compared(rows, ECONOMY, at=(30.0,), method="steffen"), BESIDE, asked=(30.0,)))["series"]
        )

    assert labels("ac0d013b") == ["H200 FP8 MTP"]
    assert labels("ac0d013b rate=4") == ["H200 FP8 MTP rate=4"]
    assert labels("ac0d013b", "fb5968c4") == [
        "H200 FP8 MTP ac0d013b",
        "H200 FP8 MTP fb5968c4",
    ]


def test_figures_need_no_home_that_can_be_written(tmp_path):
    nowhere = {"HOME": "/proc", "XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": "", "MPLCONFIGDIR": "", "TMPDIR": str(tmp_path / "tmp")}
    done = bench(tmp_path, "report", "published", "-o", "figures", "--format", "svg", **nowhere)

    assert (done.returncode, done.stderr) == (0, "")
    assert not list((tmp_path / "tmp").glob("glm5bench-matplotlib-*"))
