"""Overrides as typed: what can be meant is accepted, what cannot gets a suggestion, and Hydra's own messages never appear."""

import pytest

from glm5bench.errors import SettingsError
from glm5bench.settings.overrides import run_hydra
from glm5bench.settings.typed import for_hydra, setting_paths


def settings(*arguments):
    found = []
    run_hydra(arguments, lambda multirun: found.extend(multirun.asked.arms) or 0, program="test")
    return found


def refused(*arguments):
    with pytest.raises(SettingsError) as error:
        settings(*arguments)
    return f"{error.value.message} next: {error.value.next_step}"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("concurency=4", "Unknown setting 'concurency'. Did you mean 'concurrency'?"),
        ("hardwar=b200", "Did you mean 'hardware'?"),
        ("hardware=b20", "Did you mean 'b200'?"),
        ("experiment=h200_vs_b20", "Did you mean 'h200_vs_b200'?"),
        ("hardware=b200,h20", "Did you mean 'h200'?"),
        ("engine.verson=1", "Did you mean 'engine.version'?"),
        ("+engin.version=1", "Unknown setting 'engin.version'."),
        ("concurrency", "next: concurrency=VALUE"),
        ("wait", "next: wait=VALUE"),
        ("cluster.slurm.partition=gpu", "next: add it with a plus sign: +cluster.slurm.partition=VALUE"),
        ("+engine=vllm", "next: engine=vllm"),
        ("engine.env={A: b}", "next: engine.env.KEY=VALUE"),
        ("--cfg", "`glm5bench plan --show settings`"),
        ("--info", "`glm5bench plan --show settings`"),
        ("--verbose", "Unknown option --verbose"),
        ("=4", "Unknown setting ''"),
        ("hydra.job.name=x", "only the launcher"),
    ],
)
def test_what_is_misspelt_is_refused_with_what_was_meant(override, said):
    assert said in refused(override)


@pytest.mark.parametrize("value", ["4-64", "4..64", "4:64", "4 to 64"])
def test_a_range_of_concurrencies_is_shown_in_both_ways_to_write_it(value):
    said = refused(f"concurrency={value}")

    assert "concurrency=4,8,16,32,64;" in said
    assert "'concurrency=range(4,65,4)'" in said


def test_both_ways_work():
    assert settings("concurrency=4,8,16")[0].concurrency == (4, 8, 16)
    assert settings("concurrency=range(4,17,4)")[0].concurrency == (4, 8, 12, 16)


def test_a_single_repeat_is_refused_with_both_meanings():
    said = refused("repeat=3")

    assert "3 repeats: repeat=0,1,2" in said
    assert "'repeat=[3]'" in said
    assert settings("repeat=[3]")[0].repeat == (3,)


@pytest.mark.parametrize("override", ["concurrency=4,", "hardware=b200,", "concurrency=4,,8", "workload.isl_tokens=1024,"])
def test_a_missing_value_is_named(override):
    assert "a value is missing after a comma" in refused(override)


@pytest.mark.parametrize(
    "override",
    ["concurrency=4,", "workload.goodput=)(", "name=[1", "engine.extra_args=[a", "a b", "workload.isl_tokens={", "~nothing",
     "tp=3", "hardware=null", "workload=8k1k,", "concurrency=[]", "seed=x", "engine.version={1}", "hardware@x=b200"],
)  # fmt: skip
def test_no_message_of_hydra_or_its_parser_reaches_the_user(override):
    told = refused(override)

    assert not [
        word for word in ("hydra.cc", "expecting", "viable alternative", "mismatched", "LexerNoViableAlt", "struct") if word in told
    ]


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("workload.goodput=ttft<=2s,tpot<=50ms", lambda s: s.workload.goodput, "ttft<=2s,tpot<=50ms"),
        ("engine.extra_args=[--a,--b=1]", lambda s: s.engine.extra_args, ("--a", "--b=1")),
        ("engine.extra_args=[--a b]", lambda s: s.engine.extra_args, ("--a b",)),
        ("engine.version=0.10", lambda s: s.engine.version, "0.10"),
        ("engine.env.N=1", lambda s: s.engine.env["N"], "1"),
        ("workload.omit=[ignore_eos]", lambda s: s.workload.omit, ("ignore_eos",)),
    ],
)
def test_values_need_no_quotes_within_quotes(override, read, value):
    assert read(settings(override, "engine.image=x/y:v1")[0]) == value


def test_quotes_that_are_there_stay():
    assert for_hydra(["workload.goodput='ttft<=2s'"]) == ["workload.goodput='ttft<=2s'"]


def test_groups_of_the_users_directory_are_choices_and_settings(tmp_path):
    (tmp_path / "hardware").mkdir()
    (tmp_path / "hardware" / "mine.yaml").write_text("defaults: [b200, _self_]\nid: mine\n")
    directory = ("--config-dir", str(tmp_path))

    assert settings(*directory, "hardware=mine", "price.usd_per_gpu_h.mine=1")[0].hardware.id == "mine"
    assert "Did you mean 'mine'?" in refused(*directory, "hardware=mime")


def test_every_setting_of_a_composition_is_a_known_path():
    assert {"engine.version", "workload.isl_tokens", "cluster.slurm.partition", "concurrency", "hardware"} <= set(setting_paths())
