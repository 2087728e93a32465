"""Arms that a launcher makes from one composition equal the arms that Hydra composes one by one."""

import dataclasses

import pytest
from conftest import compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from glm5bench.errors import SettingsError
from glm5bench.settings import overrides
from glm5bench.settings.overrides import Arms, run_hydra
from glm5bench.settings.validated import conf_dir
from glm5bench.values.settings import together

OVERLAY = """\
defaults: [8k1k, _self_]
id: mine
isl_tokens: 1024
osl_tokens: ${.isl_tokens}
"""


def composed(*overrides):
    """The settings of one arm."""
    return together([compose(*overrides)]).arms[0]


def swept(*arguments):
    """All arms of a command line, as the launcher passes them."""
    found = []
    run_hydra(arguments, lambda multirun: found.extend(multirun.asked.arms) or 0, program="test")
    return found


@pytest.fixture(scope="module")
def arms():
    """The object that makes a launcher's arms. Tests share it, so it keeps the same state between tests as between arms."""
    compose()  # importing it puts the plugins on the path
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
    parse = OverridesParser.create(config_loader=loader).parse_overrides
    groups = set(loader.get_group_options("", ObjectType.GROUP))
    return Arms(lambda o: loader.load_configuration("config", o, RunMode.RUN), parse, lambda key: key.split("/")[0] in groups)


def refusal(make, *overrides):
    with pytest.raises(SettingsError) as refused:
        make(*overrides)
    return str(refused.value)


@pytest.fixture
def overlay(tmp_path):
    """A user's conf folder with a workload of fixed lengths."""
    (tmp_path / "workload").mkdir()
    (tmp_path / "workload" / "mine.yaml").write_text(OVERLAY)
    return f"--config-dir={tmp_path}"


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("hardware=h200", "tp='4'", "workload=1k1k", "engine=simulated"),
        ("hardware=mi355x", "engine.start_timeout_s=5"),
        ("engine.time_scale=1e3", "engine.start_timeout_s=.5", "workload.range_ratio=1"),
        ("engine=simulated", "engine.fault='die:4'", 'name="night-1"'),
        ("workload.prompts=64", "bind_concurrency=8", "workload.prompts=null", "checkpoint.revision=null"),
        ("workload.isl_tokens='2048'", "workload.osl_tokens=1_024", "bind_concurrency='16'"),
        ('checkpoint.revision="it\'s"', "checkpoint.repository='a b, c'"),
        ("checkpoint.revision='a\\'b'", "checkpoint.repository='null'", "name='true'"),
        ("wait=yes", "pack=on", "retries=2"),
        ("price.usd_per_gpu_h.b200=3", "price.usd_per_gpu_h.h200=null", "hardware.tflop_s.fp8=1e3"),
        ("+engine.env.A=b", "engine.start_timeout_s=9", "++engine.env.B='2.5'"),
        ("~price.usd_per_gpu_h.h200", "engine.stall_timeout_s=7"),
        ("engine.extra_args=['--foo','1']", "engine.start_estimate_s=3"),
        ("concurrency=[4,8]", "repeat=[0,1]", "seed=[7]", "workload.isl_tokens=512"),
        ("cluster=example", "cluster.slurm.mem='0'", "cluster.hardware.h200.partition=gpu2"),
        ("failure.limit=5", "failure.classes.lost.again=never", "+failure.classes.lost.why='so it is'"),
        ("workload.isl_tokens=512", "workload.isl_tokens=256"),
        ("engine.start_timeout_s=7", "engine=vllm", "engine.stall_timeout_s=5"),
    ],
)
def test_an_arm_made_of_plain_values_is_the_one_that_hydra_composes(arms, overrides):
    assert arms.settings(overrides) == compose(*overrides)


