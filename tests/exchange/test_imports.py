"""Results of other tools, read as points: the tools' own numbers, under names that state each definition."""

import json
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import reseal
from foreign import DATA, FILES
from program import ROOT, bench

from glm5bench.archive.collection import collect
from glm5bench.archive.columns import BY_NAME, STATISTICS
from glm5bench.archive.pointfile import read_point, write_point
from glm5bench.archive.summary import summary
from glm5bench.archive.union import write_measurements
from glm5bench.errors import BenchError, FileError, SettingsError
from glm5bench.exchange.foreign import reading
from glm5bench.exchange.foreign.formats import FORMATS, imported, imported_together
from glm5bench.exchange.foreign.imported import given
from glm5bench.exchange.published import published

POINTS_CSV = ROOT / "glm5bench" / "published" / "points.csv"


def read(format_, name, *facts, source=None):
    return imported(format_, DATA / name, given(facts, source))


def written(name):
    """The JSON values in a file."""
    text = (DATA / name).read_text()
    return [json.loads(line) for line in text.splitlines()] if name.endswith("l") else [json.loads(text)]


def summed(m):
    return summary(m, m.digest())


def imported_text(tmp_path, format_, text, *facts):
    path = tmp_path / "told"
    path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
    return imported(format_, path, given(facts))


@pytest.mark.parametrize(("format_", "name"), FILES, ids=lambda v: v)
def test_every_real_file_becomes_points_that_a_point_file_keeps(format_, name, tmp_path):
    for i, m in enumerate(read(format_, name)):
        digest = write_point(tmp_path / f"{i}.h5", m)
        again, its = read_point(tmp_path / f"{i}.h5")
        assert (its, again.stated, again.point, again.provenance) == (digest, m.stated, m.point, m.provenance)
        assert m.provenance["imported"]["file"] == Path(name).name
        assert "/work" not in json.dumps([m.point, m.provenance])


@pytest.mark.parametrize(("format_", "name"), FILES, ids=lambda v: v)
def test_a_figure_without_a_column_says_what_it_means(format_, name):
    for m in read(format_, name):
        own = [n for n in m.stated if n not in BY_NAME and n.endswith(("_s", "_user", "_second"))]
        assert [n for n in own if n not in m.provenance["definitions"]] == []


@pytest.mark.parametrize(("format_", "name"), FILES, ids=lambda v: v)
def test_the_same_file_twice_is_the_same_point_and_with_other_facts_another(format_, name):
    once, again, other = (read(format_, name, *facts) for facts in ((), (), ("seed=7",) if format_ != "aiperf" else ("repeat=7",)))

    assert [m.digest() for m in once] == [m.digest() for m in again]
    assert {m.key for m in once} & {m.key for m in other} == set()


# -- vLLM -------------------------------------------------------------------------------------------------------------------------------


def test_figures_of_a_detailed_vllm_file_are_computed_again_and_are_its_own():
    (m,), (file,) = read("vllm", "vllm/detailed.json"), written("vllm/detailed.json")
    values = summed(m)

    assert m.requests is not None
    for theirs, ours in (("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl_chunk"), ("e2el", "e2el")):
        for kind in STATISTICS:
            assert values[f"{ours}_{kind}_s"] == pytest.approx(file[f"{kind}_{theirs}_ms"] / 1e3, rel=1e-6)
    assert (values["prompt_tokens"], values["output_tokens"]) == (file["total_input_tokens"], file["total_output_tokens"])
    assert values["duration_s"] == pytest.approx(file["duration"], rel=0.02)  # the tool's duration includes the end of its tasks
    assert math.isnan(values["itl_token_mean_s"])
    assert m.stated["ttft_p99.9_s"] == file["p99.9_ttft_ms"] / 1e3


def test_metadata_that_a_point_has_a_name_for_is_a_fact_and_other_is_a_word():
    (m,) = read("vllm", "vllm/detailed.json")

    assert (m.point["hardware"], m.point["tp"], m.point["precision"]) == ("h200", 8, "fp8")
    assert m.source == "simulated"
    assert m.provenance["metadata"] == {"room": "12"}


def test_figures_of_a_plain_vllm_file_stand_as_stated():
    (m,), (file,) = read("vllm", "vllm/plain.json"), written("vllm/plain.json")
    values = summed(m)

    assert m.requests is None
    assert values["ttft_median_s"] == file["median_ttft_ms"] / 1e3
    assert values["itl_chunk_p99_s"] == file["p99_itl_ms"] / 1e3
    assert values["total_tput_tok_s"] == file["total_token_throughput"]
    assert values["interactivity_tok_s_user"] == pytest.approx(1e3 / file["median_tpot_ms"])
    assert values["e2el_mean_s"] == pytest.approx(np.mean(file["latencies"]))  # a file without details also contains these
    assert (values["concurrency"], values["isl_tokens"], values["tp"]) == (4, -1, -1)
    assert (values["validity"], values["reasons"]) == ("flagged", "not_recomputable,few_waves")


