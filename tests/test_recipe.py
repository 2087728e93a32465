"""Server command lines: the arms of the published recipes, flag by flag, and impossible combinations."""

import dataclasses
import shlex
from dataclasses import dataclass

import pytest
from conftest import compose, plan
from program import ROOT
from recipes_page import page

from glm5bench import recipe
from glm5bench.contradictions import impossible
from glm5bench.estimate import estimates_s
from glm5bench.recipe_differences import differences, more_than_speculative
from glm5bench.simulator.options import flags_of


@dataclass(frozen=True)
class Golden:
    """One published arm from its own file: its overrides, its source, and the command of its server."""

    source: str
    image: str
    env: dict[str, str]
    flags: str


def _golden(path):
    lines = [line.partition(" ") for line in path.read_text(encoding="utf-8").splitlines()]
    told = {first: rest for first, _, rest in lines if first in ("asked", "source", "image")}
    env = dict(rest.split("=", 1) for first, _, rest in lines if first == "env")
    flags = " ".join(f"{first} {rest}" for first, _, rest in lines if first.startswith("--"))
    return told["asked"], Golden(told["source"], told["image"].replace("none", ""), env, flags)


ARMS = dict(_golden(path) for path in sorted((ROOT / "tests" / "golden" / "recipes").glob("*.txt")))


def arm(overrides):
    return compose(*overrides.split()).arm


def flag_set(words):
    """Each flag with its value, in any order."""
    found = []
    for word in words:
        if word.startswith("--"):
            found.append((word, ""))
        else:
            found[-1] = (found[-1][0], word)
    assert len(set(found)) == len(found)
    return set(found)


def published_flags(text, tp, concurrency):
    return flag_set(shlex.split(text.replace("$TP", str(tp)).replace("$C", str(concurrency))))


@pytest.mark.parametrize("overrides", ARMS)
def test_an_arm_starts_its_server_as_the_published_recipe_does(overrides):
    golden, a = ARMS[overrides], arm(overrides)
    program = len(a.engine.program)

    started = recipe.bound(a, 64)

    assert flag_set(started.argv[program:]) == published_flags(golden.flags, a.tp, 64)
    assert (started.env, started.image) == (golden.env, golden.image)


def test_every_published_arm_is_possible():
    assert {overrides: impossible(arm(overrides), (64,)) for overrides in ARMS} == dict.fromkeys(ARMS)


def test_sglang_and_vllm_are_started_by_their_own_programs():
    assert recipe.bound(arm("hardware=h200"), 4).argv[:3] == ("python3", "-m", "sglang.launch_server")
    assert recipe.bound(arm("engine=vllm speculative=off"), 4).argv[:3] == ("vllm", "serve", "$MODEL")


def test_no_name_but_the_nodes_is_left_open():
    for overrides in ARMS:
        opened = {word for word in recipe.bound(arm(overrides), 64).argv if "$" in word}
        assert opened == {"$MODEL", "$HOST", "$PORT"}


@pytest.mark.parametrize("overrides", ["hardware=h200 speculative=off", "hardware=b200 checkpoint=glm5_nvfp4 tp=4", "hardware=mi355x tp=4"])
def test_the_simulated_engine_is_given_sglangs_flags(overrides):
    real, simulated = arm(overrides), arm(f"{overrides} engine=simulated")

    asked = recipe.bound(simulated, 32).argv[len(simulated.engine.program) :]

    assert asked == recipe.bound(real, 32).argv[len(real.engine.program) :]
    assert recipe.bound(simulated, 32).env == recipe.bound(real, 32).env


def test_the_simulated_engine_needs_no_image():
    assert recipe.bound(arm("engine=simulated"), 4).image == ""


def test_the_simulated_server_reads_what_the_recipe_says():
    read = flags_of(recipe.bound(arm("engine=simulated checkpoint=glm5_nvfp4 tp=4"), 32).argv)

    assert (read.mem_fraction_static, read.max_running_requests, read.chunked_prefill_size) == (0.85, 32, 32768)
    assert (read.kv_cache_dtype, read.stream_interval) == ("fp8_e4m3", 30)


@pytest.mark.parametrize(("concurrency", "fraction"), [(4, "0.85"), (128, "0.85"), (129, "0.8"), (256, "0.8")])
def test_the_memory_fraction_follows_the_concurrency_that_is_served(concurrency, fraction):
    started = recipe.bound(arm("checkpoint=glm5_nvfp4 tp=4"), concurrency, [concurrency])

    assert recipe.flag_value(started.argv, ["--mem-fraction-static"]) == fraction


