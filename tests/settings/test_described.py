"""`plan --show settings`: every setting with its value, origin and one line of help."""

import dataclasses

from program import bench

from glm5bench.settings.described import comments, described
from glm5bench.settings.overrides import run_hydra
from glm5bench.settings.validated import conf_dir
from glm5bench.values.settings import Settings


def shown(*arguments):
    found = []
    run_hydra(arguments, lambda m: found.extend(described(m.asked, m.overrides, arguments)) or 0, program="test")
    return {d.name: d for d in found}


def test_every_setting_has_a_line_of_help():
    for arguments in (
        (),
        ("hardware=mi355x", "engine=vllm", "checkpoint=glm5_fp8"),
        ("cluster=example", "hydra/launcher=slurm", "engine=simulated"),
    ):
        assert [d.name for d in shown(*arguments).values() if not d.help] == []


def test_every_field_of_the_settings_is_listed():
    names = {d.split(".")[0] for d in shown()}

    assert names == {field.name for field in dataclasses.fields(Settings)}


def test_the_origin_is_the_file_the_experiment_or_the_command_line(tmp_path):
    (tmp_path / "price").mkdir()
    (tmp_path / "price" / "mine.yaml").write_text("id: mine\nusd_per_gpu_h: {h200: 2.0, b200: 3.0}\n")
    settings = shown("--config-dir", str(tmp_path), "experiment=quickstart", "price=mine", "engine.time_scale=30", "hardware=b200")

    assert settings["engine.time_scale"].origin == "command line"
    assert settings["workload.prompts_per_concurrency"].origin == "experiment=quickstart"
    assert settings["workload.isl_tokens"].origin == "workload/8k1k.yaml (workload: experiment)"
    assert settings["hardware.memory_gib"].origin == "hardware/b200.yaml (hardware: command line)"
    assert settings["price.usd_per_gpu_h.b200"].origin == f"{tmp_path}/price/mine.yaml (price: command line)"
    assert settings["seed"].origin == "config.yaml"


def test_a_value_that_differs_between_arms_is_listed_once_for_each():
    assert shown("hardware=h200,b200")["hardware.id"].values == ("h200", "b200")


def test_an_inherited_setting_names_the_file_that_has_it():
    assert shown("hardware=b300")["hardware.bandwidth_tb_s"].origin == "hardware/b200.yaml (hardware: command line)"


def test_comments_are_read_behind_values_also_behind_text_with_a_hash(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 'x # y' # first\nb: # second\n  c: [1, 2] # third\nd: 4\n")

    assert comments(tmp_path / "a.yaml") == {"a": "first", "b": "second", "b.c": "third"}
    assert comments(conf_dir() / "config.yaml")["seed"]


def test_the_recipe_alone_is_a_command_that_can_be_pasted(tmp_path):
    told = bench(tmp_path, "plan", "hardware=h200", "cluster.checkpoint_dir=/models", "--show", "recipe").stdout.splitlines()

    assert told[0].startswith("# h200-")
    assert "--model-path /models/zai-org/GLM-5-FP8 --host 127.0.0.1 --port 30000" in told[1]
    assert "$" not in told[1]
    assert [line for line in told if line] == told[:2]
