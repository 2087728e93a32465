"""A node job whose server runs from a real image: it measures, sees only its binds, and ends even if the image misbehaves."""

import json
import os
import subprocess
import sys

import pytest
from contained import ENV, contained, python_path
from program import ROOT, SMALL, bench, processes_of, status, until
from program import environment as shell

from glm5bench.archive.pointfile import read_point
from glm5bench.errors import ServerError
from glm5bench.files import sha256
from glm5bench.images.record import Record, write_record
from glm5bench.machine.container import CACHE, Image, environment, inside
from glm5bench.node.command import Place
from glm5bench.node.server import running
from glm5bench.recipe import bound
from glm5bench.settings.overrides import compose


def test_a_sweep_measures_a_server_that_runs_from_an_image(images, tmp_path):
    asked = [*SMALL, "name=c", *contained(images, "simulated.sif")]
    done = bench(tmp_path, "sweep", *asked, "wait=true", "concurrency=2,3", PYTHONPATH=python_path(), **ENV)

    assert done.returncode == 0, done.stderr
    points = [read_point(f)[0] for f in (tmp_path / "outputs/c/points").glob("*.h5")]
    assert {p.provenance["container"] for p in points} == {f"{images}/simulated.sif"}
    assert {p.point["image"] for p in points} == {"simulated.sif"}
    until(lambda: not processes_of(tmp_path), "the end of every process")


@pytest.mark.parametrize("is_right", [True, False])
def test_a_start_verifies_the_pinned_hash_of_the_image_and_refuses_other_content(images, tmp_path, is_right):
    pin = sha256(images / "simulated.sif") if is_right else "0" * 64
    text = (ROOT / "conf" / "cluster" / "local.yaml").read_text()
    (tmp_path / "site" / "cluster").mkdir(parents=True)
    (tmp_path / "site" / "cluster" / "here.yaml").write_text(text.replace("sif_sha256: {}", f"sif_sha256: {{simulated.sif: '{pin}'}}"))
    asked = [*SMALL, "name=c", *contained(images, "simulated.sif"), "--config-dir", "site", "cluster=here"]
    done = bench(tmp_path, "sweep", *asked, "wait=true", "concurrency=2", PYTHONPATH=python_path(), **ENV)

    assert done.returncode == (0 if is_right else 1), done.stderr
    ((state, class_),) = [(p["state"], p["failure_class"]) for p in status(tmp_path)["points"]]
    assert (state, class_) == (("done", "") if is_right else ("failed", "image_missing"))


WRONG = [
    ("corrupt.sif", "image_missing"),
    ("no_python.sif", "image_missing"),
    ("exits.sif", "server_crash"),
    ("hangs.sif", "server_start_timeout"),
    ("ignores_sigterm.sif", "server_start_timeout"),
    ("forks.sif", "server_crash"),
]


@pytest.mark.parametrize(("image", "class_"), WRONG)
def test_an_image_that_is_wrong_fails_the_point_with_its_class_and_leaves_nothing_running(images, tmp_path, image, class_):
    patience = ["engine.start_timeout_s=3"] if class_ == "server_start_timeout" else []
    done = bench(tmp_path, "sweep", *SMALL, "name=c", *contained(images, image), *patience, "wait=true", "concurrency=2", **ENV)

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
    command = inside(["python3", "-c", ask], image, hardware, reads=[], folder=tmp_path, scratch=tmp_path / "scratch", has_gpus=False)
    said = subprocess.run(
        command, env=environment({"ASKED": "$(echo 1) $HOME", "VLLM_API_KEY": "key"}), capture_output=True, text=True, check=True
    )
    seen, root, home = json.loads(said.stdout)

    assert (seen["ASKED"], seen["VLLM_API_KEY"], home) == ("$(echo 1) $HOME", "key", CACHE)  # exactly as in the key
    assert not {"MY_TOKEN", "LEAK"} & set(seen)
    assert "work" not in root
    assert "key" not in " ".join(command)


def test_the_inside_reads_the_checkpoint_and_cannot_write_it_and_its_cache_outlives_it(images, tmp_path, monkeypatch):
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    model, image = tmp_path / "model", Image(images, "simulated.sif", tmp_path / "cache", ())
    model.mkdir()
    (model / "config.json").write_text("{}")
    (tmp_path / "scratch").mkdir()
    script = f"cat {model}/config.json && echo kernel > ~/compiled && ! touch {model}/x && ! touch /x"
    hardware = compose("hardware=b200").arm.hardware
    command = inside(
        ["sh", "-c", script],
        image,
        hardware,
        reads=[str(model)],
        folder=tmp_path / "scratch",
        scratch=tmp_path / "scratch",
        has_gpus=False,
    )
    done = subprocess.run(command, env=environment({}), capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "{}"), done.stderr
    assert [f.read_text() for f in (tmp_path / "cache").rglob("sm100/compiled")] == ["kernel\n"]
    assert [f.name for f in model.iterdir()] == ["config.json"]