def test_a_run_at_a_rate_is_an_open_loop_and_a_curve_of_its_own():
    (rate,), (plain,) = read("vllm", "vllm/rate.json"), read("vllm", "vllm/plain.json")

    assert rate.is_open_loop
    assert rate.point["variant"] == "client=vllm_bench_serve arrivals=poisson rate_rps=40.0"
    assert plain.point["variant"] == "client=vllm_bench_serve"
    assert summed(rate)["goodput_rps"] == written("vllm/rate.json")[0]["request_goodput"]


def test_percentiles_and_totals_of_older_forks_are_read(tmp_path):
    (file,) = written("vllm/plain.json")
    old = {k: v for k, v in file.items() if k not in ("failed", "total_input_tokens", "total_output_tokens", "p99_ttft_ms")}
    old |= {"total_input": 215, "total_output": 192, "percentiles_ttft_ms": [[99, 67.2], [99.9, 68.0]], "num_prompts": 14}
    (m,) = imported_text(tmp_path, "vllm", json.dumps(old))

    assert (m.stated["prompt_tokens"], m.stated["ttft_p99_s"], m.stated["ttft_p99.9_s"]) == (215, 67.2 / 1e3, 68.0 / 1e3)
    assert (m.stated["n_requests"], m.stated["n_failed"]) == (14, 2)
    assert (m.verdict().validity, m.verdict().codes) == ("invalid", ("not_recomputable", "few_waves", "failed_requests"))


def test_a_failed_request_of_a_detailed_file_is_one_here(tmp_path):
    (file,) = written("vllm/detailed.json")
    file["errors"][3], file["ttfts"][3], file["latencies"][3], file["itls"][3], file["output_lens"][3] = "Bad Gateway", 0.0, 0.0, [], 0
    (m,) = imported_text(tmp_path, "vllm", json.dumps(file | {"completed": 11, "failed": 1}))

    assert "failed_requests" in m.verdict().codes
    assert summed(m)["n_failed"] == 1


def test_an_error_of_any_characters_is_kept_on_one_line(tmp_path):
    (file,) = written("vllm/detailed.json")
    file["errors"][3] = "bad\x00 \ud800\nTraceback"
    (m,) = imported_text(tmp_path, "vllm", json.dumps(file | {"completed": 11}))
    write_point(tmp_path / "p.h5", m)

    assert read_point(tmp_path / "p.h5")[0].requests.error[3] == "bad? ? Traceback"


def test_a_detailed_file_whose_lists_contradict_each_other_is_refused(tmp_path):
    (file,) = written("vllm/detailed.json")

    with pytest.raises(FileError, match="same length"):
        imported_text(tmp_path, "vllm", json.dumps(file | {"ttfts": file["ttfts"][:-1]}))
    with pytest.raises(FileError, match="states that 11"):
        imported_text(tmp_path, "vllm", json.dumps(file | {"completed": 11}))


# -- SGLang -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gap"),
    [("native", "itl_token"), ("rust", "itl_token"), ("oai", "itl_chunk"), ("oai_speculative", "itl_retokenized")],
)
def test_what_sglang_calls_itl_goes_by_what_it_is(name, gap):
    for m, line in zip(read("sglang", f"sglang/{name}.jsonl"), written(f"sglang/{name}.jsonl"), strict=True):
        assert m.stated[f"{gap}_p99_s"] == line["p99_itl_ms"] / 1e3
        assert {n for n in m.stated if n.startswith("itl_") and not n.startswith(gap)} == set()
        assert m.stated["e2el_median_s"] == line["median_e2e_latency_ms"] / 1e3
        assert m.stated["total_tput_tok_s"] == line["total_throughput"]
        assert m.stated.get("acceptance_length") == line["accept_length"]


def test_lines_of_one_file_are_points_and_infinity_is_no_rate():
    closed, at_rate = read("sglang", "sglang/native.jsonl")

    assert "Infinity" in (DATA / "sglang/native.jsonl").read_text().splitlines()[0]
    assert (closed.is_open_loop, at_rate.is_open_loop) == (False, True)
    assert closed.key != at_rate.key


def test_a_server_that_says_that_it_is_simulated_makes_a_simulated_point():
    first, _ = read("sglang", "sglang/native.jsonl")

    assert (first.source, first.point["time_scale"], first.point["engine"]) == ("simulated", 1.0, "simulated")
    assert (first.point["tp"], first.point["gpus"], first.point["isl_tokens"], first.point["range_ratio"]) == (8, 8, 64, 1.0)
    with pytest.raises(SettingsError, match="simulated"):
        read("sglang", "sglang/native.jsonl", source="measured")


def test_figures_of_a_faster_simulated_clock_are_told_in_simulated_time(tmp_path):
    line = written("sglang/native.jsonl")[0]
    line["server_info"]["time_scale"] = 20.0
    (m,) = imported_text(tmp_path, "sglang", json.dumps(line))

    assert m.stated["ttft_mean_s"] == pytest.approx(20 * line["mean_ttft_ms"] / 1e3)
    assert m.stated["total_tput_per_gpu_tok_s"] == pytest.approx(line["total_throughput"] / 20 / 8)


def test_fields_of_a_line_that_no_column_has_stay_as_words(tmp_path):
    (m,) = imported_text(tmp_path, "sglang", json.dumps(written("sglang/oai.jsonl")[0] | {"goodput_rps": 3.5, "note": "cold"}))

    assert m.provenance["metadata"] == {"goodput_rps": 3.5, "note": "cold"}


