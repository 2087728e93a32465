"""The published measurements that ship with the package."""

import collections
import dataclasses

import pytest

from glm5bench.analysis.comparison import by_series, frontiers
from glm5bench.archive.collection import collect
from glm5bench.archive.summary import row_of
from glm5bench.archive.union import write_measurements
from glm5bench.archive.writer import PUBLISHED
from glm5bench.exchange.published import published


def of(source):
    return [m for m in published()[0] if m.provenance["source"] == source]


def rows(source):
    return [row_of(m, m.digest(), "published") for m in of(source)]


def test_the_archive_that_ships_is_the_one_that_its_sources_give(tmp_path):
    made = write_measurements(tmp_path / "p.h5", *published())

    assert collect([str(PUBLISHED)]).digest() == made.digest


def test_every_published_point_has_a_key_of_its_own():
    keys = [m.key for m in published()[0]]

    assert len(set(keys)) == len(keys)


def test_points_of_every_source_are_there():
    counted = collections.Counter(m.provenance["source"] for m in published()[0])

    assert counted == {"inferencex-2026-05-25": 20, "inferencex-2026-05-20": 22, "vllm-glm5-2048-512": 9, "glm52-8k2k": 2}


def test_what_cannot_be_compared_is_rows_and_no_points():
    """Interpolated values, and systems of several nodes without the throughput of computed tokens."""
    assert {table.name: len(table.rows) for table in published()[1]} == {
        "iso_interactivity_2026-05-25": 11,
        "mtp_vs_off_b200_fp4_1k1k": 6,
        "multinode_2026": 18,
    }


def test_a_published_point_is_flagged_as_not_recomputable_and_has_no_requests():
    made = rows("inferencex-2026-05-25")

    assert {(r.validity, r.reasons) for r in made} == {("flagged", ("not_recomputable",))}
    assert {r.n_requests for r in made} == {0}


def test_the_stated_interactivity_is_that_of_the_stated_tpot():
    for r in rows("inferencex-2026-05-25") + rows("inferencex-2026-05-20"):
        assert r.interactivity_tok_s_user == pytest.approx(1 / r.tpot_median_s, rel=0.001)


def test_the_throughput_of_h200_at_concurrency_4_is_the_published_one():
    (r,) = [r for r in rows("inferencex-2026-05-25") if (r.series.hardware, r.concurrency) == ("h200", 4)]

    assert (r.total_tput_per_gpu_tok_s, r.interactivity_tok_s_user) == (347.9, 84.49)


def test_vllms_throughput_is_divided_by_the_eight_gpus_of_its_node():
    (r,) = [r for r in rows("vllm-glm5-2048-512") if r.concurrency == 128]

    assert r.output_tput_per_gpu_tok_s == pytest.approx(2132 / 8)
    assert r.total_tput_per_gpu_tok_s == pytest.approx(2132 * 5 / 8)  # 2048 prompt tokens and 512 output tokens


def test_a_tpot_of_another_definition_gives_no_interactivity():
    assert frontiers(by_series(rows("vllm-glm5-2048-512") + rows("glm52-8k2k"))) == {}


def test_the_two_runs_of_glm52_are_told_apart_without_naming_an_engine():
    assert {r.series.engine for r in rows("glm52-8k2k")} == {"unnamed-1", "unnamed-2"}


def test_figures_of_different_definitions_have_different_names():
    assert {name for m in of("vllm-glm5-2048-512") for name in m.stated if "tpot" in name} == {"tpot_unnamed_ms"}
    assert {name for m in of("glm52-8k2k") for name in m.stated if "tpot" in name} == {"tpot_mean_ms", "tpot_p99_ms"}


def test_the_half_nodes_of_nvfp4_count_as_half_nodes():
    halves = {(r.tp, r.gpus, r.gpus_per_node) for r in rows("inferencex-2026-05-25") if r.series.precision == "nvfp4"}

    assert halves == {(4, 4, 8), (8, 8, 8)}


def test_interactivity_is_that_of_the_source_where_it_states_one():
    m = of("inferencex-2026-05-25")[0]
    told = dataclasses.replace(m, stated={"tpot_median_s": 0.02, "interactivity_tok_s_user": 50.1})
    untold = dataclasses.replace(m, stated={"tpot_median_s": 0.02})

    assert [row_of(x, "d", "o").interactivity_tok_s_user for x in (told, untold)] == [50.1, 50.0]
