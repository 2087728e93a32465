"""The definition files of containers/, built by the real Apptainer."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pip
import pytest
from contained import ENV, _root, _with_python
from program import ROOT

METADATA = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"


def apptainer(*arguments):
    return subprocess.run(["apptainer", *arguments], env={**os.environ, **ENV}, capture_output=True, text=True, timeout=120, check=False)


def base_directory(folder):
    """The files for an image of this Python, its pip, and a wheel to install."""
    root = _with_python(_root(folder / "root", ["/bin/sh", "/usr/bin/env", "/usr/bin/test", "/bin/rm", "/bin/cat", "/usr/bin/id"]))
    packages = (
        root / sys.base_prefix.lstrip("/") / "lib" / f"python3.{sys.version_info.minor}"
    )  # Debian's Python does not use site-packages
    shutil.copytree(Path(pip.__file__).parent, packages / "pip", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "wheels").mkdir()
    with zipfile.ZipFile(root / "wheels" / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "answer = 42\n")
        wheel.writestr("tiny-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "tiny.py,,\ntiny-1.0.dist-info/METADATA,,\ntiny-1.0.dist-info/WHEEL,,\n")
    return root


@pytest.mark.usefixtures("apptainer")
def test_packages_that_an_image_lacks_are_built_on_top_of_it(tmp_path):
    base, made = base_directory(tmp_path), tmp_path / "more.sif"
    definition = str(ROOT / "containers" / "python_packages.def")
    own = [] if os.geteuid() == 0 else ["--fakeroot"]
    built = apptainer(
        "build", *own, "--build-arg", f"base={base}", "--build-arg", "packages=/wheels/tiny-1.0-py3-none-any.whl", str(made), definition
    )
    said = apptainer("exec", "--contain", "--no-home", str(made), "python3", "-c", "import tiny; print(tiny.answer)")
    unnamed = apptainer("build", *own, "--build-arg", f"base={base}", str(tmp_path / "none.sif"), definition)

    assert built.returncode == 0, built.stdout + built.stderr
    assert said.stdout == "42\n", said.stderr
    assert unnamed.returncode != 0
    assert "next: --build-arg packages" in unnamed.stdout + unnamed.stderr
