"""The accuracy gate: the harness's results give a score with its interval, a mark on the point, and a mark on every row of its arm."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import besides_waves, measured, plan
from program import TESTS
from rows import CURVE, ECONOMY, FAST, SERIES, row

from glm5bench import plan as planning
from glm5bench.analysis.comparison import compared
from glm5bench.archive.summary import summary
from glm5bench.errors import SettingsError
from glm5bench.node import accuracy
from glm5bench.report.readable import as_markdown
from glm5bench.report.tables import tables
from glm5bench.settings.overrides import compose
from glm5bench.values.groups import Accuracy

DATA = TESTS / "data" / "accuracy"
ASKED = Accuracy("gsm8k", "gsm8k", str(DATA), 5, {"GLM-5": 0.94, "other": 0.9}, {"temperature": 0}, 1200, 1800)
RUN = {
    "concurrency": 64, "n_questions": 1319, "n_empty": 0, "strict": 0.95, "strict_low": 0.937, "strict_high": 0.961,
    "flexible": 0.952, "flexible_low": 0.939, "flexible_high": 0.962,
}  # fmt: skip


def results(strict, flexible, n):
    """As lm-eval 0.4.13 writes them, without the fields that are not read."""
    scores = {"exact_match,strict-match": strict, "exact_match_stderr,strict-match": 0.0, "exact_match,flexible-extract": flexible}
    return {"results": {"gsm8k_local": {"alias": "gsm8k_local", **scores}}, "n-samples": {"gsm8k_local": {"original": n, "effective": n}}}


def gated(*runs, threshold=0.94, error=None):
    told = {"task": "gsm8k", "n_shots": 5, "threshold": threshold, "runs": [{**RUN, **run} for run in runs]}
    return measured(server={"accuracy": told | ({"error": error} if error else {})})


def test_the_harness_results_become_a_score_with_its_interval():
    score = accuracy.score(results(0.9416, 0.9447, 1319), "gsm8k_local", 64, 2)

    assert (score.n_questions, score.n_empty, score.strict, score.flexible) == (1319, 2, 0.9416, 0.9447)
    assert (score.strict_low, score.strict_high) == pytest.approx((0.9276, 0.9530), abs=1e-4)


@pytest.mark.parametrize("n", [8, 100, 1319])
def test_the_interval_holds_the_true_share_as_often_as_it_says(n):
    rng = np.random.default_rng(n)
    for share in (0.5, 0.94):
        found = [accuracy.interval(k / n, n) for k in rng.binomial(n, share, size=2000)]
        assert np.mean([low <= share <= high for low, high in found]) == pytest.approx(0.95, abs=0.035)


@pytest.mark.parametrize(("asked", "at"), [([4], [4]), ([4, 8], [4, 8]), ([64, 4, 16, 8, 32], [16, 64]), ([4, 8, 16, 32], [8, 32])])
def test_it_is_asked_at_the_median_and_the_highest_concurrency(asked, at):
    assert list(planning.accuracy_at(asked)) == at


def test_a_score_that_passes_says_nothing_and_stands_in_the_summary():
    m = gated({}, {"strict": 0.945})
    s = summary(m, m.digest())

    assert besides_waves(m.verdict()).validity == "valid"
    assert (s["accuracy_strict"], s["accuracy_flexible"]) == (0.945, 0.952)


def test_one_run_below_the_threshold_flags_the_point_with_its_numbers():
    v = besides_waves(gated({}, {"strict": 0.91, "strict_low": 0.893, "strict_high": 0.924, "n_empty": 7, "concurrency": 256}).verdict())

    assert (v.validity, v.codes) == ("flagged", ("accuracy_failed",))
    assert v.reasons[0].text == (
        "gsm8k at concurrency 256: strict 0.910 [0.893, 0.924], flexible 0.952 [0.939, 0.962] of 1319, 7 answers without text, 0.94 passes"
    )


def test_a_gate_without_a_score_flags_the_point_with_the_cause():
    v = besides_waves(gated(error="lm-evaluation-harness is not installed").verdict())

    assert (v.validity, v.codes) == ("flagged", ("accuracy_unknown",))
    assert "lm-evaluation-harness is not installed" in v.reasons[0].text


def test_every_row_of_a_failed_arm_carries_the_mark():
    failed = {
        "reasons": ("accuracy_failed",),
        "validity": "flagged",
        "beside": {"accuracy_strict": 0.9, "accuracy_flexible": 0.91, "start_s": 9.0},
    }
    slow = [row(*point, series=SERIES) for point in CURVE]
    fast = [row(*point, series=FAST, **(failed if point[2] == 16 else {})) for point in CURVE]
    t = tables(compared([*slow, *fast], ECONOMY, at=(25.0, 30.0, 50.0), method="steffen"), price_id="p", method="steffen")
    text = as_markdown(t)

    for name in ("iso", "bands", "saturation", "startup"):
        assert {r["hardware"] for r in getattr(t, name) if r["accuracy"] == "failed"} == {"b200"}, name
    assert "b200 sglang fp8 mtp at TP 8 failed its accuracy gate: 0.900 of the answers are right" in t.notes
    assert text.count("b200 sglang fp8 mtp (accuracy failed)") >= 2
    assert "h200 sglang fp8 mtp (accuracy failed)" not in text


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"task": "nosuch"}, "not installed|has no task nosuch"),
        ({"data": "/nowhere"}, "not installed|does not contain train.jsonl and test.jsonl"),
    ],
)
def test_a_gate_that_cannot_be_run_says_why(tmp_path, wrong, says):
    with pytest.raises(OSError, match=says):
        accuracy.task_named(tmp_path, dataclasses.replace(ASKED, **wrong))


def test_answers_without_text_are_counted_once_a_question(tmp_path):
    lines = [(0, "a", "strict-match"), (0, "a", "flexible-extract"), (1, "", "strict-match"), (1, "", "flexible-extract")]
    (tmp_path / "s").write_text("".join(json.dumps({"doc_id": i, "resps": [[text]], "filter": f}) + "\n" for i, text, f in lines))

    assert accuracy.empty_answers(tmp_path / "s") == 1


@pytest.mark.parametrize(
    ("level", "template"),
    [
        ("default", None),
        ("off", {"enable_thinking": False}),
        ("high", {"enable_thinking": True, "reasoning_effort": "high"}),
    ],
)
def test_the_chat_template_is_asked_for_the_level_of_thinking(tmp_path, level, template):
    server = SimpleNamespace(base_url="http://127.0.0.1:1")
    words = accuracy.command(server, "m", dataclasses.replace(ASKED, thinking=level), "t", tmp_path, 4)

    assert json.loads(words[words.index("--gen_kwargs") + 1]).get("chat_template_kwargs") == template


def test_questions_must_be_told_where_they_lie():
    with pytest.raises(SettingsError, match="accuracy=gsm8k needs its questions"):
        compose("accuracy=gsm8k")
    assert compose("accuracy=gsm8k", "accuracy.data=/shared/gsm8k").accuracy.thresholds == {"GLM-5": 0.94, "GLM-5.1": 0.93, "other": 0.9}


@pytest.mark.parametrize(("context", "room"), [(None, 8192), (100_000, 8192), (9236, 7188), (2400, 352)])
def test_answers_have_the_room_that_the_context_leaves_them(context, room):
    asked = dataclasses.replace(ASKED, generation={"temperature": 0, "max_gen_toks": 8192})

    assert accuracy.within(asked, context).generation == {"temperature": 0, "max_gen_toks": room}


def test_a_context_without_room_is_said_before_anything_is_asked():
    asked = dataclasses.replace(ASKED, generation={"max_gen_toks": 8192})

    with pytest.raises(OSError, match="context of 2,080 tokens has no room for 5 examples"):
        accuracy.within(asked, 2080)


def test_an_arm_that_passed_is_not_marked_for_another_tp_of_its_series():
    failed = {
        "reasons": ("accuracy_failed",),
        "validity": "flagged",
        "beside": {"accuracy_strict": 0.5, "accuracy_flexible": 0.6, "start_s": 9.0},
    }
    rows = [row(*point, tp=tp, **(failed if tp == 4 else {"beside": {"start_s": 8.0}})) for tp in (4, 8) for point in CURVE]
    t = tables(compared(rows, ECONOMY, at=(25.0,), method="steffen"), price_id="p", method="steffen")

    assert {(r["tp"], r["accuracy"]) for r in t.startup} == {(4, "failed"), (8, None)}
    assert t.notes[0].startswith("h200 sglang fp8 mtp at TP 4 failed its accuracy gate: 0.500")


def test_it_is_asked_where_the_whole_arm_says_whichever_points_are_left():
    asked = compose("concurrency=[4,8,16,32,64,128,256]", "accuracy=gsm8k", "accuracy.data=/q", "hardware=b200")
    (job,) = plan([asked]).jobs
    rest = planning.without(job, {p.key for p in job.points if p.concurrency > 8})

    assert job.accuracy_at == rest.accuracy_at == (32, 256)
    assert {piece.accuracy_at for piece in planning.split(job, job.estimate_s / 2)} == {(32, 256)}
