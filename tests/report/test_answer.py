"""The answer of a search, as text and in the page."""

import json
import re

from glm5bench.analysis.comparison import compared
from glm5bench.analysis.cost import Economy
from glm5bench.report.answer import answer_text
from glm5bench.report.page import Beside, page

ARM = {"arm": "h200 glm5_fp8 tp8", "points": 5, "code": "", "why": "", "crossing": None, "goodput_rps": None}


def told(**changed):
    return {
        "source": "measured", "limits": "", "claim": 0.06, "tolerance": 0.08, "confidence": 0.9, "low_tok_s_user": 25.0,
        "high_tok_s_user": 84.0, "covered": (25.0, 84.0), "spread": 0.01, "spread_source": "set", "spread_used": 0.01,
        "expected": {"points": 3, "node_h": 0.5, "is_reached": True}, "is_reached": False,
        "arms": [ARM], "baseline": "h200", "price": "hyperscaler",
        "rows": [row(30.0, 0.5), row(120.0, 1.5, is_inside_claim=False)], **changed,
    }  # fmt: skip


def row(x, cost, *, is_inside_claim=True):
    return {
        "series": "h200", "interactivity_tok_s_user": x, "calibrated_tput_per_gpu_tok_s": 1 / cost, "calibrated_cost_usd_per_mtok": cost,
        "claim": 0.05, "through_points_cost_usd_per_mtok": None, "perf_per_dollar_vs_first": 1.0, "is_inside_claim": is_inside_claim,
    }  # fmt: skip


def test_a_search_that_goes_on_says_what_it_knows_and_what_it_still_needs():
    text = answer_text(told())

    assert "search goes on" in text
    assert "known within 6.0%" in text
    assert "expected from now on: 3 points, about 0.5 node-hours" in text
    assert "in 90% of campaigns" in " ".join(text.split())


def test_a_claim_that_covers_a_part_of_the_band_says_which():
    text = answer_text(told(covered=(25.0, 70.2)))

    assert "from 25 to 70.2 tok/s/user (of 25 to 84; the rest is out of reach)" in text


def test_there_is_no_claim_outside_of_the_band():
    inside, outside = (line for line in answer_text(told()).splitlines() if line.split()[:1] in (["30"], ["120"]))

    assert "±5.0%" in inside
    assert "no claim" in outside


def test_a_search_for_limits_names_both_sides_and_the_opening_burst():
    crossing = {"estimate": 14.4, "low": 14.1, "high": 14.7, "passes": 14, "fails": 15, "binding": "ttft_p99<=2s"}
    arm = {**ARM, "crossing": crossing, "goodput_rps": 3.25}
    text = answer_text(told(limits="ttft_p99<=2s", arms=[arm], rows=[]))

    assert "about 14.4 (interval 14.1 to 14.7), limited by ttft_p99<=2s" in text
    assert "14 keeps the limits (3.25 good req/s), 15 does not" in text
    assert "opening burst" in text


def test_simulated_answers_say_so_first():
    assert answer_text(told(source="simulated")).startswith("Simulated")


def test_the_page_has_the_claim_as_a_band_around_the_calibrated_curve():
    beside = Beside("t", {"own": {}}, "own", "steffen", "now", "0", searches=[told()])
    made = page(compared([], Economy({}, {}), at=[30.0], method="steffen"), beside, asked=[30.0])
    data = json.loads(re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', made, re.DOTALL)[1])
    (search,) = data["searches"]
    (curve,) = search["curves"]

    assert curve["cost"] == [0.5, 1.5]
    assert curve["high"][0] > curve["cost"][0] > curve["low"][0]
    assert curve["high"][1] == curve["low"][1] == 1.5
    assert "search goes on" in search["text"]
