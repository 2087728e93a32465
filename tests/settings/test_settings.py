"""Overrides become settings, or an error that explains what is wrong."""

import pytest
import yaml
from conftest import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from glm5bench import recipe
from glm5bench.contradictions import contradiction, impossible
from glm5bench.errors import SettingsError
from glm5bench.settings import overrides
from glm5bench.settings.overrides import arm_overrides, campaign_name
from glm5bench.settings.prices import power_table, price_table
from glm5bench.settings.validated import conf_dir, group_values

HARDWARE = {  # of the reference table: GPUs per node, HBM GB, TB/s, FP4, FP8, BF16 TFLOP/s, scale-up GB/s and world, kW, prices
    "h100": (8, 80, 3.35, None, 1979, 989, 450, 8, 1.73, 1.30, 1.69, 1.30),
    "h200": (8, 141, 4.8, None, 1979, 989, 450, 8, 1.73, 1.41, 1.74, 1.60),
    "b200": (8, 180, 8.0, 9000, 4500, 2250, 900, 8, 2.17, 1.95, 2.34, 2.90),
    "b300": (8, 268, 8.0, 13500, 4500, 2250, 900, 8, 2.17, 2.34, 2.808, 3.48),
    "gb200": (4, 192, 8.0, 10000, 5000, 2500, 900, 72, 2.10, 2.21, 2.75, 3.30),
    "gb300": (4, 288, 8.0, 15000, 5000, 2500, 900, 72, 2.10, 2.652, 3.30, 3.96),
    "mi300x": (8, 192, 5.3, None, 2615, 1307, 448, 8, 1.79, 1.12, 1.40, 1.55),
    "mi325x": (8, 256, 6.0, None, 2615, 1307, 448, 8, 2.18, 1.28, 1.59, 1.80),
    "mi355x": (8, 288, 8.0, 10066, 5033, 2516, 576, 8, 2.65, 1.48, 1.90, 2.10),
}


def arms(experiment, *command_line):
    parse = OverridesParser.create().parse_overrides
    return arm_overrides(experiment, parse(list(command_line)), parse)


@pytest.mark.parametrize("id_", HARDWARE)
def test_hardware_is_what_its_data_sheet_says(id_):
    h = compose(f"hardware={id_}").hardware
    t = h.tflop_s

    facts = (h.gpus_per_node, h.memory_gib, h.bandwidth_tb_s, t.get("fp4"), t["fp8"], t["bf16"], h.scale_up_gb_s, h.scale_up_world)
    assert (*facts, h.power_kw) == HARDWARE[id_][:9]
    assert h.id == id_


@pytest.mark.parametrize(("name", "column"), [("hyperscaler", 9), ("neocloud", 10), ("rental", 11)])
def test_prices_are_those_of_the_public_model(name, column):
    assert price_table(name).usd_per_gpu_h == {id_: facts[column] for id_, facts in HARDWARE.items()}


def test_all_hardware_of_the_reference_is_there_and_no_other():
    assert group_values("hardware") == sorted(HARDWARE)


def test_power_of_a_variant_is_inherited():
    assert power_table() == {id_: facts[8] for id_, facts in HARDWARE.items()}


@pytest.mark.parametrize("group", ["hardware", "checkpoint", "engine", "workload", "speculative", "price", "cluster"])
def test_a_choice_is_named_after_its_file(group):
    for name in group_values(group):
        assert yaml.safe_load((conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8"))["id"] == name


def test_what_is_not_asked_is_the_default():
    s = compose()

    assert s.arm.label == "b200 glm5_fp8 tp8 mtp sglang 8192/1024"
    assert (s.concurrency, s.repeat, s.seed, s.server_scope, s.bind_concurrency) == ((4,), (0,), (0,), "arm", None)


def test_amds_hardware_chooses_sglang_for_rocm():
    assert compose("hardware=mi355x").engine.id == "sglang_rocm"


def test_an_engine_that_is_asked_for_wins_over_the_hardwares_choice():
    assert compose("hardware=mi355x", "engine=simulated").engine.id == "simulated"


def test_one_concurrency_and_a_list_of_one_are_the_same():
    assert compose("concurrency=8") == compose("concurrency=[8]")


def test_a_bare_number_chooses_a_tensor_parallel_size():
    assert compose("tp=4").tp.size == 4


def test_glm52_has_its_own_positions_and_glm5s_other_shapes():
    glm5, glm52 = (compose(f"checkpoint={c}").checkpoint.architecture for c in ("glm5_fp8", "glm52_fp8"))

    assert (glm5.positions, glm52.positions) == (202752, 1048576)
    assert (glm5.layers, glm5.hidden) == (glm52.layers, glm52.hidden) == (78, 6144)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("hardware=h300", "h300"),
        ("concurrency=0", "concurrency.0=0"),
        ("concurrency=[]", "concurrency=[]"),
        ("concurrency=many", "concurrency=many"),
        ("repeat=-1", "repeat=-1"),
        ("server_scope=node", "server_scope='node'"),
        ("bind_concurrency=0", "bind_concurrency=0"),
        ("workload.endpoint=responses", "workload.endpoint='responses'"),
        ("workload.isl_tokens=???", "isl_tokens"),
        ("hardware.memory=1", "memory"),
        ("+hardware.memory=1", "hardware.memory"),
        ("concurency=4", "concurency"),
        ("concurrency=[4", "concurrency=[4"),
    ],
)
def test_a_wrong_override_is_refused_and_named(override, named):
    with pytest.raises(SettingsError) as refused:
        overrides.compose(override)

    assert named in str(refused.value)
    assert refused.value.exit_code == 2


