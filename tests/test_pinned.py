"""A pinned acceptance length: what the engines are told, where it is refused, and what was measured."""

import dataclasses

import numpy as np
import pytest
from conftest import compose, measured

from glm5bench import recipe
from glm5bench.contradictions import contradiction
from glm5bench.errors import SettingsError
from glm5bench.node.attempt import variant
from glm5bench.roofline import step_model
from glm5bench.simulator.scheduler import Limits, Request, Scheduler

SGLANG = ("hardware=b200", "engine.version=0.5.19", "engine.image=none", "speculative.pinned=2.99")
VLLM = ("hardware=h200", "engine=vllm", "engine.version=0.30.0", "engine.image=none", "speculative.pinned=2.5")


def test_each_engine_is_told_in_its_own_words_and_the_curve_says_so():
    sglang, vllm = recipe.bound(compose(*SGLANG).arm, 4), recipe.bound(compose(*VLLM).arm, 4)

    assert sglang.env["SGLANG_SIMULATE_ACC_LEN"] == "2.99"
    assert sglang.env["SGLANG_SIMULATE_ACC_TOKEN_MODE"] == "real-draft-token"
    assert '"synthetic_acceptance_length": 2.5' in vllm.argv[vllm.argv.index("--speculative-config") + 1]
    assert "pinned=2.99" in variant(compose(*SGLANG).arm).split()
    assert "SGLANG_SIMULATE_ACC_LEN" not in recipe.bound(compose("hardware=b200").arm, 4).env


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("hardware=b200", "speculative.pinned=2.99"), "needs sglang 0.5.16 or later, not 0.5.12"),
        (("hardware=h200", "engine=vllm", "speculative.pinned=2.99"), "needs vllm 0.30 or later"),
        ((*SGLANG[:-1], "speculative.pinned=4.5"), "needs 1 to 4 tokens per verification"),
        ((*SGLANG, "speculative=off"), "needs 1 to 1 tokens per verification"),
    ],
)
def test_what_an_engine_cannot_pin_is_refused(overrides, said):
    assert said in contradiction(compose(*overrides).arm)


def test_the_accuracy_of_wrong_text_is_not_tested(tmp_path):
    with pytest.raises(SettingsError, match="the server's text is wrong"):
        compose(*SGLANG, "accuracy=gsm8k", f"accuracy.data={tmp_path}")


def test_the_simulated_server_accepts_as_many_drafts_as_are_pinned():
    arm = compose("engine=simulated", "hardware=b200", "speculative.pinned=2.3").arm
    s = Scheduler(step_model(arm, "fp8"), Limits(64, 10**7, 8192))
    requests = [Request(i, 100, 2000) for i in range(32)]
    for r in requests:
        s.add(r)
    while s.step() is not None:
        pass

    assert np.mean([(r.emitted - 1) / r.verify_steps for r in requests]) == pytest.approx(2.3, rel=0.01)


@pytest.mark.parametrize(("steps", "is_flagged"), [(2, False), (4, True)])
def test_another_measured_length_is_flagged(steps, is_flagged):
    m = measured(arm={"speculative": {"pinned": 2.0}})
    tokens = np.array([5, 5, 5])
    m = dataclasses.replace(m, requests=dataclasses.replace(m.requests, output_tokens=tokens, verify_steps=np.array([steps] * 3)))

    assert ("acceptance_unpinned" in m.verdict().codes) == is_flagged
    assert "acceptance_unpinned" in measured(arm={"speculative": {"pinned": 2.0}}).verdict().codes  # nobody knows it