def test_a_command_is_parsed_by_the_engine_in_its_image(images, tmp_path):
    asked = ["plan", "hardware=h200", "speculative=off", "engine.image=engine.sif", f"cluster.image_dir={images}", "--validate"]
    taken = bench(tmp_path, *asked, **ENV)
    refused = bench(tmp_path, *asked, "engine.extra_args=[--bogus,1]", **ENV)

    assert taken.returncode == 0, taken.stdout + taken.stderr
    assert f"taken by the parser of 0.5.12 ({images}/engine.sif)" in taken.stdout
    assert refused.returncode == 1
    assert "--bogus 1, from engine.extra_args: unrecognized arguments" in refused.stdout


def test_a_server_that_fills_its_tmp_fills_that_of_its_node_and_neither_the_campaign_nor_anything_for_long(images, tmp_path):
    small = tmp_path / "node"
    small.mkdir()
    words = ["sweep", *SMALL, "name=c", *contained(images, "fills_its_tmp.sif"), "wait=true", "concurrency=2"]
    script = 'mount -t tmpfs -o size=4m tmpfs "$TMPDIR" && "$@"; code=$?; ls -A "$TMPDIR" >&2; exit $code'
    alone = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    done = subprocess.run(
        [*alone, "sh", "-c", script, "sh", sys.executable, "-m", "glm5bench", *words],
        cwd=tmp_path, env={**shell(tmp_path), **ENV, "TMPDIR": str(small)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    (point,) = status(tmp_path)["points"]

    assert done.returncode == 1
    assert (point["failure_class"], "No space left on device" in point["message"]) == ("server_crash", True), point
    assert "glm5bench-" not in done.stderr.splitlines()[-1]


def test_a_cache_that_cannot_be_made_is_the_node_s_fault_and_no_defect(images, tmp_path):
    asked = [*SMALL, "name=c", *contained(images, "simulated.sif"), "cluster.cache_dir=/proc/none", "concurrency=2,3"]
    done = bench(tmp_path, "sweep", *asked, "wait=true", **ENV)

    assert [(p["state"], p["failure_class"]) for p in status(tmp_path)["points"]] == [("failed", "node_fault")] * 2
    assert "Traceback" not in done.stderr + "".join(f.read_text() for f in (tmp_path / "outputs/c/jobs/submitit").glob("*_log.*"))


def test_an_image_that_is_not_the_pinned_one_starts_nothing_on_the_node_either(images, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", ENV["PATH"])
    arm, pin = compose("engine=simulated").arm, "sha256:" + "1" * 64
    image = Image(tmp_path, f"team/engine:1@{pin}", tmp_path / "cache", ())
    image.sif.write_bytes((images / "exits.sif").read_bytes())
    write_record(image.sif, Record("team/engine:1", "sha256:" + "2" * 64, "", image.sif.stat().st_size, "", ""))
    place = Place(tmp_path / "f", "model", "here", lambda: False, image)

    with pytest.raises(ServerError, match="pinned to sha256:111111111111") as raised, running(bound(arm, 1), arm, place):
        pass

    assert raised.value.failure_class == "image_missing"


@pytest.mark.skipif(os.geteuid() != 0, reason="this session is an ordinary user's: every other test here has run as one")
def test_an_ordinary_user_measures_from_an_image_without_setuid(images, tmp_path, apptainer_user):
    inside = contained(apptainer_user.images, "simulated.sif", apptainer_user.site)
    done = apptainer_user.run("sweep", *SMALL, "name=c", *inside, "wait=true", "concurrency=2")
    files = list((apptainer_user.home / "outputs/c/points").glob("*.h5"))

    assert done.returncode == 0, done.stderr
    assert [(f.stat().st_uid, read_point(f)[0].provenance["container"].endswith("simulated.sif")) for f in files] == [(65534, True)]
    until(lambda: not processes_of(apptainer_user.home), "the end of every process")


@pytest.mark.skipif(os.geteuid() != 0, reason="this session is an ordinary user's: every other test here has run as one")
@pytest.mark.parametrize(("image", "class_"), WRONG)
def test_an_ordinary_user_is_told_what_is_wrong_with_an_image_and_keeps_nothing_running(images, apptainer_user, image, class_):
    patience = ["engine.start_timeout_s=3"] if class_ == "server_start_timeout" else []
    inside = contained(apptainer_user.images, image, apptainer_user.site)
    done = apptainer_user.run("sweep", *SMALL, "name=c", *inside, *patience, "wait=true", "concurrency=2")
    (point,) = status(apptainer_user.home)["points"]

    assert done.returncode == 1, done.stderr
    assert (point["state"], point["failure_class"]) == ("failed", class_), point
    until(lambda: not processes_of(apptainer_user.home), "the end of every process")
