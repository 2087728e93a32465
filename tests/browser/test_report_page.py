"""The report in a real Chromium without a network: its content, its controls, and text from untrusted files."""

import dataclasses
import json

import pytest
from agents import point
from conftest import measured, power_of, three_requests
from program import bench
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from glm5bench.archive.pointfile import write_point


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    made = bench(folder, "report", "published", "-o", "r.html")
    assert made.returncode == 0, made.stderr
    tables = json.loads(bench(folder, "tables", "published", "--format", "json").stdout)
    return folder / "r.html", tables


@pytest.fixture
def page(chromium, published):
    chromium.errors()
    return chromium.open(published[0])


def stop_of(page, x):
    """Moves the slider to an interactivity."""
    i = page.run("return JSON.parse(document.getElementById('data').textContent).grid.indexOf(arguments[0])", x)
    page.set("at", i, "input")


def test_it_loads_without_a_network_and_without_an_error(page):
    assert page.errors() == []
    assert page.run("return document.querySelectorAll('.plot .main-svg').length") > 0
    assert page.run("return performance.getEntriesByType('resource').length") == 0


def test_it_says_what_was_published(page):
    stop_of(page, 80)
    rows = {row[0]: row for row in page.cells("iso-table")}
    best = rows["B200 NVFP4 MTP, published"]
    bands = {(row[0], row[1]): row[2:5] for row in page.cells("bands-table")}

    assert (best[6], best[8], best[9]) == ("3.65×", "1.82×", "hardware 1.22× × precision 2.98× (also checkpoint, tp)")
    assert bands["B200 NVFP4 MTP, published, 8192/1024", "H200 FP8 MTP, published"] == ["3.65×", "80", "3.24× to 3.65×"]
    assert ("MI355X FP8 MTP, published, 8192/1024", "B200 FP8 MTP, published") in bands
    assert ("MI355X FP8 no MTP, published, 8192/1024", "B200 FP8 no MTP, published") in bands
    assert any(row[:3] == ["B200 FP8 no MTP, published, 2048/512", "8", "128"] for row in page.cells("saturation-table"))
    assert "mtp_vs_off_b200_fp4_1k1k" in page.run("return document.getElementById('sources').textContent")


def title(row):
    """The name of a published series on the page."""
    speculative = "no MTP" if row["speculative"] == "off" else row["speculative"].upper()
    return f"{row['hardware'].upper()} {row['precision'].upper()} {speculative}, published"


@pytest.mark.parametrize("x", [25.0, 80.0, 120.0])
def test_its_numbers_are_those_of_tables(page, published, x):
    stop_of(page, x)
    rows = {row[0].removesuffix(" (baseline)"): row for row in page.cells("iso-table")}

    for told in (r for r in published[1]["iso"] if r["interactivity_tok_s_user"] == x and r["isl_tokens"] == 8192):
        row = rows[title(told)]
        cost = told["cost_usd_per_mtok"]
        assert row[1] == (told["status"] if cost is None else f"{cost:.3f}")
        node = told["node_cost_usd_per_mtok"]
        assert row[3] == ("" if node is None else f"{node:.3f}")
        assert row[4] == ("" if cost is None else f"{told['total_tput_per_gpu_tok_s']:.1f}")
        ratio = told["perf_per_dollar_vs_baseline"]
        assert row[6] == ("" if ratio is None or told["is_baseline"] else f"{ratio:.2f}×")


def test_another_price_set_changes_costs_as_tables_do(page, published, tmp_path):
    page.set("price", "rental")
    stop_of(page, 80)
    told = json.loads(
        bench(tmp_path, "tables", "published", "--format", "json", "--at", "80", "--price", "rental", "--baseline", "h200 fp8 mtp").stdout
    )
    rows = {row[0].removesuffix(" (baseline)"): row for row in page.cells("iso-table")}

    for r in told["iso"]:
        if r["isl_tokens"] == 8192 and r["cost_usd_per_mtok"] is not None:
            row = rows[title(r)]
            assert row[1] == f"{r['cost_usd_per_mtok']:.3f}"
            assert row[6] == ("" if r["is_baseline"] else f"{r['perf_per_dollar_vs_baseline']:.2f}×")


def test_the_slider_moves_by_the_keyboard_and_the_table_with_it(page):
    before = page.cells("iso-table")
    slider = page.driver.find_element(By.ID, "at")
    value = page.run("return document.getElementById('at').value")
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)

    assert int(page.run("return document.getElementById('at').value")) == int(value) + 2
    assert page.cells("iso-table") != before
    assert "tok/s/user" in page.run("return document.getElementById('at').getAttribute('aria-valuetext')")