def test_no_secret_of_a_server_is_kept(tmp_path):
    line = written("sglang/native.jsonl")[0]
    line["server_info"]["api_key"] = "sk-secret"
    (m,) = imported_text(tmp_path, "sglang", json.dumps(line))

    assert "sk-secret" not in json.dumps([m.point, m.provenance, m.server])


# -- InferenceX, AIPerf, GuideLLM ---------------------------------------------------------------------------------------------------------


def test_an_inferencex_row_is_total_tokens_a_gpu_and_interactivity_of_the_median():
    (row, _), ((told, _),) = read("inferencex", "inferencex/agg.json"), written("inferencex/agg.json")
    values = summed(row)

    assert values["total_tput_per_gpu_tok_s"] == told["tput_per_gpu"]
    assert values["interactivity_tok_s_user"] == told["median_intvty"] == pytest.approx(1 / told["median_tpot"])
    assert values["ttft_p99_s"] == told["p99_ttft"]
    assert row.stated["interactivity_of_mean_tpot_tok_s_user"] == told["mean_intvty"]
    assert not any("std_tpot_tok" in name for name in row.stated)
    assert (values["tp"], values["gpus"], values["speculative"], values["concurrency"]) == (8, 8, "mtp", 4)


def test_output_tokens_over_the_gpus_that_decode_are_no_output_tokens_a_gpu():
    (_, row), ((_, told),) = read("inferencex", "inferencex/agg.json"), written("inferencex/agg.json")

    assert (row.point["gpus"], row.point["tp"]) == (24, None)
    assert row.stated["output_tput_per_decode_gpu_tok_s"] == told["output_tput_per_gpu"]
    assert math.isnan(summed(row)["output_tput_per_gpu_tok_s"])


def test_what_aiperf_calls_inter_token_latency_is_tpot():
    (m,), (file,) = read("aiperf", "aiperf/profile_export_aiperf.json", "gpus=8"), written("aiperf/profile_export_aiperf.json")
    values = summed(m)

    assert values["tpot_median_s"] == pytest.approx(file["inter_token_latency"]["p50"] / 1e3)
    assert values["itl_chunk_p99_s"] == pytest.approx(file["inter_chunk_latency"]["p99"] / 1e3)
    assert values["e2el_std_s"] == pytest.approx(file["request_latency"]["std"] / 1e3)
    assert values["total_tput_per_gpu_tok_s"] == file["total_token_throughput"]["avg"] / 8
    assert (values["n_requests"], values["n_failed"], values["concurrency"]) == (12, 0, 4)
    assert (values["isl_tokens"], values["osl_tokens"], values["seed"], values["endpoint"]) == (64, 16, 1, "completions")
    assert m.stated["mean_of_request_tok_s_user"] == file["output_token_throughput_per_user"]["avg"]


def test_figures_of_aiperfs_requests_are_computed_again_and_are_those_of_its_summary():
    (of_requests,), (of_run,) = read("aiperf", "aiperf/profile_export.jsonl"), read("aiperf", "aiperf/profile_export_aiperf.json")
    again, stated = summed(of_requests), summed(of_run)
    names = [f"{metric}_{kind}_s" for metric in ("ttft", "tpot", "itl_chunk", "e2el") for kind in STATISTICS]

    assert of_requests.requests is not None
    assert {n: again[n] for n in names} == pytest.approx({n: stated[n] for n in names}, rel=1e-6)
    assert (again["prompt_tokens"], again["output_tokens"]) == (stated["prompt_tokens"], stated["output_tokens"])
    assert again["duration_s"] == pytest.approx(stated["duration_s"], rel=1e-3)
    assert (again["concurrency"], again["peak_concurrency"]) == (-1, 4)  # the lines do not state the requested concurrency


def test_other_figures_of_aiperf_keep_its_names_and_units():
    (m,), (file,) = read("aiperf", "aiperf/profile_export_aiperf.json"), written("aiperf/profile_export_aiperf.json")

    assert m.stated["aiperf_http_req_waiting_avg"] == file["http_req_waiting"]["avg"]
    assert m.provenance["definitions"]["aiperf_http_req_waiting_avg"] == "avg of http_req_waiting, in ms"


def test_a_cancelled_aiperf_run_is_incomplete(tmp_path):
    (file,) = written("aiperf/profile_export_aiperf.json")
    (m,) = imported_text(tmp_path, "aiperf", json.dumps(file | {"was_cancelled": True}))

    assert (m.verdict().validity, m.verdict().codes[-1]) == ("invalid", "incomplete")


def test_guidellm_is_computed_again_from_its_requests_and_its_tpot_keeps_its_own_name():
    (m,), (file,) = read("guidellm", "guidellm/guidellm.json"), written("guidellm/guidellm.json")
    metrics, values = file["benchmarks"][0]["metrics"], summed(m)
    each = file["benchmarks"][0]["requests"]["successful"]

    assert values["ttft_mean_s"] == pytest.approx(metrics["time_to_first_token_ms"]["successful"]["mean"] / 1e3, rel=1e-5)
    assert values["tpot_mean_s"] == pytest.approx(np.mean([r["inter_token_latency_ms"] for r in each]) / 1e3, rel=1e-4)
    assert m.stated["tpot_with_first_token_mean_s"] == metrics["time_per_output_token_ms"]["successful"]["mean"] * 1e-3
    assert m.stated["tpot_token_weighted_median_s"] == metrics["inter_token_latency_ms"]["successful"]["median"] * 1e-3
    assert values["output_tokens"] == metrics["output_token_count"]["successful"]["total_sum"]
    assert math.isnan(values["itl_chunk_mean_s"])  # GuideLLM stores no gaps
    assert (values["concurrency"], values["isl_tokens"], values["reasons"]) == (2, 64, "few_waves")


