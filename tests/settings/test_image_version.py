"""An image whose version differs from that of the recipe's flags is refused before anything is submitted."""

import pytest
from conftest import plan
from program import bench

from glm5bench.errors import SettingsError
from glm5bench.settings.overrides import compose
from glm5bench.settings.validated import conf_dir

OWN = "engine.image=lmsysorg/sglang:"


@pytest.mark.parametrize(
    ("settings", "said", "next_step"),
    [
        ([OWN + "v0.5.13-cu130"], "has version 0.5.13, but engine.version=0.5.12", "sglang:v0.5.12-cu130, or engine.version=0.5.13"),
        (["engine.version=0.5.23"], "has version 0.5.12, but engine.version=0.5.23", "engine.image=lmsysorg/sglang:v0.5.23-cu130"),
        ([OWN + "v0.5.12.post1"], "has version 0.5.12.post1", "engine.version=0.5.12.post1"),
        (["engine.image=sglang_v0.5.13-cu130.sif"], "has version 0.5.13", "engine.version=0.5.13"),
        ([OWN + "latest"], "points to a new image after each release", "engine.image=lmsysorg/sglang:v0.5.12"),
        ([OWN + "nightly-dev-cu13"], "points to a new image after each release", "engine.image=lmsysorg/sglang:v0.5.12"),
        (["engine.image=registry:5000/mine/sglang"], "points to a new image after each", "engine.image=registry:5000/mine/sglang:v0.5.12"),
    ],
)  # fmt: skip
def test_an_image_of_another_version_is_refused_with_the_one_that_fits(settings, said, next_step):
    with pytest.raises(SettingsError) as raised:
        plan([compose("hardware=b200", *settings)])

    assert said in raised.value.message
    assert next_step in raised.value.next_step


@pytest.mark.parametrize(
    "settings",
    [
        [OWN + "v0.5.12"],
        [OWN + "v0.5.23-cu130", "engine.version=0.5.23"],
        ["engine=vllm", "engine.version=0.16.0", "engine.image=vllm/vllm-openai:v0.16"],
        ["engine.image=mine.sif"],
        ["engine.image=sglang_v0.5.12-cu130.sif"],
        ["engine.image=me/sglang:patched"],
        ["engine.image='me/sglang:latest@sha256:" + "a" * 64 + "'"],
        ["engine.image=none"],
        ["engine=simulated"],
    ],
    ids=lambda s: s[-1],
)
def test_an_image_that_may_be_of_this_version_is_taken(settings):
    assert plan([compose("hardware=b200", "speculative=off", *settings)]).points


@pytest.mark.parametrize("own", [["engine.image=mine.sif"], [], [OWN + "v0.5.13"]], ids=str)
def test_two_versions_of_one_image_are_refused_with_the_way_to_compare_them(own):
    with pytest.raises(SettingsError, match=r"engine\.version is 0\.5\.12 and 0\.5\.13, but both use the image ") as raised:
        plan([compose("hardware=b200", f"engine.version={v}", *own) for v in ("0.5.12", "0.5.13")])

    assert "glm5bench diff" in raised.value.next_step


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml")))
def test_no_shipped_experiment_is_refused_for_its_images(tmp_path, experiment):
    assert bench(tmp_path, "plan", f"experiment={experiment}").returncode == 0