def test_a_server_for_several_concurrencies_takes_the_safest_fraction_and_says_so():
    started = recipe.bound(arm("checkpoint=glm5_nvfp4 tp=4"), 256, (4, 128, 256))

    assert recipe.flag_value(started.argv, ["--mem-fraction-static"]) == "0.8"
    said = "--mem-fraction-static 0.8, the safest value, also at concurrency 4, 128, where the published recipe has 0.85"
    assert said in started.notes


def test_the_safest_fraction_is_taken_although_the_binding_is_small():
    started = recipe.bound(arm("checkpoint=glm5_nvfp4 tp=4"), 32, (4, 256))

    assert recipe.flag_value(started.argv, ["--mem-fraction-static"]) == "0.8"


def test_flags_that_were_bound_once_for_an_arm_are_named_in_a_note():
    notes = recipe.bound(arm("hardware=b200"), 64, (4, 64)).notes

    assert any(n.startswith("--cuda-graph-max-bs, --max-running-requests: bound to 64 for all concurrencies") for n in notes)


def test_a_server_for_its_own_concurrency_departs_from_nothing():
    assert recipe.bound(arm("hardware=b200"), 64, (64,)).notes == ()


def test_the_doubted_quantization_flag_is_noted():
    assert any("--quantization fp8" in note for note in recipe.bound(arm("checkpoint=glm5_nvfp4 tp=4"), 4).notes)


GPUS = {"architecture": "Rubin", "id": "r100", "gpu_name": "R100"}


@pytest.mark.parametrize(
    ("parent", "checkpoint"), [("b300", "glm5_fp8"), ("h200", "glm5_fp8"), ("mi355x", "glm51_mxfp4"), ("mi325x", "glm5_fp8")]
)
def test_a_gpu_that_inherits_another_keeps_its_recipe(parent, checkpoint):
    known = arm(f"hardware={parent} checkpoint={checkpoint}")
    new = dataclasses.replace(known, hardware=dataclasses.replace(known.hardware, **GPUS))

    assert (recipe.bound(new, 4).argv, recipe.bound(new, 4).env) == (recipe.bound(known, 4).argv, recipe.bound(known, 4).env)
    assert recipe.image(new) == recipe.image(known)


def test_another_model_on_a_known_gpu_has_no_flag_of_glm():
    known = arm("hardware=b200")
    checkpoint = dataclasses.replace(known.checkpoint, id="other", model="Other", model_recipe=(), recipe=())

    started = recipe.bound(dataclasses.replace(known, checkpoint=checkpoint, speculative=arm("speculative=off").speculative), 4)
    argv = started.argv

    assert any("other includes no rules of Other" in note for note in started.notes)
    assert [word for word in argv if "nsa" in word or "glm" in word or "$TOOL" in word or "parser" in word] == []
    assert "--mem-fraction-static" in argv


def test_a_plan_names_an_architecture_for_which_no_rule_applied():
    known = arm("hardware=h200")
    of_blackwell = [rule for rule in known.checkpoint.model_recipe if rule.when.get("fp4") is not False]
    checkpoint = dataclasses.replace(known.checkpoint, model_recipe=tuple(of_blackwell))

    notes = recipe.bound(dataclasses.replace(known, checkpoint=checkpoint), 4).notes

    assert "no rule of GLM-5 is for Hopper: the engine's own defaults hold" in notes
    assert not any("no rule" in note for note in recipe.bound(known, 4).notes)


def test_every_flag_names_the_group_that_set_it():
    origin = recipe.bound(arm("checkpoint=glm5_nvfp4 tp=4"), 4).origin

    assert origin["--mem-fraction-static"] == "checkpoint/glm5_nvfp4"
    assert origin["--kv-cache-dtype"] == "model/GLM-5"
    assert origin["--speculative-algorithm"] == "speculative/mtp"
    assert origin["--trust-remote-code"] == "engine/sglang"