def test_guidellm_without_its_requests_is_taken_at_its_word(tmp_path):
    (file,) = written("guidellm/guidellm.json")
    file["benchmarks"][0]["requests"]["successful"] = file["benchmarks"][0]["requests"]["successful"][:2]
    (m,) = imported_text(tmp_path, "guidellm", json.dumps(file))

    assert (m.requests, m.verdict().codes) == (None, ("not_recomputable", "few_waves"))
    assert math.isnan(summed(m)["tpot_median_s"])  # GuideLLM does not state it
    assert math.isnan(summed(m)["ttft_median_s"])  # its percentiles are observed values
    assert summed(m)["ttft_mean_s"] > 0


# -- CSV --------------------------------------------------------------------------------------------------------------------------------


def test_the_published_points_are_read_as_they_are():
    points = imported("csv", POINTS_CSV, given(["range_ratio=0.8", "endpoint=completions"]))
    shipped = {tuple(map(str, _place(m.point))): m for m in published()[0]}

    assert len(points) == 42
    for m in points:
        same = shipped[tuple(map(str, _place(m.point)))]
        assert {**m.stated, "tpot_median_s": 0} == {**same.stated, "tpot_median_s": 0}
        assert m.stated["tpot_median_s"] == pytest.approx(same.stated["tpot_median_s"])
        assert (m.source, m.provenance["source"]) == ("published", same.provenance["source"])


def _place(p):
    return [p.get(n) for n in ("hardware", "checkpoint", "precision", "speculative", "tp", "concurrency", "isl_tokens", "engine_version")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hardware,tpot_mean_ms\nb200,ten\n", "line 2, column tpot_mean_ms"),
        ("hardware,tpot_mean_ms\nb200,inf\n", "line 2, column tpot_mean_ms"),
        ("hardware,tpot_mean_ms\nb200,1\nb200\n", "line 3"),
        ("hardware,tp,ttft_mean_s\nb200,8.5,1\n", "column tp"),
        ("hardware,ttft_meen_s\nb200,1\n", "you mean ttft_mean_s"),
        ("hardware,hardware\nb200,1\n", "twice"),
        ("colour,weight\nred,1\n", "None of the columns"),
        ("hardware,tp\nb200,8\n", "no figure"),
        ("hardware,n_requests\nb200,-1\n", "count"),
        ("hardware,ttft_mean_s,definitions\nb200,1,99\n", "definitions"),
        ("hardware,ttft_mean_s\n", "no rows"),
        ('hardware,ttft_mean_s\n"b200,1\n', "not valid CSV"),
    ],
)
def test_a_bad_csv_is_refused_by_line_and_column(tmp_path, text, said):
    with pytest.raises(FileError) as caught:
        imported_text(tmp_path, "csv", text)

    assert said in str(caught.value)
    assert "next:" in str(caught.value)


def test_columns_of_ones_own_are_kept_beside(tmp_path):
    (m,) = imported_text(tmp_path, "csv", "hardware,ttft_mean_ms,watts,room,ttft_p99.9_s\nb200,12,700.5,cold,0.5\n")

    assert m.stated == {"ttft_mean_s": 0.012, "watts": 700.5, "ttft_p99.9_s": 0.5}
    assert m.provenance["metadata"] == {"room": "cold"}


