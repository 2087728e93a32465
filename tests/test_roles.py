"""Systems of several servers: where they run, their recipes, keys and memory, and what cannot be."""

import dataclasses
import shlex
from pathlib import Path

import pytest
from conftest import compose, plan
from hypothesis import given
from hypothesis import strategies as st
from rows import row

from glm5bench import recipe
from glm5bench.analysis.limits import Facts, limits_of
from glm5bench.analysis.rows import Series, is_told, split_gpus
from glm5bench.contradictions import impossible
from glm5bench.errors import UsageError
from glm5bench.node.attempt import variant
from glm5bench.prediction import question, serving
from glm5bench.roofline import step_model
from glm5bench.values.plain import from_plain, plain
from glm5bench.values.point import Arm, physics
from glm5bench.values.roles import placed

GOLDEN = sorted((Path(__file__).resolve().parent / "golden" / "roles").glob("*.txt"))
GIVEN = {("--model-path", "$MODEL"), ("--host", "$HOST"), ("--port", "$PORT")}
RANKS = {("--dist-init-addr", "$HEAD"), ("--nnodes", "$NNODES"), ("--node-rank", "$RANK")}
PD = ("hardware=b200", "speculative=off", "roles=pd")


def arm(*overrides):
    return compose(*overrides).arm


def flag_set(words):
    """Each flag with its value, in any order."""
    pairs = zip(words, [*words[1:], "--"], strict=True)
    return {(word, "" if following.startswith("--") else following) for word, following in pairs if word.startswith("--")}


def published(path):
    """The overrides, the concurrency, and for each role its variables and flags."""
    asked, concurrency, role, shared, roles = "", 0, "", {}, {}
    for line in path.read_text(encoding="utf-8").splitlines():
        word, _, rest = line.partition(" ")
        if word == "asked":
            asked = rest.split()
        elif word == "concurrency":
            concurrency = int(rest)
        elif word == "role":
            role = rest
            roles[role] = (dict(shared), [])
        elif word == "env":
            name, _, value = rest.partition("=")
            (roles[role][0] if role else shared)[name] = value
        elif word != "source":
            roles[role][1].extend(shlex.split(line))
    return asked, concurrency, roles


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_every_role_is_started_as_in_the_published_recipe(path):
    asked, concurrency, roles = published(path)
    a = arm(*asked)
    bound = recipe.bound(a, concurrency, [concurrency])

    assert [part.role for part in bound.roles] == list(roles)
    for part, servers in zip(bound.roles, a.servers, strict=True):
        env, words = roles[part.role]
        added = GIVEN | ({("--disaggregation-bootstrap-port", "$BOOTSTRAP")} if part.role == "prefill" else set())
        added |= RANKS if servers.arm.tp > a.hardware.gpus_per_node else set()
        started = {(flag, "DEEPEP" if flag == "--deepep-config" else value) for flag, value in flag_set(part.recipe.argv[3:])}
        assert started == flag_set(words) | added
        assert part.recipe.env == env


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_every_published_system_is_possible_and_is_planned_as_one_job(path):
    asked, concurrency, _ = published(path)

    assert impossible(arm(*asked), (concurrency,)) is None
    planned = plan([compose(*asked, f"concurrency={concurrency}")])
    assert len(planned.jobs) == 1
    assert planned.estimate_node_h == pytest.approx(planned.jobs[0].estimate_s * planned.jobs[0].arm.nodes / 3600)


def test_a_server_over_two_nodes_needs_roles_wide():
    assert "roles=wide" in impossible(arm("hardware=h200", "tp=16"))
    a = arm("hardware=h200", "tp=16", "roles=wide")

    assert impossible(a) is None
    assert (a.nodes, a.gpus, a.gpus_on_a_node) == (2, 16, 8)
    assert [(p.node, p.rank, p.gpus) for p in a.placements] == [(0, 0, 8), (1, 1, 8)]
    assert flag_set(recipe.bound(a, 4).argv) >= RANKS


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("engine=vllm", "roles=wide", "tp=16", "workload=2k512"), "not available for vllm"),
        (("roles=wide", "tp.size=12", "hardware=h200"), "no multiple of its 8 GPUs"),
        (("roles=pd", "workload.endpoint=chat"), "needs workload.endpoint=generate"),
        (("engine=vllm", "roles=pd", "workload.endpoint=generate"), "not available for vllm"),
        (("roles=pd", "roles.decode=null"), "needs prefill, decode and router"),
        (("roles=pd", "roles.prefill.dp=3"), "prefill: dp=3 does not divide TP=8"),
        (("roles=pd", "roles.router.program=[my_router]"), "must be a Python module"),
    ],
)
def test_impossible_roles_are_refused_with_the_reason(overrides, why):
    assert why in impossible(arm("speculative=off", *overrides))


def test_an_engine_without_a_rule_for_the_rank_of_a_node_is_refused():
    """Each node would start a server of its own with all GPUs, and the one that answers would be measured."""
    whole = arm("hardware=h200", "roles=wide", "tp=16", "speculative=off")
    rules = tuple(rule for rule in whole.engine.recipe if "$RANK" not in rule.flags.values())
    wrong = dataclasses.replace(whole, engine=dataclasses.replace(whole.engine, recipe=rules))

    assert impossible(wrong).startswith("no rule of sglang sets the rank of each node")
    assert impossible(whole) is None


def test_one_server_on_one_node_keeps_its_key_whatever_its_roles_are_called():
    one, wide = arm("hardware=h200"), arm("hardware=h200", "roles=wide")
    keys = [physics(a, recipe.bound(a, 4), concurrency=4, repeat=0, seed=0) for a in (one, wide)]

    assert plain(keys[0]) == plain(keys[1])
    assert {"roles", "nodes"} & keys[0].keys() == set()
    assert {"roles", "role"} & plain(one).keys() == set()