def test_the_users_environment_and_arguments_come_last():
    a = arm("hardware=b200 +engine.env.PYTHONNOUSERSITE=x engine.extra_args=['--mem-fraction-static','0.7']")
    started = recipe.bound(a, 4)

    assert started.env["PYTHONNOUSERSITE"] == "x"
    assert started.argv[-2:] == ("--mem-fraction-static", "0.7")
    assert recipe.memory(a, started).fraction == 0.7


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ("hardware=b200 tp=4", "glm5_fp8 at TP=4 does not fit: each GPU needs 180 GiB (178 GiB of weights and"),
        ("hardware=h100", "glm5_fp8 at TP=8 does not fit"),
        ("hardware=h200 checkpoint=glm5_nvfp4", "glm5_nvfp4 is nvfp4, but h200 (Hopper) has no tensor cores for it"),
        ("hardware=h100 checkpoint=glm5_nvfp4_community engine=vllm", "glm5_nvfp4_community is nvfp4, but h100 (Hopper)"),
        ("hardware=mi325x checkpoint=glm5_nvfp4", "glm5_nvfp4 is nvfp4, but mi325x (CDNA3)"),
        ("hardware=mi355x checkpoint=glm5_nvfp4", "glm5_nvfp4 is nvfp4, but mi355x (CDNA4)"),
        ("hardware=gb200", "TP=8 is more than the 4 GPUs of one gb200 node"),
        ("hardware=b200 tp=16", "TP=16 is more than the 8 GPUs of one b200 node"),
        ("hardware=b200 engine=sglang_rocm", "the image of engine=sglang_rocm is for ROCm, but b200 is a CUDA GPU"),
        ("hardware=mi355x engine=sglang", "the image of engine=sglang is for CUDA, but mi355x is a ROCm GPU"),
        ("checkpoint=glm5_nvfp4_community engine=vllm tp=4", "lukealonso/GLM-5-NVFP4 has none"),
        ("checkpoint=glm5_nvfp4_community tp=4 speculative=off", "glm5_nvfp4_community is served by vllm only, not by sglang"),
    ],
)
def test_what_cannot_be_is_told_with_its_reason(overrides, reason):
    assert reason in impossible(arm(overrides))


@pytest.mark.parametrize("hardware", ["h100", "h200", "b200", "b300", "gb200", "gb300", "mi300x", "mi325x"])
def test_mxfp4_runs_on_mi355x_only(hardware):
    told = impossible(arm(f"hardware={hardware} checkpoint=glm51_mxfp4 tp=4 engine=simulated"))

    assert told.startswith("glm51_mxfp4 is mxfp4")


def test_a_simulated_server_does_not_make_impossible_hardware_possible():
    assert "does not fit" in impossible(arm("hardware=b200 tp=4 engine=simulated"))


def test_what_does_not_fit_fits_where_there_is_more_memory():
    overrides = "hardware=h100 tp=8 checkpoint=glm5_fp8"

    assert impossible(arm(overrides)) is not None
    assert impossible(arm(f"{overrides} hardware.memory_gib=141")) is None


@pytest.mark.parametrize(
    ("overrides", "dtype"),
    [("hardware=h200", "bf16"), ("hardware=b200", "fp8"), ("hardware=b200 checkpoint=glm52_fp8", "fp8"),
     ("hardware=mi355x", "fp8"), ("engine=vllm speculative=off", "bf16"), ("engine=vllm checkpoint=glm52_fp8 speculative=off", "fp8")],
)  # fmt: skip
def test_the_cache_is_fp8_where_it_is_asked_for_and_where_sglang_defaults_to_it(overrides, dtype):
    a = arm(overrides)

    assert recipe.kv_dtype(a, recipe.bound(a, 4).argv) == dtype


@pytest.mark.parametrize(("overrides", "limit"), [("hardware=h200", 48), ("hardware=h200 speculative=off", None), ("hardware=b200", 16)])
def test_speculation_without_a_limit_admits_48_requests(overrides, limit):
    a = arm(overrides)

    assert recipe.admitted(a, recipe.bound(a, 16)) == limit


def test_a_concurrency_past_the_admission_limit_is_warned_of():
    a = arm("hardware=h200 workload=1k1k")

    assert recipe.warnings(a, recipe.bound(a, 64), [48]) == []
    assert recipe.warnings(a, recipe.bound(a, 64), [64]) == ["concurrency 64 is more than the 48 requests that the server admits"]


def test_a_concurrency_past_the_cache_is_warned_of():
    a = arm("hardware=b200")

    (told,) = recipe.warnings(a, recipe.bound(a, 256), [256])

    assert told.startswith("concurrency 256 needs up to 2,359,296 tokens of KV cache, and ")


