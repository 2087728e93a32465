"""conf/ and the Hydra plugins are found from a wheel, an editable install and a plain checkout."""

import json
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from program import ROOT, required

PARTS = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "conf", "launchers", "glm5bench")
QUERY = "import glm5bench.settings.validated as s; print(s.conf_dir())"


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
    """A virtual environment with the dependencies of this one, but without glm5bench."""
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


def test_the_documented_lines_install_without_an_index(tmp_path, checkout):
    page = (ROOT / "docs/cluster.md").read_text()
    lines = [line.strip() for line in page[page.index("pip wheel ") :].split("## 2.")[0].splitlines() if line.startswith("    ")]
    (wheels, *offline) = ["pip wheel --wheel-dir wheels .", *lines]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    clean = {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "PATH": path}
    made = subprocess.run(wheels, shell=True, cwd=checkout, env=clean, capture_output=True, text=True, check=False)
    required("" if made.returncode == 0 else f"pip cannot build a wheel here: {made.stderr[-300:]}")

    assert len(offline) == 4
    cluster = tmp_path / "cluster"
    cluster.mkdir()
    (checkout / "wheels").rename(cluster / "wheels")
    no_index = {**clean, "PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_EXTRA_INDEX_URL": "", "PIP_CONFIG_FILE": os.devnull}
    said = ""
    for line in offline:
        done = subprocess.run(line, shell=True, cwd=cluster, env=no_index, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stderr)
        said += done.stdout
    assert "12 points" in said
    assert (cluster / "conf" / "cluster" / "template.yaml").is_file()


def test_the_source_distribution_contains_every_file_that_its_readme_names(tmp_path):
    run(Path(sys.executable), ROOT, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path))
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    named = set(re.findall(r"(?:sh |\]\()((?:[\w./-]+)\.(?:sh|md|png))", (ROOT / "README.md").read_text()))

    assert {"quickstart.sh", "environment.sh", "CONTRIBUTING.md", "tests/run.sh", *named} <= names


@pytest.mark.parametrize(("version", "is_taken"), [("3.9", False), ("3.10", True), ("3.13", True), ("3.14", False)])
def test_a_python_that_does_not_work_is_refused_before_anything_is_installed(tmp_path, version, is_taken):
    major, minor = version.split(".")
    python = tmp_path / "python"
    told = f"import sys; sys.version_info = ({major}, {minor}, 0, 'final', 0); exec(sys.argv[1])"
    python.write_text(
        f'#!/bin/sh\ncase "$1" in -V) echo "Python {version}.0";; -c) exec {sys.executable} -c "{told}" "$2";; *) exit 7;; esac\n'
    )
    python.chmod(0o755)
    shutil.copy(ROOT / "environment.sh", tmp_path)
    env = {**os.environ, "PYTHON": str(python), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "environment.sh"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    assert done.returncode != 0  # this Python cannot create environments
    assert ("glm5bench needs Python 3.10 to 3.13" in done.stderr) != is_taken


def test_the_lock_has_every_dependency_in_a_version_that_is_allowed_with_hashes():
    text = (ROOT / "requirements.lock").read_text()
    locked = re.findall(r"^([a-z0-9-]+)==(\S+)((?:.*\\\n)(?: {4}--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.M)
    versions = {}
    for name, version, _ in locked:
        versions.setdefault(name, []).append(version)

    assert len(locked) == len(re.findall(r"^[a-z]", text, re.M)), "a package without hashes"
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
    for asked in map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]):
        assert versions.get(asked.name), f"{asked.name} is not locked: CONTRIBUTING.md says how"
        assert all(asked.specifier.contains(version) for version in versions[asked.name])