def test_an_arm_that_is_picked_off_leaves_figures_and_table(page):
    drawn = page.run("return document.getElementById('cost').data.length")
    page.driver.find_element(By.CSS_SELECTOR, "#arms input").click()

    assert page.run("return document.getElementById('cost').data.length") == drawn - 2
    assert "B200 NVFP4 MTP, published" not in [row[0] for row in page.cells("iso-table")]


def test_another_workload_shows_its_own_arms(page):
    options = page.run("return [...document.getElementById('workload').options].map(o => o.value)")
    (vllm,) = [o for o in options if "2048/512" in o]
    page.set("workload", vllm)

    assert page.run("return [...document.querySelectorAll('#arms label .name')].map(l => l.textContent)") == ["B200 FP8 no MTP, published"]


def test_axes_become_logarithmic(page):
    page.set("log-x", True)
    page.set("log-y", False)

    assert page.run("const l = document.getElementById('cost').layout; return [l.xaxis.type, l.yaxis.type]") == ["log", "linear"]


def test_hovering_a_point_shows_its_recipe(page):
    x, y = page.run(
        "const g = document.getElementById('throughput'), t = g.data[1], l = g._fullLayout, b = g.getBoundingClientRect();"
        "return [b.left + l.xaxis._offset + l.xaxis.d2p(t.x[0]), b.top + l.yaxis._offset + l.yaxis.d2p(t.y[0])]"
    )
    ActionChains(page.driver).move_by_offset(0, 0).perform()
    page.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x - 30, "y": y - 30})
    page.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})
    said = page.until("const h = document.querySelector('#throughput .hovertext'); return h && h.textContent")

    assert "B200 NVFP4 MTP, published" in said
    assert "nvidia/GLM-5-NVFP4" in said
    assert "not_recomputable" in said


def test_the_limit_of_the_hardware_is_above_what_was_measured(page):
    page.set("limit", True)
    traces = page.run("return document.getElementById('throughput').data.map(t => [t.name, t.x, t.y])")
    limits = [t for t in traces if t[0] == "limit"]
    measured_most = max(max(t[2]) for t in traces if t[0] != "limit" and t[2])

    assert limits
    assert max(max(t[2]) for t in limits) > measured_most


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(page, scheme):
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    ink, paper = page.run("const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]")
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    def luminance(text):
        parts = [int(p) / 255 for p in text[4:-1].split(",")]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    bright, faint = sorted((luminance(ink), luminance(paper)), reverse=True)
    assert (bright + 0.05) / (faint + 0.05) > 7


def test_every_control_has_a_name_and_every_figure_a_description(page):
    nameless = page.run(
        "const named = (e) => e.labels.length || e.getAttribute('aria-label');"
        "return [...document.querySelectorAll('select, input')].filter(e => !named(e)).map(e => e.id)"
    )
    assert nameless == []
    assert page.run("return [...document.querySelectorAll('.plot')].every(e => e.getAttribute('aria-label'))")


HOSTILE = "<script>window.hit=1</script><img src=x onerror='window.hit=1'>\x1b[31m\u202e/*SCRIPT*/</textarea>"


def test_what_strangers_wrote_is_shown_as_text(chromium, tmp_path):
    names = ("engine", "checkpoint", "model", "speculative", "precision", "variant", "image", "engine_version")
    strange = dict.fromkeys(names, HOSTILE)
    told = {"host": HOSTILE, "job_id": HOSTILE, "argv": ["python3", HOSTILE]}
    for hardware in ("b200", "h200"):
        write_point(
            tmp_path / f"{hardware}.h5", measured(hardware.ljust(20, "0"), provenance=told, log=HOSTILE, hardware=hardware, **strange)
        )
    (tmp_path / "bad<script>window.hit=1<script>.h5").write_bytes(b"no HDF5")
    made = bench(tmp_path, "report", ".", "-o", "r.html", "--title", HOSTILE)
    page = chromium.open(tmp_path / "r.html")
    page.until("return document.getElementById('facts').textContent.includes('onerror')")

    assert made.returncode == 1
    assert page.run("return window.hit === undefined")
    assert page.run("return document.querySelectorAll('img, textarea').length") == 0
    assert "<script>window.hit=1</script>" in page.run("return document.getElementById('title').textContent")
    assert not {"\x1b", "\u202e"} & set(page.run("return document.body.textContent"))
    assert "onerror" in page.run("return document.getElementById('notes').textContent + document.getElementById('iso-table').textContent")
    assert "bad<script>" in page.run("return document.getElementById('invalid-table').textContent")
    assert page.errors() == []