def test_every_arm_of_a_sweep_is_the_one_that_hydra_composes():
    found = swept("engine=simulated", "hardware=h200,b200", "engine.time_scale=7.5", "workload.prompts=null,'9'", "concurrency=4,8")

    assert found == [
        composed("engine=simulated", f"hardware={h}", "engine.time_scale=7.5", f"workload.prompts={p}", "concurrency=[4,8]")
        for h in ("h200", "b200")
        for p in ("null", 9)
    ]


def test_an_arm_leaves_nothing_behind_in_the_next():
    first, second, third = swept("workload.isl_tokens=512,1024,8192", "workload=8k1k")

    assert third == composed()
    assert dataclasses.replace(first.workload, isl_tokens=1024) == second.workload


@pytest.mark.parametrize(
    "override",
    ["workload.isl_token=4", "+hardware.memory=1", "~engine.evn", "workload.isl_tokens=???",
     "engine.program=sglang", "engine.env={A: b}", "workload.osl_tokens=${nothing}"],
)  # fmt: skip
def test_what_hydra_refuses_is_refused_in_the_same_words(override):
    assert refusal(swept, override) == refusal(overrides.compose, override)


@pytest.mark.parametrize(
    "override",
    ["workload.isl_token=4", "hardware.id.x=1", "cluster.slurm=3", "engine.program=sglang"],
)
def test_what_hydra_refuses_of_one_arm_of_a_sweep_is_refused_in_the_same_words(override):
    twice = f"{override},{override.partition('=')[2]}"

    assert refusal(swept, twice) == refusal(overrides.compose, override)


@pytest.mark.parametrize(
    "override",
    ["workload.isl_tokens=null", "workload.isl_tokens=many", "workload.isl_tokens=1.5", "wait=perhaps", "engine.time_scale=nan",
     "workload.endpoint=''", "server_scope=null"],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_in_the_same_words(arms, override):
    assert refusal(lambda asked: arms.settings([asked]), override) == refusal(overrides.compose, override)


def test_a_wrong_value_is_refused_in_whichever_arm_of_a_sweep_it_stands():
    with pytest.raises(SettingsError, match=r"workload\.isl_tokens=0"):
        swept("workload.isl_tokens=512,0,1024")


@pytest.mark.parametrize("more", [("workload.isl_tokens=512",), ("workload.range_ratio=1.0", "workload.isl_tokens='256'")])
def test_an_interpolation_of_the_users_own_files_follows_the_value_that_it_names(overlay, more):
    (arm,) = swept(overlay, "workload=mine", *more)

    assert arm.workload.osl_tokens == arm.workload.isl_tokens in (512, 256)
    assert arm.workload.id == "mine"


def test_an_interpolation_on_the_command_line_follows_the_value_that_it_names():
    first, second = swept("workload.osl_tokens=${workload.isl_tokens}", "workload.isl_tokens=512,256")

    assert [(w.isl_tokens, w.osl_tokens) for w in (first.workload, second.workload)] == [(512, 512), (256, 256)]


def test_a_group_of_the_users_own_is_a_choice_like_those_that_are_shipped(overlay):
    mine, shipped = swept(overlay, "workload=mine,1k1k", "workload.prompts_per_concurrency=3")

    assert (mine.workload.id, shipped.workload.id) == ("mine", "1k1k")
    assert shipped == composed("workload=1k1k", "workload.prompts_per_concurrency=3")


def test_a_value_that_the_users_file_leaves_open_has_to_be_said(tmp_path):
    (tmp_path / "workload").mkdir()
    text = (conf_dir() / "workload" / "8k1k.yaml").read_text(encoding="utf-8").replace("isl_tokens: 8192", "isl_tokens: ???")
    (tmp_path / "workload" / "open.yaml").write_text(text.replace("id: 8k1k", "id: open"))

    (said,) = swept(f"--config-dir={tmp_path}", "workload=open", "workload.isl_tokens=512")

    assert said.workload == dataclasses.replace(compose().workload, id="open", isl_tokens=512)
    assert "isl_tokens" in refusal(swept, f"--config-dir={tmp_path}", "workload=open", "workload.osl_tokens=512")