def test_a_higher_concurrency_is_estimated_to_take_longer():
    a = arm("hardware=b200")
    started = recipe.bound(a, 64)

    slow, quick = estimates_s(a, started, [64, 4])

    assert slow > quick > 0


def test_the_shell_line_reads_back_as_the_command():
    started = recipe.bound(arm("hardware=b200"), 4)

    words = shlex.split(recipe.shell(started))

    assert words == [*(f"{k}={v}" for k, v in started.env.items()), *started.argv]


def test_deepgemm_is_off_on_b300_for_nvfp4_without_mtp_too():
    assert recipe.environment(arm("hardware=b300 checkpoint=glm5_nvfp4 tp=4 speculative=off"))["SGLANG_ENABLE_JIT_DEEPGEMM"] == "0"


def test_the_speculative_setting_s_numbers_reach_the_command_line():
    argv = recipe.bound(arm("speculative.steps=1 speculative.draft_tokens=2"), 4).argv

    assert recipe.flag_value(argv, ["--speculative-num-steps"]) == "1"
    assert recipe.flag_value(argv, ["--speculative-num-draft-tokens"]) == "2"


def test_a_prompt_longer_than_the_model_s_positions_cannot_be():
    assert "positions" in impossible(arm("workload.isl_tokens=300000"))


def test_fewer_prompts_than_the_concurrency_are_warned_of():
    made = arm("workload.prompts=8")

    assert any("never reach concurrency 64" in told for told in recipe.warnings(made, recipe.bound(made, 64), [64]))


def test_h200_with_mtp_and_without_differ_in_more_than_mtp_and_the_plan_says_so():
    off, mtp = (compose("hardware=h200", f"speculative={s}") for s in ("off", "mtp"))

    more = more_than_speculative(off.arm, mtp.arm)

    assert [(d.name, d.one, d.other, d.groups) for d in more] == [("--max-running-requests", None, "48", ("engine/sglang",))]
    assert any("differ in more than speculation: --max-running-requests" in note for note in plan([off, mtp]).notes)


def test_what_the_engine_sets_by_itself_is_no_difference_to_an_arm_that_asks_for_it():
    off, mtp = (compose("hardware=h200", f"speculative={s}").arm for s in ("off", "mtp"))

    assert "--enable-flashinfer-allreduce-fusion" in recipe.flags(off)
    assert recipe.set_by_itself(mtp) == {"--max-running-requests": 48, "--enable-flashinfer-allreduce-fusion": True}
    assert recipe.set_by_itself(off) == {}
    assert recipe.set_by_itself(compose("engine=vllm", "speculative=off").arm) == {}


def test_b300_differs_from_b200_in_what_its_group_says():
    b200, b300 = (compose(f"hardware={h}").arm for h in ("b200", "b300"))

    assert [d.name for d in differences(b200, b300)] == ["SGLANG_ENABLE_JIT_DEEPGEMM"]


def test_two_arms_that_are_the_same_differ_in_nothing():
    assert differences(compose().arm, compose().arm) == ()


def test_the_page_of_recipes_is_that_of_conf():
    written = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")

    assert written == page(ARMS, compose), "python tests/recipes_page.py > docs/recipes.md"


def test_a_later_sglang_is_told_the_same_in_its_own_words():
    then, now = (compose("hardware=b200", *more).arm for more in ((), ("engine.version=0.5.23", "engine.image=sglang_0.5.23.sif")))

    said = {d.name: (d.one, d.other) for d in differences(then, now)}

    assert said["--dsa-decode-backend"] == (None, "trtllm")
    assert said["--nsa-decode-backend"] == ("trtllm", None)
    assert said["--cuda-graph-max-bs-decode"] == (None, "$C")
    assert said["--attention-backend"] == ("nsa", "dsa")
    assert "--nsa-prefill-backend" not in recipe.bound(now, 8).argv


@pytest.mark.parametrize(
    ("version", "is_renamed"), [("0.5.12", False), ("0.5.12.post1", False), ("0.5.18", False), ("0.5.19", True), ("0.6.0", True)]
)
def test_names_change_with_the_version_that_changed_them(version, is_renamed):
    arm = compose("hardware=b200", f"engine.version={version}").arm

    assert ("--dsa-decode-backend" in recipe.flags(arm)) == is_renamed