def test_a_simulated_point_says_so_and_has_its_times(chromium, tmp_path):
    load = ("workload.isl_tokens=512", "workload.osl_tokens=64", "workload.prompts_per_concurrency=3", "workload.warmups_per_concurrency=0")
    simulated = ("engine=simulated", "engine.time_scale=20", *load, "concurrency=2,4", "name=c", "wait=true")
    assert bench(tmp_path, "sweep", *simulated).returncode == 0
    assert bench(tmp_path, "report", "outputs", "published", "-o", "r.html").returncode == 0
    page = chromium.open(tmp_path / "r.html")
    (workload,) = page.run(
        "return [...document.getElementById('workload').options].map(o => o.value).filter(v => v.startsWith('simulated'))"
    )
    page.set("workload", workload)

    assert "simulated: a model's figures" in page.run("return document.getElementById('notes').textContent")
    assert "side by side" in page.run("return document.getElementById('notes').textContent")
    assert page.run("return document.querySelector('#arms label .name').textContent").endswith(", simulated")
    assert page.run("return document.getElementById('distribution').data.length") == 2
    assert max(page.run("return document.getElementById('timeline').data[0].y")) >= 2
    assert "glm5bench.simulator" in page.run("return document.getElementById('facts').textContent")
    assert page.run("return document.getElementById('throughput').data[0].line.dash") == "dot"


def test_a_page_of_invalid_points_alone_says_why_and_draws_nothing(chromium, tmp_path):
    write_point(tmp_path / "a.h5", measured(requests=three_requests(error=["", "cut", ""])))
    assert bench(tmp_path, "report", "a.h5", "-o", "r.html").returncode == 0
    page = chromium.open(tmp_path / "r.html")

    assert "failed_requests" in page.run("return document.getElementById('invalid-table').textContent")
    assert page.cells("iso-table") == []
    assert page.errors() == []


def test_a_gpu_without_a_price_is_not_free(chromium, tmp_path):
    for key, hardware in (("a", "a100"), ("b", "b200")):
        write_point(tmp_path / f"{key}.h5", measured(key * 20, hardware=hardware))
    assert bench(tmp_path, "report", ".", "-o", "r.html").returncode == 0
    page = chromium.open(tmp_path / "r.html")
    rows = {row[0]: row for row in page.cells("iso-table")}

    assert rows["A100 FP8 MTP"][1:3] == ["no price", ""]
    assert rows["A100 FP8 MTP"][6] == ""
    assert page.run("return document.getElementById('cost').data.filter(t => t.name.includes('a100')).every(t => t.y.length === 0)")


def test_workloads_that_tables_hold_apart_are_apart(chromium, tmp_path):
    for key, hardware in (("a", "h200"), ("b", "b200")):
        write_point(tmp_path / f"{key}.h5", measured(key * 20, hardware=hardware, range_ratio=None))
    assert bench(tmp_path, "report", ".", "-o", "r.html").returncode == 0
    page = chromium.open(tmp_path / "r.html")

    assert len(page.run("return [...document.getElementById('workload').options].map(o => o.value)")) == 2
    assert [len(page.cells("iso-table")), page.cells("iso-table")[0][6]] == [1, ""]


def test_what_has_a_figure_of_many_points_is_drawn_without_webgl(chromium, tmp_path):
    for i in range(420):
        write_point(tmp_path / f"{i}.h5", measured(f"{i:020x}", seed=i))
    assert bench(tmp_path, "report", ".", "-o", "r.html").returncode == 0
    page = chromium.open(tmp_path / "r.html")

    assert page.run("return document.querySelectorAll('#throughput .points path').length") == 420
    assert page.errors() == []


GPUS = [f"GPU-{i}" for i in range(8)]
TOLD = {"host": "gpu001", "job_id": "7", "telemetry": {"devices": [{"uuid": d} for d in GPUS], "period_s": 1.0, "why_none": ""}}
FAILED = {
    "task": "gsm8k", "threshold": 0.94, "runs": [{
        "concurrency": 4, "n_questions": 1319, "n_empty": 0, "strict": 0.9, "strict_low": 0.88, "strict_high": 0.92,
        "flexible": 0.9, "flexible_low": 0.88, "flexible_high": 0.92,
    }],
}  # fmt: skip