def test_the_points_table_as_csv_can_be_read_again(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(bench(tmp_path, "tables", "published", "--format", "csv", "--table", "points").stdout)
    points = imported("csv", path, given([]))

    assert len(points) == 53
    assert {m.source for m in points} == {"published"}


def test_a_figure_below_zero_is_refused(tmp_path):
    with pytest.raises(FileError, match="must be finite and not below 0"):
        imported_text(tmp_path, "csv", "hardware,ttft_mean_s\nb200,-1\n")


# -- what the user states ---------------------------------------------------------------------------------------------------------------


def test_what_the_file_does_not_say_may_be_said_and_fills_the_row():
    (m,) = read("vllm", "vllm/plain.json", "hardware=b200", "tp=8", "gpus=8", "precision=fp8", "isl_tokens=64", source="published")
    values = summed(m)

    assert (values["hardware"], values["tp"], values["gpus"], values["source"]) == ("b200", 8, 8, "published")
    assert values["total_tput_per_gpu_tok_s"] == m.stated["total_tput_tok_s"] / 8


def test_a_fact_that_contradicts_the_file_is_refused_and_both_are_named():
    with pytest.raises(SettingsError, match=r"tp=8.*tp=4"):
        read("vllm", "vllm/detailed.json", "tp=4")
    assert read("vllm", "vllm/detailed.json", "tp=8")


def test_a_fact_said_twice_is_said_once():
    assert given(["tp=8", "tp=08"]).facts == {"tp": 8}
    with pytest.raises(SettingsError, match="contradict"):
        given(["tp=8", "tp=4"])
    with pytest.raises(SettingsError, match="whole number"):
        given(["tp=8", "tp=x"])


@pytest.mark.parametrize("pair", ["colour=red", "tp=many", "tp=0", "tp", "range_ratio=2", "hardware=", "concurrency=1.5", "seed=-1"])
def test_a_fact_that_no_point_has_is_refused(pair):
    with pytest.raises(SettingsError, match="--set"):
        given([pair])


# -- untrusted files --------------------------------------------------------------------------------------------------------------------

BROKEN = {
    "empty": "",
    "blank": " \n\n",
    "cut": '{"model_id": "m", "duration": 1.0, "comp',
    "a list": "[1, 2]",
    "a number": "12",
    "another's": '{"colour": "red"}',
    "deep": "[" * 100_000,
    "no text": b"\xff\xfe\x00\x80",
    "long number": "9" * 10_000,
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("format_", FORMATS)
def test_what_is_no_result_is_refused_with_what_where_and_next(tmp_path, format_, broken):
    with pytest.raises(FileError) as caught:
        imported_text(tmp_path, format_, BROKEN[broken])

    assert str(tmp_path) in str(caught.value)
    assert "next:" in str(caught.value)


@pytest.mark.parametrize(("format_", "name"), FILES, ids=lambda v: v)
def test_no_single_wrong_field_of_a_real_file_is_a_traceback(tmp_path, format_, name):
    values = written(name)[0]
    path = tmp_path / "told"
    entry = values[0] if isinstance(values, list) else values
    for key in entry:
        for wrong in ("12", math.nan, -1, True, [], {"a": 1}, [[None]], 10**400, None):
            broken = {**entry, key: wrong}
            path.write_text(json.dumps([broken] if isinstance(values, list) else broken))
            for m in points_or_error(format_, path):
                m.verdict()
                summed(m)
                json.dumps([m.point, m.provenance, m.server, m.stated], allow_nan=False)


def points_or_error(format_, path):
    """The points of a file; none if it is refused with a next step."""
    try:
        return imported(format_, path, given([]))
    except BenchError as error:
        if not error.next_step:
            raise
        return []


@pytest.mark.parametrize("wrong", ['"12"', "Infinity", "-Infinity", "[]"])
def test_a_figure_that_is_no_number_is_named(tmp_path, wrong):
    text = (DATA / "vllm/plain.json").read_text().replace('"duration": 0.7803905380060314', f'"duration": {wrong}')

    with pytest.raises(FileError, match="duration is"):
        imported_text(tmp_path, "vllm", text)


@pytest.mark.parametrize(
    ("key", "value"), [("start_times", 1e10), ("latencies", 1e9), ("ttfts", 1e9), ("input_lens", 2**31), ("output_lens", 2**40)]
)
def test_times_and_counts_that_no_run_has_are_refused(tmp_path, key, value):
    (file,) = written("vllm/detailed.json")
    file[key][2] = value

    with pytest.raises(FileError, match="A request "):
        imported_text(tmp_path, "vllm", json.dumps(file))


def test_a_file_of_another_tool_says_which_one_it_looks_like():
    with pytest.raises(FileError) as caught:
        imported("vllm", DATA / "sglang/oai.jsonl", given([]))

    assert "glm5bench import sglang" in str(caught.value)


def test_a_file_too_large_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_BYTES", 100)

    with pytest.raises(FileError, match="more than 100 bytes"):
        imported("vllm", DATA / "vllm/plain.json", given([]))


def test_imports_of_several_tools_stand_in_one_archive_on_curves_of_their_own(tmp_path):
    points = [m for format_, name in FILES for m in read(format_, name)]
    made = write_measurements(tmp_path / "a.h5", points)
    again = collect([str(tmp_path / "a.h5")], strict=True)

    clients = {row.series.variant.split("client=")[1].split()[0] for row in again.rows.values()}
    assert (again.digest(), len(again.rows)) == (made.digest, len(points))
    assert clients == {"vllm_bench_serve", "sglang.bench_serving", "InferenceX", "AIPerf", "GuideLLM"}


OF_2024 = ("flagged", {
    "ttft_median_s": 0.2125, "itl_chunk_median_s": 0.0125, "e2el_mean_s": 1.8125, "output_tput_tok_s": 400.0, "total_tput_tok_s": 3600.0,
    "request_rate_rps": 3.125, "isl_tokens": 1024, "endpoint": "unstated", "tpot_median_s": math.nan,
})  # fmt: skip
FORMS = {  # each released format of a result, and its expected outcome
    "sglang_2024_few_figures.jsonl": OF_2024,
    "sglang_2024_first_names.jsonl": OF_2024,
    "sglang_before_9790_no_total_throughput.jsonl": ("flagged", {"total_tput_tok_s": 816773.1476989945 + 3267.0925907959777}),
    "sglang_ttft_and_itl_zero.jsonl": ("flagged", {"ttft_median_s": math.nan, "itl_chunk_median_s": math.nan}),
    "sglang_completed_zero.jsonl": ("invalid", {"ttft_median_s": math.nan}),
    "vllm_bare_nan.json": ("flagged", {"tpot_median_s": math.nan, "ttft_median_s": 0.05}),
    "vllm_osl1_tpot_zero.json": ("flagged", {"tpot_median_s": math.nan, "interactivity_tok_s_user": math.nan}),
    "vllm_zero_output_tokens.json": ("invalid", {"tpot_median_s": math.nan}),
    "vllm_request_goodput_colon.json": ("flagged", {"goodput_rps": 1.5}),
    "vllm_detailed_latency_below_ttft.json": ("invalid", {}),
    "aiperf_loadgen_concurrency.json": ("flagged", {"concurrency": 16, "isl_tokens": 100, "osl_tokens": 100, "tpot_median_s": 0.01}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_each_released_form_of_a_result_is_read_and_judged(name):
    (m,) = imported(name.partition("_")[0], DATA / "forms" / name, given(["gpus=8"]))
    validity, figures = FORMS[name]
    values = summed(m)

    assert values["validity"] == validity
    assert {key: values[key] for key in figures} == pytest.approx(figures, nan_ok=True)


def test_the_two_forms_of_2024_of_one_line_are_one_point():
    (one,), (other,) = (read("sglang", f"forms/sglang_2024_{name}.jsonl") for name in ("few_figures", "first_names"))

    assert one.digest() == other.digest()


def test_a_figure_that_is_not_a_number_costs_neither_its_line_nor_the_others():
    first, second = imported("sglang", DATA / "forms" / "sglang_nan_in_second_line.jsonl", given([]))

    assert (summed(first)["tpot_median_s"], summed(first)["concurrency"]) == (0.01, 2)
    assert (math.isnan(summed(second)["tpot_median_s"]), summed(second)["ttft_median_s"]) == (True, 0.05)


@pytest.mark.parametrize(
    ("name", "form"),
    [("aiperf_records_wrapper.json", "AIPerf of before October 2025"), ("guidellm_no_metadata.json", "GuideLLM before 0.5")],
)
def test_a_form_that_is_recognised_and_not_read_is_named(name, form):
    with pytest.raises(FileError, match=form):
        imported(name.partition("_")[0], DATA / "forms" / name, given([]))


def lines(name="sglang/oai.jsonl"):
    return (DATA / name).read_text().splitlines()


@pytest.mark.parametrize("wrong", ["{", "3", '{"backend": "x"}', lines()[0].replace('"duration": ', '"duration": "x", "d": ')])
def test_one_bad_line_costs_that_line_only_and_is_named(tmp_path, wrong):
    path, bad = tmp_path / "two.jsonl", []
    path.write_text("\n".join([lines()[0], wrong, lines()[0]]) + "\n")

    assert len(imported("sglang", path, given([]), bad)) == 2
    assert len(bad) == 1
    assert str(path) in bad[0].path
    with pytest.raises(FileError):
        imported("sglang", path, given([]))


def test_one_bad_row_of_a_csv_costs_that_row_only(tmp_path):
    path, bad = tmp_path / "rows.csv", []
    path.write_text("hardware,concurrency,tpot_median_ms\nh200,4,10\nh200,x,10\nh200,8,12\n")

    assert [m.point["concurrency"] for m in imported("csv", path, given([]), bad)] == [4, 8]
    assert "line 3" in bad[0].path


def test_one_bad_line_of_requests_is_a_failed_request(tmp_path):
    text = (DATA / "aiperf/profile_export.jsonl").read_text().splitlines()
    (whole,) = read("aiperf", "aiperf/profile_export.jsonl")
    (m,) = imported_text(tmp_path, "aiperf", "\n".join([*text, "{"]))

    assert m.figures().n_requests == whole.figures().n_requests + 1
    assert "failed_requests" in m.verdict().codes


def test_an_import_tells_of_what_it_left_out_and_ends_with_1(tmp_path):
    (tmp_path / "two.jsonl").write_text(lines()[0] + "\n{\n")
    done = bench(tmp_path, "import", "sglang", "two.jsonl", "-o", "all.h5")

    assert done.returncode == 1
    assert "two.jsonl, line 2" in done.stderr
    assert "1 points" in done.stderr


def test_a_measurement_that_stands_in_two_files_is_one(tmp_path):
    rows = POINTS_CSV.read_text().splitlines()[:11]
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("\n".join(rows) + "\n")
    (tmp_path / "c.csv").write_text("\n".join([rows[0], *rows[1:6], *rows[1:6]]) + "\n")
    each = [imported("csv", tmp_path / name, given(["range_ratio=0.8"])) for name in ("a.csv", "b.csv", "c.csv")]

    assert [m.digest() for m in each[0]] == [m.digest() for m in each[1]]
    assert {m.digest() for m in each[2]} < {m.digest() for m in each[0]}
    done = write_measurements(tmp_path / "all.h5", [m for of in each for m in of])
    assert done.n_points == 10


def test_an_archive_of_before_that_has_its_files_digest_is_read(tmp_path):
    (m,) = read("vllm", "vllm/plain.json")
    path = tmp_path / "old.h5"
    write_point(path, m)
    with h5py.File(path, "r+") as file:
        file.attrs["content_digest"] = m.digest(is_of_file=True)
    reseal(path)

    assert read_point(path)[1] == m.digest(is_of_file=True)


def test_rates_that_follow_from_others_are_derived(tmp_path):
    (file,) = written("vllm/plain.json")
    old = {k: v for k, v in file.items() if k not in ("total_token_throughput", "output_throughput")}
    values = summed(imported_text(tmp_path, "vllm", json.dumps(old))[0])

    assert values["output_tput_tok_s"] == pytest.approx(file["total_output_tokens"] / file["duration"])
    assert values["total_tput_tok_s"] == pytest.approx((file["total_input_tokens"] + file["total_output_tokens"]) / file["duration"])


def test_percentiles_of_too_few_samples_are_marked_in_every_export(tmp_path):
    (m,) = read("vllm", "vllm/plain.json")
    write_point(tmp_path / "p.h5", m)
    for format_, name in (("csv", "p.csv"), ("vllm", "p.json"), ("sglang", "p.jsonl"), ("inferencex", "p.list")):
        assert bench(tmp_path, "export", format_, "p.h5", "-o", name).returncode == 0
        assert "ttft_p99_s" in (tmp_path / name).read_text(), format_

    assert summed(m)["few_samples"].split()[0] == "ttft_p99_s"


@pytest.mark.parametrize("first", ["garbage", "# comment", '{"backend": "sglang", "dur', "{}"])
def test_a_bad_first_line_costs_no_other(tmp_path, first):
    path, bad = tmp_path / "two.jsonl", []
    path.write_text(first + "\n" + lines()[0] + "\n")

    assert len(imported("sglang", path, given([]), bad)) == 1
    assert len(bad) == 1


def test_a_byte_that_is_no_text_costs_no_line_but_its_own(tmp_path):
    path, bad = tmp_path / "two.jsonl", []
    path.write_bytes(lines()[0].encode() + b'\n{"backend": "\xff\n')

    assert len(imported("sglang", path, given([]), bad)) == 1
    assert len(bad) == 1


@pytest.mark.parametrize("format_", ["vllm", "sglang"])
def test_a_list_of_results_is_as_good_as_one_after_another(tmp_path, format_):
    one = json.loads(lines()[0]) if format_ == "sglang" else written("vllm/plain.json")[0]

    assert len(imported_text(tmp_path, format_, json.dumps([one, one], indent=1))) == 2


def detailed(**changes):
    (file,) = written("vllm/detailed.json")
    return {**file, **changes}


def of_detailed(tmp_path, **changes):
    (m,) = imported_text(tmp_path, "vllm", json.dumps(detailed(**changes)))
    return m, summed(m)


def with_first(values, first):
    return [first, *values[1:]]


def test_a_request_whose_start_is_not_a_number_has_failed_and_a_gap_that_is_none_is_no_gap(tmp_path):
    file = detailed()
    m, values = of_detailed(tmp_path, start_times=with_first(file["start_times"], math.nan))
    gap, of_gap = of_detailed(tmp_path, itls=with_first(file["itls"], with_first(file["itls"][0], math.nan)))

    assert m.requests.error[0] == "unstated: its start is NaN"
    assert values["validity"] == "invalid"
    assert (gap.requests.sent_ns >= 0).all()
    assert 0 < of_gap["itl_chunk_mean_s"] < 1


def test_gaps_that_do_not_add_up_to_an_answers_time_are_left_out(tmp_path):
    doubled = [[2 * gap for gap in gaps] for gaps in detailed()["itls"]]

    assert math.isnan(of_detailed(tmp_path, itls=doubled)[1]["itl_chunk_median_s"])


def test_first_tokens_in_no_time_leave_no_figure_that_is_made_of_them(tmp_path):
    none = [0.0] * len(detailed()["ttfts"])
    m, values = of_detailed(tmp_path, ttfts=none, mean_ttft_ms=0.0, median_ttft_ms=0.0)

    assert "zero_ttft" in m.verdict().codes
    assert math.isnan(values["ttft_median_s"])


def test_answers_of_several_tokens_at_one_instant_leave_no_tpot(tmp_path):
    file = detailed()
    m, values = of_detailed(tmp_path, latencies=file["ttfts"], itls=[[]] * len(file["ttfts"]))

    assert "zero_tpot" in m.verdict().codes
    assert math.isnan(values["tpot_median_s"])
    assert math.isnan(values["interactivity_tok_s_user"])


def test_a_rate_that_ramps_up_is_a_curve_of_its_own(tmp_path):
    m, _ = of_detailed(tmp_path, ramp_up_strategy="linear", ramp_up_start_rps=1, ramp_up_end_rps=20)

    assert m.is_open_loop
    assert "arrivals=ramp_linear ramp_up_start_rps=1.0 ramp_up_end_rps=20.0" in m.point["variant"]


def test_more_answers_than_requests_are_a_contradiction(tmp_path):
    (file,) = written("vllm/plain.json")
    with pytest.raises(FileError, match="20 of 12 requests were completed"):
        imported_text(tmp_path, "vllm", json.dumps({**file, "completed": 20, "failed": None}))


def test_a_figure_or_a_fact_that_is_not_a_number_is_absent(tmp_path):
    (file,) = written("vllm/plain.json")
    odd = {"max_concurrency": math.nan, "latencies": [math.nan] * 12, "percentiles_ttft_ms": [[99.5, math.nan]], "p100_ttft_ms": 80.0}
    (m,) = imported_text(tmp_path, "vllm", json.dumps({**file, **odd}))

    assert m.point["concurrency"] is None
    assert m.stated["ttft_max_s"] == 0.08
    assert "e2el_mean_s" not in m.stated


def test_requests_that_were_refused_without_a_reason_have_failed(tmp_path):
    line = json.loads(lines("sglang/native.jsonl")[0])
    n = line["completed"]
    (m,) = imported_text(tmp_path, "sglang", json.dumps({**line, "errors": [""] * (n + 2)}))

    assert (m.stated["n_requests"], m.stated["n_failed"]) == (n + 2, 2)
    assert m.verdict().validity == "invalid"


def test_the_same_request_in_two_lines_is_one(tmp_path):
    text = (DATA / "aiperf/profile_export.jsonl").read_text().strip()
    (once,), (twice,) = (imported_text(tmp_path, "aiperf", t) for t in (text, text + "\n" + text))

    assert twice.figures() == once.figures()


SUMMARY, LINES = DATA / "aiperf/profile_export_aiperf.json", DATA / "aiperf/profile_export.jsonl"


@pytest.mark.parametrize("paths", [[SUMMARY, LINES], [LINES, SUMMARY]], ids=["summary first", "lines first"])
def test_the_summary_and_the_lines_of_an_aiperf_run_are_one_point(paths):
    (m,) = imported_together("aiperf", paths, given([]))
    (lines_only,) = read("aiperf", "aiperf/profile_export.jsonl")

    assert (m.point["concurrency"], m.figures()) == (4, lines_only.figures())
    assert m.provenance["imported"]["summary"]["file"] == SUMMARY.name
    assert m.digest() == imported_together("aiperf", paths[::-1], given([]))[0].digest()


def test_the_lines_of_another_aiperf_run_are_another_point(tmp_path):
    *others, last = LINES.read_text().strip().split("\n")
    longer = json.loads(last)
    longer["metrics"]["request_latency"]["value"] += 1
    (tmp_path / "longer.jsonl").write_text("\n".join([*others, json.dumps(longer)]))
    (tmp_path / "fewer.jsonl").write_text("\n".join(others))

    for name in ("longer.jsonl", "fewer.jsonl"):
        assert len(imported_together("aiperf", [SUMMARY, tmp_path / name], given([]))) == 2


def test_aiperf_lines_of_answers_that_were_not_streamed_are_refused_once_and_their_summary_is_read(tmp_path):
    plain = [json.loads(line) for line in LINES.read_text().splitlines()]
    for line in plain:
        del line["metrics"]["time_to_first_token"]

    with pytest.raises(FileError, match="12 answers were not streamed"):
        imported_text(tmp_path, "aiperf", "\n".join(map(json.dumps, plain)))
    (file,) = written("aiperf/profile_export_aiperf.json")
    (m,) = imported_text(tmp_path, "aiperf", json.dumps({k: v for k, v in file.items() if "token" not in k or k.startswith("total")}))
    assert (summed(m)["e2el_median_s"] > 0, math.isnan(summed(m)["ttft_median_s"])) == (True, True)


def test_a_line_of_requests_without_its_start_is_a_failed_request(tmp_path):
    first, *others = (DATA / "aiperf/profile_export.jsonl").read_text().strip().split("\n")
    odd = json.loads(first)
    del odd["metadata"]["request_start_ns"]
    (m,) = imported_text(tmp_path, "aiperf", "\n".join([json.dumps(odd), *others]))

    assert m.figures().n_failed == 1


def test_throughputs_that_were_divided_by_other_gpus_have_names_of_their_own(tmp_path):
    row = written("inferencex/agg.json")[0]
    row = (row[0] if isinstance(row, list) else row) | {"tput_per_gpu": 20.0, "input_tput_per_gpu": 34.0, "output_tput_per_gpu": 15.0}
    (m,) = imported_text(tmp_path, "inferencex", json.dumps(row))

    assert m.stated["total_tput_per_gpu_tok_s"] == 20.0
    assert "input_tput_per_gpu_tok_s" not in m.stated
    assert "output_tput_per_gpu_tok_s" not in m.stated


def test_a_constant_rate_and_a_schedule_are_no_poisson_arrivals(tmp_path):
    (file,) = written("forms/aiperf_loadgen_concurrency.json")
    config = file["input_config"]

    def told(loadgen, **changes):
        (m,) = imported_text(tmp_path, "aiperf", json.dumps({**file, "input_config": {**config, "loadgen": loadgen, **changes}}))
        return m.workload

    assert told({"request_rate": 4, "arrival_pattern": "constant"}) == {"arrivals": "constant", "rate_rps": 4.0}
    assert told({"request_rate": 4}) == {"arrivals": "poisson", "rate_rps": 4.0}
    assert told({"concurrency": 4}, input={**config["input"], "fixed_schedule": True}) == {"arrivals": "trace"}
    assert told({"concurrency": 4}) == {}
