"""conf/ and the Hydra plugins are found from a wheel, an editable install and a plain checkout."""

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from program import ROOT

PARTS = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "conf", "launchers", "glm5bench")
QUERY = "import glm5bench.settings as s; print(s.conf_dir())"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sources."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for part in PARTS:
        source = ROOT / part
        shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__")) if source.is_dir() else shutil.copy(source, copy)
    return copy


def environment(tmp_path: Path) -> Path:
    """A virtual environment that sees this one's dependencies, and no glm5bench of its own."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (packages / "dependencies.pth").write_text("\n".join([*site.getsitepackages(), sysconfig.get_path("purelib")]) + "\n")
    return folder / "bin" / "python"


def run(python: Path, cwd: Path, *arguments: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([python, *arguments], cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def plans_and_conf(python: Path, cwd: Path) -> tuple[int, Path]:
    plan = json.loads(run(python, cwd, "-m", "glm5bench", "plan", "experiment=h200_vs_b200", "--json"))
    return plan["n_points"], Path(run(python, cwd, "-c", QUERY).strip())


@pytest.mark.parametrize("editable", [False, True], ids=["wheel", "editable"])
def test_an_installed_package_brings_its_conf_and_plugins(tmp_path, checkout, editable):
    python = environment(tmp_path)
    how = ["-e", str(checkout)] if editable else [str(checkout)]
    run(Path(sys.executable), tmp_path, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-build-isolation", *how)
    (tmp_path / "elsewhere").mkdir()

    points, conf = plans_and_conf(python, tmp_path / "elsewhere")

    assert points == 20
    assert conf == checkout / "conf" if editable else conf.is_relative_to(tmp_path / "venv")


def test_a_plain_checkout_needs_no_installation(tmp_path, checkout):
    assert plans_and_conf(environment(tmp_path), checkout) == (20, checkout / "conf")