def test_an_experiment_is_a_union_of_products():
    asked = arms({"common": ["workload=8k1k"], "arms": [["hardware=h200", "tp=4,8"], ["hardware=b200"]]})

    assert asked == [
        ["workload=8k1k", "hardware=h200", "tp='4'"],
        ["workload=8k1k", "hardware=h200", "tp='8'"],
        ["workload=8k1k", "hardware=b200"],
    ]


def test_the_command_line_lies_on_top_of_every_arm():
    asked = arms({"common": ["workload=8k1k"], "arms": [["concurrency=4,8"], ["concurrency=16"]]}, "workload=1k1k", "concurrency=2")

    assert asked == [["workload=1k1k", "concurrency=[2]"]] * 2


def test_the_points_axes_are_lists_and_not_a_product():
    assert arms(None, "concurrency=4,8", "repeat=0,1", "seed=7") == [["concurrency=[4,8]", "repeat=[0,1]", "seed=[7]"]]
    assert arms(None, "concurrency=[4,8]") == arms(None, "concurrency=4,8")


def test_a_sweep_that_lists_no_values_is_refused():
    with pytest.raises(SettingsError, match="this kind of sweep"):
        arms(None, "workload.isl_tokens=interval(1,5)")


@pytest.mark.parametrize("name", group_values("experiment"))
def test_every_arm_of_a_shipped_experiment_is_possible(name):
    experiment = yaml.safe_load((conf_dir() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8"))

    composed = [compose(*overrides) for overrides in arms(experiment)]

    assert all(impossible(s.arm, s.concurrency) is None for s in composed)


def test_a_campaign_is_named_after_its_experiment():
    assert campaign_name("quickstart", ["experiment=quickstart", "wait=true"], None) == "quickstart"


def test_what_else_was_asked_makes_another_name():
    assert campaign_name("quickstart", ["experiment=quickstart", "seed=1"], None) != "quickstart"
    assert campaign_name(None, ["seed=1"], None) != campaign_name(None, ["seed=2"], None)


@given(st.permutations(["hardware=h200", "seed=1", "concurrency=4,8", "wait=true"]))
def test_a_campaigns_name_does_not_depend_on_the_order_of_the_question(asked):
    assert campaign_name(None, asked, None) == campaign_name(None, ["concurrency=4,8", "hardware=h200", "seed=1"], None)


@pytest.mark.parametrize("name", ["../up", ".hidden", "a/b", "a b", "a\n"])
def test_a_name_that_is_no_directory_is_refused(name):
    with pytest.raises(SettingsError, match="is not a valid name for a directory"):
        campaign_name(None, [], name)


def test_a_name_that_was_given_is_kept():
    assert campaign_name("quickstart", ["seed=1"], "night-2_b.1") == "night-2_b.1"


def test_prices_can_come_from_a_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("id: mine\nusd_per_gpu_h: {b200: 3.1, h200: null}\n")

    assert price_table(str(file)).usd_per_gpu_h == {"b200": 3.1, "h200": None}


@pytest.mark.parametrize("content", ["id: mine\n", "- 1\n", "{", "id: mine\nusd_per_gpu_h: {b200: cheap}\n", "\xff\n"])
def test_a_price_file_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "mine.yaml").write_text(content, encoding="latin-1")

    with pytest.raises(SettingsError):
        price_table(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("spec", ["hyperscaller", "b200=cheap"])
def test_a_price_that_is_none_is_refused(spec):
    with pytest.raises(SettingsError):
        price_table(spec)


def test_an_expression_that_is_none_is_refused_before_a_node_meets_it():
    with pytest.raises(SettingsError, match=r"engine.fatal: '\('"):
        compose("engine=simulated", "engine.fatal=['(']")


def test_staging_needs_a_disk_of_the_nodes_and_a_place_to_copy_from():
    with pytest.raises(SettingsError, match="stage_dir"):
        compose("stage=local")
    with pytest.raises(SettingsError, match="checkpoint_dir"):
        compose("stage=local", "cluster.stage_dir=/local")


@pytest.mark.parametrize(
    ("overrides_", "why"),
    [
        ("arrivals=poisson", "workload.arrivals=poisson needs workload.rate_rps."),
        ("arrivals=constant", "workload.arrivals=constant needs workload.rate_rps."),
        ("rate_rps=2", "workload.rate_rps has no effect with workload.arrivals=closed."),
        ("arrivals=trace rate_rps=2 content=trace file=x", "workload.rate_rps has no effect with workload.arrivals=trace."),
        ("arrivals=poisson rate_rps=2 burstiness=0.5", "workload.burstiness has no effect with workload.arrivals=poisson."),
        ("arrivals=trace", "workload.arrivals=trace needs workload.content=trace."),
        ("arrivals=trace content=trace file=x ramp_s=5", "workload.ramp_s has no effect with workload.arrivals=trace."),
        ("content=conversations", "workload.content=conversations needs workload.file."),
        ("content=trace", "workload.content=trace needs workload.file."),
        ("file=x", "workload.file needs workload.content=conversations or trace."),
        ("file_sha256=abc", "workload.file_sha256 needs workload.file."),
        ("content=trace file=x turns=2", "workload.turns must be 1 with workload.content=trace."),
        ("think_time_s=1", "workload.think_time_s is the pause between turns and needs workload.turns above 1."),
        ("content=conversations file=x turns=2", "recorded conversations with several turns need workload.endpoint=chat."),
        ("prefix_tokens=8192", "workload.prefix_tokens=8192 must be less than the shortest prompt, 6553 tokens."),
        ("content=conversations file=x prefix_tokens=8", "workload.prefix_tokens needs workload.content=random."),
        ("goodput='ttft<2s'", "workload.goodput: 'ttft<2s' is not a limit like ttft<=2s or tpot<=50ms."),
        ("goodput='ttft<=2s,ttft<=1s'", "workload.goodput: ttft has two limits."),
        ("rate_rps=0 arrivals=poisson", "workload.rate_rps=0: it must be greater than 0."),
        ("duration_s=0", "workload.duration_s=0: it must be greater than 0."),
        ("ramp_s=-1", "workload.ramp_s=-1: it must be at least 0."),
        ("ramp_s=.inf", "workload.ramp_s"),
    ],
)
def test_a_workload_that_contradicts_itself_is_refused_in_one_sentence(overrides_, why):
    with pytest.raises(SettingsError) as refused:
        compose(*(f"workload.{o}" for o in overrides_.split()))

    assert refused.value.message.startswith(why)
    assert (refused.value.message.count("\n"), refused.value.exit_code) == (0, 2)


@pytest.mark.parametrize(
    "possible",
    ["arrivals=gamma rate_rps=2 burstiness=0.5 ramp_s=5 duration_s=60", "turns=3 think_time_s=1 prefix_tokens=100 endpoint=chat",
     "goodput='ttft<=2s,tpot<=50ms,itl<=.1s,e2el<=30s'"],
)  # fmt: skip
def test_a_workload_that_does_not_contradict_itself_is_taken(possible):
    compose(*(f"workload.{o}" for o in possible.split()))


@pytest.mark.parametrize("hardware", ["b200", "mi355x"])
def test_the_positions_that_conversations_need_are_those_of_their_last_turn(hardware):
    two, ten = (compose(f"hardware={hardware}", f"workload.turns={n}").arm for n in (2, 30))

    assert contradiction(two) is None
    assert "30 x 8192 + 1024 tokens are more than the 202752 positions" in contradiction(ten)
    assert "--context-length" not in (argv := recipe.bound(two, 4).argv) or str(2 * (8192 + 1024) + 32) in argv