def test_the_roles_are_in_the_key_the_label_and_the_name_of_the_curve():
    a = arm(*PD, "roles.prefill.dp=8", "roles.decode.workers=2")
    told = physics(a, recipe.bound(a, 4), concurrency=4, repeat=0, seed=0)

    assert a.label == "b200 glm5_fp8 P1xtp8dp8+D2xtp8 off sglang 8192/1024"
    assert variant(a) == "P1xtp8dp8+D2xtp8"
    assert from_plain(Arm, plain(a)) == a
    assert (told["nodes"], [role["workers"] for role in told["roles"]]) == (3, [1, 2])
    other = arm(*PD, "roles.prefill.dp=8", "roles.decode.workers=3")
    assert physics(other, recipe.bound(other, 4), concurrency=4, repeat=0, seed=0) != told


def test_speculation_is_only_for_the_roles_that_ask_for_it():
    a = arm("hardware=b200", "speculative=mtp", "roles=pd")
    prefill, decode = recipe.bound(a, 4).roles

    assert "--speculative-algorithm" not in prefill.recipe.argv
    assert "--speculative-algorithm" in decode.recipe.argv
    both = recipe.bound(arm("hardware=b200", "speculative=mtp", "roles=pd", "roles.prefill.speculates=true"), 4)
    assert "--speculative-algorithm" in both.roles[0].recipe.argv


def test_memory_and_admission_are_those_of_the_decode_workers_together():
    one, two = (arm(*PD, f"roles.decode.workers={n}", "roles.decode.tp=8") for n in (1, 2))

    fits = [recipe.memory(a, recipe.bound(a, 64)) for a in (one, two)]
    assert fits[1].capacity_tokens == 2 * fits[0].capacity_tokens
    assert recipe.admitted(two, recipe.bound(two, 256, [256])) == 2 * 80


def test_small_workers_share_a_node_and_large_ones_begin_on_an_empty_one():
    def told(sizes):
        return [(p.role, p.worker, p.rank, p.node, p.first_gpu, p.gpus) for p in placed(sizes, 8)]

    assert told([("decode", 2, 4)]) == [("decode", 0, 0, 0, 0, 4), ("decode", 1, 0, 0, 4, 4)]
    assert told([("prefill", 1, 4), ("decode", 1, 16)]) == [
        ("prefill", 0, 0, 0, 0, 4), ("decode", 0, 0, 1, 0, 8), ("decode", 0, 1, 2, 0, 8)]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from("pd"), st.integers(1, 4), st.sampled_from([1, 2, 4, 8, 16, 24])), min_size=1, max_size=3))
def test_no_gpu_is_given_twice_and_no_node_is_left_empty(sizes):
    used = [(p.node, gpu) for p in placed(sizes, 8) for gpu in range(p.first_gpu, p.first_gpu + p.gpus)]

    assert len(used) == len(set(used)) == sum(workers * gpus for _, workers, gpus in sizes)
    assert all(gpu < 8 for _, gpu in used)
    assert {node for node, _ in used} == set(range(1 + max(node for node, _ in used)))


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("P1xtp8dp8+D2xtp4 ab12", (8, 8)),
        ("P2xtp4+D1xtp16dp16ep16", (8, 16)),
        ("prefill_gpus=8 decode_gpus=24", (8, 24)),
        ("dp8 ep8", None),
        ("", None),
    ],
)
def test_the_gpus_that_prefill_and_that_decode_are_in_the_name_of_the_curve(text, gpus):
    assert split_gpus(text) == gpus
    assert all(is_told(word) for word in text.split() if word != "ab12")


def test_a_system_of_several_roles_is_not_predicted():
    a = arm(*PD)

    with pytest.raises(UsageError, match="only single servers"):
        serving(a, recipe.bound(a, 4))
    assert question(a) == question(arm("hardware=h200", "roles=wide", "tp=16")) == "other parallelism"


def test_the_line_that_no_server_exceeds_is_only_for_single_servers():
    def series(variant):
        return Series("measured", "b200", "sglang", "zai-org/GLM-5-FP8", "fp8", "off", 8192, 1024, variant=variant)

    a = arm("hardware=b200", "speculative=off")
    facts = Facts({"b200": a.hardware}, {a.checkpoint.repository: a}, {"off": a.speculative})
    fronts = {series(v): [row(50.0, 500.0, series=series(v), tp=8)] for v in ("", "dp8", "P1xtp8+D2xtp8")}
    found = {s.variant: lines for s, lines in limits_of(fronts, facts).items()}

    assert found.keys() == {"", "dp8"}
    assert found[""] != found["dp8"]


def test_a_server_over_two_nodes_pays_for_the_network_between_them():
    h200 = arm("hardware=h200", "roles=wide", "tp=16", "speculative=off")
    one_domain = dataclasses.replace(h200, hardware=dataclasses.replace(h200.hardware, scale_up_world=16))
    times = [step_model(a, "bf16").decode_s(64, 64 * 9000.0, 64 * 2048.0) for a in (h200, one_domain)]

    each = 4 * h200.checkpoint.architecture.layers * 64 * h200.checkpoint.architecture.hidden  # bytes of one all-reduce in all layers
    between, less_inside = 2 * each / 8 / 2 / 50e9, 2 * each * (15 / 16 - 7 / 8) / 450e9
    assert times[0] - times[1] == pytest.approx(between - less_inside, rel=0.01)
