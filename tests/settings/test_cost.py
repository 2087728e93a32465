"""The cost of tokens."""

import csv
import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import row

from glm5bench.analysis.cost import Economy, node_usd_per_mtok, tput_per_mw_tok_s, usd_per_mtok
from glm5bench.archive.writer import PUBLISHED
from glm5bench.errors import SettingsError
from glm5bench.settings.prices import power_table, price_option, price_table, refuse_gaps

POINTS = list(csv.DictReader((PUBLISHED.parent / "points.csv").read_text(encoding="utf-8").splitlines()))


def test_a_gpu_of_3_60_dollars_at_1000_tokens_a_second_costs_a_dollar_a_million():
    assert usd_per_mtok(3.6, 1000.0) == pytest.approx(1.0)


def test_idle_gpus_of_the_node_are_paid_too():
    assert node_usd_per_mtok(3.6, 1000.0, gpus=4, gpus_per_node=8) == pytest.approx(2.0)


def test_a_full_node_costs_the_same_either_way():
    assert node_usd_per_mtok(1.95, 417.0, gpus=8, gpus_per_node=8) == usd_per_mtok(1.95, 417.0)


def test_tokens_a_megawatt_are_those_of_the_gpus_that_a_megawatt_feeds():
    assert tput_per_mw_tok_s(1000.0, 2.0) == pytest.approx(500 * 1000.0)


def test_published_tokens_a_megawatt_come_from_the_power_of_b200():
    assert tput_per_mw_tok_s(1269.4, power_table()["b200"]) == pytest.approx(584966, abs=30)


@given(st.floats(0.1, 100), st.floats(0.1, 1e5), st.floats(1.01, 10))
def test_twice_the_throughput_is_half_the_cost(price, throughput, factor):
    assert usd_per_mtok(price, throughput * factor) * factor == pytest.approx(usd_per_mtok(price, throughput))


@pytest.mark.parametrize(
    "point", POINTS, ids=lambda r: f"{r['hardware']}-{r['precision']}-tp{r['tp']}-{r['speculative']}-{r['concurrency']}"
)
def test_a_published_points_cost_follows_from_its_throughput_to_the_cent(point):
    price = price_table("hyperscaler").usd_per_gpu_h[point["hardware"]]

    assert round(usd_per_mtok(price, float(point["total_tput_per_gpu_tok_s"])), 2) == float(point["cost_usd_per_mtok"])


def test_all_42_published_points_are_there():
    assert len(POINTS) == 42


def test_prices_that_were_given_are_all_that_are_used():
    assert price_table("b200=2.5,h200=1.4").usd_per_gpu_h == {"b200": 2.5, "h200": 1.4}


def test_a_gap_in_a_price_set_is_refused_with_what_to_type():
    with pytest.raises(SettingsError, match="no price for mi355x") as refused:
        refuse_gaps(price_table("b200=2.5"), {"b200", "mi355x", "unstated"})

    assert refused.value.next_step == "put your own figures: --price b200=2.5,mi355x=1.48"


def test_a_printed_command_has_the_prices_that_it_needs():
    assert price_option(price_table("hyperscaler"), {"b200"}) == ""
    assert price_option(price_table("rental"), {"b200"}) == " --price rental"
    assert price_option(price_table("zai"), {"b200"}) == " --price zai"
    assert price_option(price_table("b200=2.5,h200=1.4"), {"b200"}) == " --price b200=2.5"


def test_a_point_without_a_number_of_gpus_has_no_cost_of_nodes():
    """Imports may not state it; tables print such points."""
    unknown = dataclasses.replace(row(30, 900.0), gpus=0, gpus_per_node=0)

    assert math.isnan(Economy({unknown.series.hardware: 2.0}, {}).node_cost(unknown))
