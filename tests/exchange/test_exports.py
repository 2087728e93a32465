"""Points in the formats of other tools, and back: the same numbers with the same definitions."""

import csv
import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import measured, three_requests
from hypothesis import given as over
from hypothesis import strategies as st
from program import TESTS, bench

from glm5bench.archive.collection import collect
from glm5bench.archive.columns import BY_NAME, COLUMNS, STATISTICS
from glm5bench.archive.measurement import Measurement
from glm5bench.archive.summary import summary
from glm5bench.errors import EnvironmentLacks, UsageError
from glm5bench.exchange.exports.formats import export
from glm5bench.exchange.exports.summary_row import present, summary_row
from glm5bench.exchange.exports.table import csv_text, frame, write_parquet
from glm5bench.exchange.foreign.formats import imported
from glm5bench.exchange.foreign.imported import given
from glm5bench.exchange.published import published
from glm5bench.exchange.vllm_json import vllm_result

DATA = TESTS / "data" / "foreign"
FORMATS = ("vllm", "sglang", "inferencex", "csv")
LATENCIES = [f"{metric}_{kind}_s" for metric in ("ttft", "tpot", "itl_chunk", "itl_token", "e2el") for kind in STATISTICS]
WHOLE = [
    *LATENCIES, "duration_s", "total_tput_tok_s", "output_tput_tok_s", "total_tput_per_gpu_tok_s", "output_tput_per_gpu_tok_s",
    "request_rate_rps", "prompt_tokens", "output_tokens", "n_requests", "n_failed", "interactivity_tok_s_user", "acceptance_length",
]  # fmt: skip
CARRIED = {  # columns that each format can store
    "vllm": [*WHOLE, "goodput_rps"],
    "sglang": [*WHOLE, "input_tput_tok_s", "mean_concurrency"],
    "inferencex": [
        *LATENCIES,
        *(f"{k}_tput_per_gpu_tok_s" for k in ("total", "input", "output")),
        "interactivity_tok_s_user",
        "acceptance_length",
    ],
    "csv": [c.name for c in COLUMNS if c.kind != "text" and c.name not in ("definitions",)],
}
FACTS = ("hardware", "engine", "checkpoint", "model", "precision", "speculative", "endpoint", "tp", "gpus", "gpus_per_node", "concurrency",
         "isl_tokens", "osl_tokens", "range_ratio", "seed", "repeat", "server_scope", "binding", "source", "validity")  # fmt: skip


def of(m):
    """A point in the form that exports expect."""
    return summary(m, m.digest()), lambda: m


def summed(m):
    values = summary(m, m.digest())
    return {c.name: present(c.name, values[c.name]) for c in COLUMNS}


def there_and_back(m, format_, folder):
    (path,) = export(format_, [of(m)], folder / f"{format_}.out")
    (again,) = imported(format_, path, given([]))
    return again


def without_times(m):
    """The point as a source would state it."""
    stated = {name: v for name, v in summed(m).items() if v is not None and BY_NAME[name].kind != "text" and name not in m.point}
    provenance = {"imported": {"format": "csv"}}
    return Measurement(m.key, m.source, m.point, provenance, stated={k: v for k, v in stated.items() if k != "definitions"})


@pytest.mark.parametrize("endpoint", ["completions", "chat", "generate"])
@pytest.mark.parametrize("has_times", [True, False], ids=["times", "figures"])
@pytest.mark.parametrize("format_", FORMATS)
def test_a_point_comes_back_with_the_same_numbers_and_facts(tmp_path, format_, has_times, endpoint):
    m = measured(endpoint=endpoint)
    m = m if has_times else without_times(m)
    before, after = summed(m), summed(there_and_back(m, format_, tmp_path))

    for name in CARRIED[format_]:
        assert after[name] == (None if before[name] is None else pytest.approx(before[name], rel=1e-12)), name
    for name in FACTS:
        assert after[name] == before[name] or (name == "validity" and (before[name], after[name]) == ("valid", "flagged")), name