def test_what_was_read_beside_the_load_is_drawn_and_told_as_tables_tell_it(chromium, tmp_path):
    server = {"startup": {"start_s": 900.0, "load_s": 600.0, "kv_tokens": 90.0, "kv_tokens_predicted": 100.0}, "accuracy": FAILED}
    beside = power_of(700.0, devices=GPUS, kv_usage=0.5)
    write_point(tmp_path / "p.h5", measured(provenance=TOLD, server=server, telemetry=beside, concurrency=2))
    assert bench(tmp_path, "report", "p.h5", "-o", "r.html").returncode == 0
    told = json.loads(bench(tmp_path, "tables", "p.h5", "--format", "json").stdout)
    page = chromium.open(tmp_path / "r.html")
    (energy,), (start,) = page.cells("energy-table"), page.cells("startup-table")
    lines = page.run("return ['power-line', 'cache-line'].map(id => document.getElementById(id).data[0].y)")

    assert page.errors() == []
    assert (energy[3], energy[4]) == ("700", f"{told['energy'][0]['energy_per_output_token_j']:.2f}")
    assert (start[3], start[5], start[8]) == ("900", "600", f"{told['startup'][0]['start_cost_usd']:.2f}")
    assert {round(y) for y in lines[0]} == {5600}
    assert {round(y) for y in lines[1]} == {50}
    assert "B200 FP8 MTP (accuracy failed)" in page.run("return document.getElementById('arms').textContent")
    assert "at TP 8 failed its accuracy gate: 0.900" in page.run("return document.getElementById('notes').textContent")


def test_a_point_beside_which_nothing_was_read_shows_no_empty_frames(chromium, tmp_path):
    write_point(tmp_path / "p.h5", measured())
    bench(tmp_path, "report", "p.h5", "-o", "r.html")
    page = chromium.open(tmp_path / "r.html")

    assert page.run("return ['power-line', 'cache-line', 'energy', 'startup'].map(id => document.getElementById(id).hidden)") == [True] * 4
    assert page.run("return document.getElementById('point-fine').textContent") == "No power was read beside it."


def test_the_page_opens_on_the_users_own_workload_and_lists_it_first(chromium, tmp_path):
    write_point(tmp_path / "mine.h5", measured(isl_tokens=512, osl_tokens=64))
    assert bench(tmp_path, "report", "published", "mine.h5", "-o", "r.html").returncode == 0
    page = chromium.open(tmp_path / "r.html")
    workloads = page.run("return [...document.querySelectorAll('#workload option')].map(o => o.textContent)")

    assert workloads[0].startswith("measured: GLM-5 512/64")
    assert page.run("return document.getElementById('workload').value") == workloads[0]


def test_a_flag_is_explained_where_it_appears(page):
    page.run("document.querySelectorAll('details').forEach(d => d.open = true)")

    assert "flagged (not_recomputable): the source gives figures, not times. Advice: " in page.run(
        "return document.getElementById('points-fine').textContent"
    )


def test_tables_scroll_inside_their_card_with_a_fixed_first_column(page):
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 700, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        fits = page.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        moved = page.run(
            "const box = document.querySelector('#iso .scroll'), cell = box.querySelector('tbody td');"
            "const before = cell.getBoundingClientRect().left; box.scrollLeft = 200;"
            "return [box.scrollWidth > box.clientWidth, cell.getBoundingClientRect().left - before]"
        )
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    assert fits
    assert moved == [True, 0]


def test_agent_sessions_have_their_plots_and_their_table(chromium, tmp_path):
    for i, users in enumerate((2, 4)):
        write_point(tmp_path / f"{i}.h5", dataclasses.replace(point(), key=f"{i}" * 20, point={**point().point, "concurrency": users}))
    assert bench(tmp_path, "report", "0.h5", "1.h5", "-o", "r.html").returncode == 0
    chromium.errors()
    page = chromium.open(tmp_path / "r.html")
    marks = page.run("return document.getElementById('sessions-ttft').data.map(d => [d.name, d.x.length])")

    assert page.errors() == []
    assert not page.run("return document.getElementById('sessions').hidden")
    assert [row[1] for row in page.cells("sessions-table")] == ["2", "4"]
    assert [n for _, n in marks] == [3, 3]
    assert page.run("return document.getElementById('sessions-ttft').data[0].x") == [100, 110, 120]  # computed, not all prompt tokens
    assert page.run("return document.getElementById('sessions-cache').data.length") == 3
