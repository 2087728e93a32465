"""A node job whose server runs from a real image: it measures, sees what it is shown, and ends whatever the image does."""

import json
import os
import subprocess

import pytest
from contained import ENV, SITE_PACKAGES
from program import SMALL, bench, processes_of, status, until

from glm5bench.node.container import CACHE, Image, environment, inside
from glm5bench.settings import compose
from glm5bench.store.pointfile import read_point


def contained(images, image):
    """Overrides that start the simulated server from an image. What it imports is bound beside it."""
    binds = f"cluster.binds=[{os.path.dirname(os.path.dirname(os.path.dirname(SITE_PACKAGES)))}]"
    return [*SMALL, "name=c", f"engine.image={image}", f"cluster.image_dir={images}", binds, "engine.start_timeout_s=20"]


def test_a_sweep_measures_a_server_that_runs_from_an_image(images, tmp_path):
    asked = contained(images, "simulated.sif")
    done = bench(tmp_path, "sweep", *asked, "wait=true", "concurrency=2,3", PYTHONPATH=path(), **ENV)

    assert done.returncode == 0, done.stderr
    points = [read_point(f)[0] for f in (tmp_path / "outputs/c/points").glob("*.h5")]
    assert {p.provenance["container"] for p in points} == {f"{images}/simulated.sif"}
    assert {p.point["image"] for p in points} == {"simulated.sif"}
    until(lambda: not processes_of(tmp_path), "the end of every process")


def path():
    """What the simulated server imports from, inside and outside."""
    return os.pathsep.join([os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), SITE_PACKAGES])


@pytest.mark.parametrize(
    ("image", "class_"),
    [
        ("corrupt.sif", "image_missing"),
        ("no_python.sif", "image_missing"),
        ("exits.sif", "server_crash"),
        ("hangs.sif", "server_start_timeout"),
        ("ignores_sigterm.sif", "server_start_timeout"),
    ],
)
def test_an_image_that_is_wrong_fails_the_point_with_its_class_and_leaves_nothing_running(images, tmp_path, image, class_):
    patience = ["engine.start_timeout_s=3"] if class_ == "server_start_timeout" else []
    done = bench(tmp_path, "sweep", *contained(images, image), *patience, "wait=true", "concurrency=2", **ENV)

    assert done.returncode == 1
    assert [(p["state"], p["failure_class"]) for p in status(tmp_path)["points"]] == [("failed", class_)]
    until(lambda: not processes_of(tmp_path), "the end of every process")


def test_the_inside_sees_the_recipe_s_environment_and_nothing_of_the_user_s(images, tmp_path, monkeypatch):
    for name, value in {**ENV, "MY_TOKEN": "secret", "APPTAINERENV_LEAK": "secret"}.items():
        monkeypatch.setenv(name, value)
    image = Image(images, "simulated.sif", tmp_path / "cache", ())
    (tmp_path / "scratch").mkdir()
    ask = "import json, os; print(json.dumps([dict(os.environ), os.listdir('/'), os.path.expanduser('~')]))"
    hardware = compose("hardware=b200").arm.hardware
    command = inside(["python3", "-c", ask], image, hardware, reads=[], folder=tmp_path, scratch=tmp_path / "scratch", is_simulated=True)
    said = subprocess.run(command, env=environment({"ASKED": "1", "VLLM_API_KEY": "key"}), capture_output=True, text=True, check=True)
    seen, root, home = json.loads(said.stdout)

    assert (seen["ASKED"], seen["VLLM_API_KEY"], home) == ("1", "key", CACHE)
    assert not {"MY_TOKEN", "LEAK"} & set(seen)
    assert "work" not in root
    assert "key" not in " ".join(command)