@pytest.mark.parametrize("format_", FORMATS)
def test_speculation_does_not_turn_one_gap_into_another(tmp_path, format_):
    m = measured(server={"acceptance_length": 2.5}, endpoint="completions")
    before, after = summed(m), summed(there_and_back(m, format_, tmp_path))

    for name in ("itl_chunk_mean_s", "itl_token_mean_s", "acceptance_length"):
        assert after[name] == pytest.approx(before[name]), name


@over(st.lists(st.floats(1e-6, 1e4, allow_nan=False), min_size=len(LATENCIES), max_size=len(LATENCIES)))
def test_any_latency_comes_back_from_every_format(values):
    import tempfile

    stated = dict(zip(LATENCIES, values, strict=True))
    m = Measurement("k" * 20, "published", measured(endpoint="completions").point, {}, stated=stated)
    with tempfile.TemporaryDirectory() as folder:
        for format_ in FORMATS:
            again = there_and_back(m, format_, Path(folder) / format_)
            assert {n: again.stated[n] for n in LATENCIES} == pytest.approx(stated, rel=1e-12)


def test_times_of_requests_come_back_from_a_detailed_vllm_file(tmp_path):
    m = measured()
    (path,) = export("vllm", [of(m)], tmp_path / "r.json", detailed=True)
    (again,) = imported("vllm", path, given([]))

    assert again.requests is not None
    for name in ("sent_ns", "first_token_ns", "last_token_ns", "prompt_tokens", "output_tokens", "chunk_ns"):
        assert np.abs(getattr(again.requests, name) - getattr(m.requests, name)).max() <= 1


def test_the_vllm_form_of_the_load_command_and_of_export_are_the_same_figures():
    m = measured()
    (ours,) = [json.loads(json.dumps(vllm_result(m)))]
    from glm5bench.exchange.exports.vllm import vllm_json

    told = vllm_json(summary_row(of(m)[0]))
    same = [
        key for key in ours if key.endswith("_ms") or key in ("duration", "completed", "failed", "output_throughput", "max_concurrency")
    ]
    assert len(same) > 15
    assert {k: told[k] for k in same} == pytest.approx({k: ours[k] for k in same})


@pytest.mark.parametrize(
    ("format_", "name"), [("vllm", "vllm/plain.json"), ("sglang", "sglang/native.jsonl"), ("sglang", "sglang/oai.jsonl")]
)
def test_a_tools_own_file_comes_back_with_its_own_numbers(tmp_path, format_, name):
    text = (DATA / name).read_text().splitlines()[0]
    theirs = json.loads(text)
    (m, *_) = imported(format_, DATA / name, given([], "simulated"))
    (path,) = export(format_, [of(m)], tmp_path / "out")
    ours = json.loads(path.read_text())
    common = [k for k in theirs if k in ours and isinstance(theirs[k], int | float) and math.isfinite(theirs[k])]

    assert len(common) > 20
    assert {k: ours[k] for k in common} == pytest.approx({k: theirs[k] for k in common})


def test_a_closed_loop_has_sglangs_bare_infinity_and_nothing_else_is_beyond_json(tmp_path):
    (path,) = export("sglang", [of(measured(requests=three_requests(error=["x", "x", "x"])))], tmp_path / "out.jsonl")
    seen = []
    json.loads(path.read_text(), parse_constant=seen.append)

    assert seen == ["Infinity"]


@pytest.mark.parametrize("format_", ["vllm", "inferencex"])
def test_other_json_is_strict(tmp_path, format_):
    failed = measured(requests=three_requests(error=["x", "x", "x"]))
    (path,) = export(format_, [of(failed)], tmp_path / "out.json")

    def refuse(word):
        raise AssertionError(word)

    json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_simulated_point_says_so_in_every_format_and_stays_one(tmp_path, format_):
    m = measured()
    m = Measurement(m.key, "simulated", {**m.point, "time_scale": 20.0}, m.provenance, requests=m.requests)
    before, again = summed(m), there_and_back(m, format_, tmp_path)

    assert "simulated" in (tmp_path / f"{format_}.out").read_text()
    assert again.source == "simulated"
    assert summed(again)["ttft_mean_s"] == pytest.approx(before["ttft_mean_s"])


