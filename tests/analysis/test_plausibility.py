"""Figures that no real run can have: each with its reason code, and the most similar harmless case."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import besides_waves, measured, raw, three_requests

from glm5bench.analysis import reasons
from glm5bench.analysis.metrics import figures
from glm5bench.analysis.plausibility import of_requests, of_stated, too_few_waves
from glm5bench.analysis.reasons import FLAGGED, INVALID, Reason, judged

PACKAGE = Path(reasons.__file__).parents[1]


def codes(r, **how):
    return [why.code for why in of_requests(r, figures(r), **how)]


def hundred(**changes):
    """A hundred requests with ten tokens each, one per chunk."""
    chunks = [[(i + 1 + 0.1 * k, 1) for k in range(10)] for i in range(100)]
    asked = {"prompt": [50] * 100, "out": [10] * 100, "chunks": chunks}
    return raw(range(100), [i + 1 for i in range(100)], [i + 1.9 for i in range(100)], **{**asked, **changes})


def test_a_plausible_run_has_no_reason():
    assert codes(hundred()) == codes(three_requests()) == []


@pytest.mark.parametrize(("n", "found"), [(0, []), (1, []), (2, ["zero_tpot"])])
def test_answers_of_several_tokens_at_one_instant_are_told_but_for_a_stray(n, found):
    at_once = [[(i + 1, 1)] * 10 if i < n else [(i + 1 + 0.1 * k, 1) for k in range(10)] for i in range(100)]
    last = [i + 1 if i < n else i + 1.9 for i in range(100)]
    r = raw(range(100), [i + 1 for i in range(100)], last, prompt=[50] * 100, out=[10] * 100, chunks=at_once)

    assert codes(r) == found


def test_answers_of_one_token_have_no_time_after_the_first():
    assert codes(raw([0, 1], [1, 2], [1, 2], prompt=[5, 5], out=[1, 1], chunks=[[(1, 1)], [(2, 1)]])) == []


def test_a_first_token_in_no_time_is_told():
    assert codes(raw([1, 2], [1, 3], [2, 4], prompt=[5, 5], out=[2, 2])) == ["zero_ttft"]


@pytest.mark.parametrize(("asked", "found"), [(9, []), (8, ["long_outputs"])])
def test_an_answer_may_be_one_token_longer_than_asked(asked, found):
    assert codes(hundred(asked=[asked] * 100)) == found


@pytest.mark.parametrize(("zeros", "found"), [(1, []), (2, ["no_prompt_tokens"]), (100, ["no_prompt_tokens"])])
def test_prompts_that_were_not_counted_make_no_input_figures(zeros, found):
    r = hundred(prompt=[0] * zeros + [50] * (100 - zeros))
    f = figures(r)

    assert codes(r) == found
    assert np.isnan(f.total_tput_tok_s) == np.isnan(f.input_tput_tok_s) == bool(found)
    assert f.output_tput_tok_s > 0


@pytest.mark.parametrize(
    ("first", "second", "found"), [(50, 50, []), (54, 46, []), (90, 10, ["prompt_lengths"]), (52, 52, ["prompt_lengths"])]
)
def test_lengths_of_prompts_are_compared_one_by_one_and_together(first, second, found):
    r = dataclasses.replace(hundred(prompt=[first, second] * 50), asked_prompt_tokens=np.full(100, 50))

    assert codes(r) == found


@pytest.mark.parametrize(("tokens", "found", "withheld"), [(1, [], False), (4, ["first_chunk"], True)])
def test_a_first_chunk_of_several_tokens_is_told_and_tpot_is_left_out(tokens, found, withheld):
    chunks = [[(i + 1, tokens), *((i + 1 + 0.1 * k, 1) for k in range(1, 11 - tokens))] for i in range(100)]
    r = hundred(chunks=chunks)

    assert codes(r) == found
    assert (figures(r).tpot.n == 0) == withheld


def test_a_first_chunk_of_few_of_many_tokens_is_told_with_its_bias_and_below_it_is_harmless():
    def of(tokens):
        chunks = [[(1, tokens), *((1 + 0.1 * k, 1) for k in range(1, 101 - tokens))]]
        return raw([0], [1], [1 + 0.1 * (100 - tokens)], prompt=[5], out=[100], chunks=chunks)

    assert codes(of(2)) == []
    assert codes(of(5)) == ["first_chunk"]
    assert figures(of(5)).tpot.n == 1


def test_tokens_that_were_counted_and_not_streamed_are_told():
    r = dataclasses.replace(hundred(), hidden_tokens=np.array([4] * 100))

    assert codes(r) == ["hidden_tokens"]
    assert figures(r).tpot.n == 0
    assert codes(dataclasses.replace(hundred(), hidden_tokens=np.zeros(100, dtype=np.int64))) == []


def test_a_run_without_any_answer_has_no_request_that_was_completed():
    assert codes(three_requests(error=["reset"] * 3)) == ["failed_requests", "no_requests"]


@pytest.mark.parametrize(("n", "concurrency", "found"), [(20, 4, 0), (19, 4, 1), (4, 4, 1), (0, 4, 0), (5, 1, 0)])
def test_a_closed_loop_needs_five_requests_a_user(n, concurrency, found):
    assert len(too_few_waves(n, concurrency)) == found


STATED = {
    "n_requests": 100, "n_failed": 0, "ttft_median_s": 0.5, "tpot_median_s": 0.01, "e2el_median_s": 2.0, "prompt_tokens": 5000,
    "output_tokens": 1000, "input_tput_tok_s": 500.0, "output_tput_tok_s": 100.0, "total_tput_tok_s": 600.0, "itl_chunk_median_s": 0.01,
}  # fmt: skip
POINT = {"concurrency": 10, "osl_tokens": 10, "isl_tokens": 50}


@pytest.mark.parametrize(
    ("changes", "found", "left_out"),
    [
        ({}, (), set()),
        ({"tpot_median_s": 0.0}, ("zero_tpot",), {"tpot_median_s"}),
        ({"tpot_median_s": 0.0, "output_tokens": 100}, (), {"tpot_median_s"}),
        ({"ttft_median_s": 0.0}, ("zero_ttft",), {"ttft_median_s"}),
        ({"itl_chunk_median_s": 0.0}, (), {"itl_chunk_median_s"}),
        ({"e2el_median_s": 0.4}, ("latency_below_ttft",), set()),
        ({"e2el_median_s": 0.5}, (), set()),
        ({"prompt_tokens": 0}, ("no_prompt_tokens",), {"prompt_tokens", "input_tput_tok_s", "total_tput_tok_s"}),
        ({"output_tokens": 0}, ("zero_tokens",), set()),
        ({"n_failed": 100}, ("no_requests",), set()),
        ({"output_tokens": 1200}, ("long_outputs",), set()),
        ({"output_tokens": 1100}, (), set()),
        ({"n_requests": 49, "output_tokens": 490}, ("few_waves",), set()),
        ({"n_requests": 50, "output_tokens": 500}, (), set()),
    ],
)
def test_figures_that_a_source_states_stand_as_far_as_they_can(changes, found, left_out):
    told = of_stated({**STATED, **changes}, POINT)

    assert tuple(why.code for why in told.reasons) == found
    assert set(told.left_out) == left_out
    assert told.figures.keys() | told.left_out.keys() == STATED.keys()


def test_stated_figures_of_an_open_loop_have_no_waves():
    assert (
        of_stated({**STATED, "n_requests": 49, "output_tokens": 490}, POINT | {"arm": {"workload": {"arrivals": "poisson"}}}).reasons == ()
    )


def test_the_worst_reason_decides():
    assert judged([]).validity == "valid"
    assert judged([Reason("drift", "")]).validity == "flagged"
    assert judged([Reason("drift", ""), Reason("paused", "")]).validity == "invalid"


def test_every_code_is_listed_once_and_every_reason_that_is_made_has_one():
    made = {code for path in PACKAGE.rglob("*.py") for code in re.findall(r'Reason\(\s*"(\w+)"', path.read_text())}
    made |= {code for path in PACKAGE.rglob("*.py") for code in re.findall(r'\(\("?(\w+)", f?"', path.read_text()) if reasons.is_code(code)}

    assert not INVALID.keys() & FLAGGED.keys()
    assert made <= INVALID.keys() | FLAGGED.keys()


def test_every_code_is_explained_on_the_page_of_verdicts():
    page = (PACKAGE.parent / "docs" / "verdicts.md").read_text()

    assert [code for code in (*INVALID, *FLAGGED) if f"`{code}`" not in page] == []


def test_a_process_of_somebody_else_on_the_gpus_is_a_reason():
    assert besides_waves(measured(server={"foreign_pids": [4711]}).verdict()).codes == ("foreign_process",)
    assert besides_waves(measured(server={"foreign_pids": []}).verdict()).codes == ()


def test_a_point_whose_server_was_not_read_says_so():
    assert besides_waves(measured(provenance={"is_server_unread": True}).verdict()).codes == ("server_unread",)


def test_several_chunks_in_the_first_read_are_told_like_several_tokens_in_the_first_chunk():
    chunks = [[(i + 1 + 0.1 * max(0, k - 2), 1) for k in range(24)] for i in range(100)]
    r = hundred(chunks=chunks, out=[24] * 100)

    assert codes(r) == ["first_chunk"]
    assert figures(r).tpot.n == 0