@pytest.mark.parametrize("format_", FORMATS)
def test_an_invalid_point_does_not_become_better_on_the_way(tmp_path, format_):
    m = measured(requests=three_requests(error=["", "ReadTimeout: x", ""]))
    again = there_and_back(m, format_, tmp_path)

    assert (m.verdict().validity, again.verdict().validity) == ("invalid", "invalid")
    assert "failed_requests" in again.verdict().codes


@pytest.mark.parametrize("format_", FORMATS)
def test_every_published_point_is_exported_and_comes_back(tmp_path, format_):
    points = published()[0]
    paths = export(format_, [of(m) for m in points], tmp_path / "out")
    again = [m for path in paths for m in imported(format_, path, given([]))]

    def per_gpu(ms):
        return sorted(v for v in (summed(m)["interactivity_tok_s_user"] for m in ms) if v is not None)

    assert len(again) == len(points) == 53
    assert {m.source for m in again} == {"published"}
    assert per_gpu(again) == pytest.approx(per_gpu(points)) or format_ in ("vllm", "sglang")


def test_several_points_in_vllms_form_are_a_file_each(tmp_path):
    points = [measured(), measured(key="b" * 20, concurrency=3)]
    paths = export("vllm", [of(m) for m in points], tmp_path / "out")

    assert [p.parent for p in paths] == [tmp_path / "out"] * 2
    assert sorted(json.loads(p.read_text())["max_concurrency"] for p in paths) == [2, 3]


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "out.csv").write_text("mine")

    with pytest.raises(UsageError, match="already exists"):
        export("csv", [of(measured())], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "mine"


def test_csv_has_every_column_and_an_empty_cell_for_what_is_absent():
    m = measured(gpus=None, gpus_per_node=None)
    (row,) = csv.DictReader(io.StringIO(csv_text([summary_row(of(m)[0])])))

    assert list(row) == [c.name for c in COLUMNS]
    assert (row["gpus"], row["total_tput_per_gpu_tok_s"], row["goodput_rps"], row["time_scale"]) == ("", "", "", "")
    assert float(row["ttft_mean_s"]) == summed(m)["ttft_mean_s"]


def test_a_frame_has_a_type_for_every_column_and_knows_what_is_absent():
    m = measured(gpus=None, gpus_per_node=None)
    table = frame([summary_row(of(m)[0])] * 2)

    assert list(table) == [c.name for c in COLUMNS]
    assert (str(table.dtypes["tp"]), str(table.dtypes["ttft_mean_s"])) == ("Int64", "float64")
    assert table["gpus"].isna().all()
    assert table["hardware"].tolist() == ["b200", "b200"]


def test_parquet_has_typed_columns_with_their_units(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an extra")
    m = measured(gpus=None, gpus_per_node=None)
    (path,) = export("parquet", [of(m)], tmp_path / "out.parquet")
    table = pq.read_table(path)

    assert table.column_names == [c.name for c in COLUMNS]
    assert table.schema.field("ttft_mean_s").metadata[b"unit"] == b"s"
    assert b"chunk" in table.schema.field("itl_chunk_p99_s").metadata[b"definition"]
    assert table.to_pylist() == [summed(m)]


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(EnvironmentLacks, match="pyarrow"):
        write_parquet(tmp_path / "out.parquet", [])


# -- the verbs --------------------------------------------------------------------------------------------------------------------------


def test_import_adds_to_an_archive_and_the_same_file_again_changes_nothing(tmp_path):
    detailed, native = str(DATA / "vllm/detailed.json"), str(DATA / "sglang/native.jsonl")
    first = bench(tmp_path, "import", "vllm", detailed, "-o", "a.h5")
    second = bench(tmp_path, "import", "sglang", native, "--set", "hardware=h200", "-o", "a.h5")
    before = collect([str(tmp_path / "a.h5")]).digest()
    again = bench(tmp_path, "import", "vllm", detailed, "-o", "a.h5")

    assert (first.returncode, second.returncode, again.returncode) == (0, 0, 0), first.stderr + second.stderr
    assert "max_chunks_in_a_second" in first.stderr
    assert len(collect([str(tmp_path / "a.h5")]).rows) == 3
    assert collect([str(tmp_path / "a.h5")]).digest() == before


def test_tables_of_imports_leave_cells_empty_where_nobody_says(tmp_path):
    bench(tmp_path, "import", "vllm", str(DATA / "vllm/plain.json"), "-o", "a.h5")
    shown = bench(tmp_path, "tables", "a.h5", "--table", "points")
    told = bench(tmp_path, "tables", "a.h5", "--format", "json")

    assert "?/?" in shown.stdout
    assert "-1" not in shown.stdout
    (row,) = json.loads(told.stdout)["points"]
    assert (row["tp"], row["isl_tokens"], row["range_ratio"], row["gpus"]) == (None, None, None, None)


def test_prefill_and_decode_workers_have_their_own_fields_in_inferencex_and_their_columns_in_csv(tmp_path):
    arm = {"tp": 4}
    m = measured(variant="P1xtp8dp8+D2xtp4ep4", gpus=16, nodes=2, tp=4, arm=arm, time_scale=None)
    (path,) = export("inferencex", [of(m)], tmp_path / "ix.json")
    (row,) = json.loads(path.read_text())
    figures = summed(m)

    names = ("tp", "ep", "dp_attention", "num_workers")
    assert {n: row[f"prefill_{n}"] for n in names} == {"tp": 8, "ep": 1, "dp_attention": "true", "num_workers": 1}
    assert {n: row[f"decode_{n}"] for n in names} == {"tp": 4, "ep": 4, "dp_attention": "false", "num_workers": 2}
    assert (row["disagg"], row["is_multinode"], row["num_prefill_gpu"], row["num_decode_gpu"]) == (True, True, 8, 8)
    assert "tp" not in row
    assert row["input_tput_per_gpu"] == pytest.approx(figures["input_tput_tok_s"] / 8)
    assert row["output_tput_per_gpu"] == pytest.approx(figures["output_tput_tok_s"] / 8)
    assert row["tput_per_gpu"] == pytest.approx(figures["total_tput_tok_s"] / 16)
    (back,) = imported("inferencex", path, given([]))
    assert back.stated["output_tput_per_decode_gpu_tok_s"] == pytest.approx(row["output_tput_per_gpu"])

    (line,) = csv.DictReader(io.StringIO(csv_text([summary_row(summary(m, m.digest()))])))
    assert (line["nodes"], line["prefill_gpus"], line["decode_gpus"], line["dp"], line["ep"]) == ("2", "8", "8", "", "")
    assert float(line["input_tput_per_prefill_gpu_tok_s"]) == row["input_tput_per_gpu"]


def test_the_parallelism_of_one_server_is_in_its_row():
    one = summed(measured(variant="dp8 ep8", gpus=8, arm={"tp": 8}))

    assert (one["nodes"], one["dp"], one["ep"], one["prefill_gpus"]) == (None, 8, 8, None)
    assert summed(measured(gpus=16, nodes=2))["nodes"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("import", "excel", "x", "-o", "a.h5"), "excel"),
        (("import", "vllm", "nosuch.json", "-o", "a.h5"), "nosuch.json"),
        (("import", "vllm", "published", "--set", "colour=red", "-o", "a.h5"), "colour"),
        (("export", "excel", "published", "-o", "x"), "excel"),
        (("export", "csv", "nosuch.h5", "-o", "x"), "nosuch.h5"),
        (("export", "csv", "published", "--detailed", "-o", "x"), "--detailed"),
    ],
)
def test_wrong_usage_is_said(tmp_path, arguments, said):
    done = bench(tmp_path, *arguments)

    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "next:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a.h5").exists()
