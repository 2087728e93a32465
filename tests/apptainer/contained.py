"""Real images for a real Apptainer: one with this Python for the simulated server, and some that are wrong on purpose."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from program import ROOT, required

HERE = Path(__file__).resolve().parent
BIN = "/opt/glm5bench-apptainer/bin"
PATH = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
# if the kernel does not give this capability to root, as in many containers, Apptainer must not request it
ENV = {"PATH": PATH, "APPTAINER_DROP_CAPS": "CAP_SYS_RESOURCE"}
SITE_PACKAGES = next(p for p in sys.path if p.endswith("site-packages"))
SWITCHES = ("--trust-remote-code", "--enable-flashinfer-allreduce-fusion")
WRONG = {
    "no_python": "",
    "exits": "#!/bin/sh\nexit 3\n",
    "hangs": "#!/bin/sh\nexec sleep 1000\n",
    "forks": "#!/bin/sh\nsetsid sleep 1000 & setsid sh -c 'sleep 1000 & sleep 1000' & sleep 1 & exit 0\n",
    "fills_its_tmp": "#!/bin/sh\nwhile cat /bin/sh /bin/sh >> /tmp/full; do :; done; exit 28\n",
    "ignores_sigterm": "#!/bin/sh\ntrap '' TERM\nsetsid sleep 1000 & sleep 1000 & while :; do sleep 1; done\n",
}


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in Path(item.fspath).parents:
            item.add_marker(pytest.mark.apptainer)


@pytest.fixture(scope="session")
def apptainer():
    """Skips the test if Apptainer is missing, with a hint how to install it."""
    is_there = shutil.which("apptainer", path=PATH)
    required("" if is_there else "apptainer is missing: run `sh tests/apptainer/install.sh` as root")


@pytest.fixture(scope="session")
def simulated_image(apptainer, tmp_path_factory):
    """A directory with simulated.sif: this Python, for the simulated server."""
    folder = tmp_path_factory.mktemp("images")
    folder.chmod(0o755)  # other users must read it
    _build(folder / "simulated.sif", _with_python(_root(folder / "python", ["/bin/sh", "/bin/cat", "/usr/bin/touch", "/usr/bin/env"])))
    return folder


@pytest.fixture(scope="session")
def images(simulated_image):
    """The same directory, which also contains the wrong images."""
    folder = simulated_image
    shell = _root(folder / "shell", ["/bin/sh", "/bin/sleep", "/bin/cat", "/usr/bin/setsid"])
    for name, script in WRONG.items():
        python = shell / "usr" / "bin" / "python3"
        python.unlink(missing_ok=True)
        if script:
            python.write_text(script)
            python.chmod(0o755)
        _build(folder / f"{name}.sif", shell)
    _build(folder / "engine.sif", _with_engine(_with_python(_root(folder / "engine", ["/bin/sh"]))))
    (folder / "corrupt.sif").write_bytes((folder / "exits.sif").read_bytes()[:5000])
    return folder


def contained(directory, image, site_packages=SITE_PACKAGES):
    """Overrides that start the simulated server from an image. The packages that it imports are bind mounts."""
    return [f"engine.image={image}", f"++cluster.image_dir={directory}", f"++cluster.binds=[{site_packages}]", "engine.start_timeout_s=20"]


def python_path(root=ROOT, site_packages=SITE_PACKAGES):
    """The paths from which the simulated server imports, inside and outside the image."""
    return f"{root}{os.pathsep}{site_packages}"


def _root(root, programs):
    """A root file system with these programs and the libraries that they need."""
    for name in ("bin", "usr/bin", "etc", "proc", "sys", "dev", "tmp", "var/tmp", "root"):
        (root / name).mkdir(parents=True)
    for name in ("passwd", "group", "hosts", "resolv.conf"):
        (root / "etc" / name).touch()
    for program in programs:
        _copy_with_libraries(root, program)
    return root


def _copy_with_libraries(root, program):
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    for file in [program, *(word for line in linked.splitlines() for word in line.split() if word.startswith("/"))]:
        target = root / file.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy(os.path.realpath(file), target)


def _with_python(root):
    """The interpreter that runs the tests, and its standard library."""
    base, version = Path(sys.base_prefix), f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = base / "lib" / version
    unwanted = shutil.ignore_patterns(
        "test", "tests", "site-packages", "dist-packages", "__pycache__", "idlelib", "ensurepip", "*.a", "config-*"
    )
    shutil.copytree(library, root / library.relative_to("/"), ignore=unwanted)
    python = os.path.realpath(sys.executable)
    _copy_with_libraries(root, python)
    for name in (
        "libgcc_s.so.1",
        "libstdc++.so.6",
        "libz.so.1",
        "librt.so.1",
        "libpthread.so.0",
        "libdl.so.2",
        "libutil.so.1",
        "libm.so.6",
    ):  # system libraries that wheels expect
        _copy_with_libraries(root, f"/usr/lib/x86_64-linux-gnu/{name}")
    for extension in (library / "lib-dynload").glob("*.so"):
        _copy_with_libraries(root, str(extension))
    (root / "usr" / "bin" / "python3").unlink(missing_ok=True)
    (root / "usr" / "bin" / "python3").symlink_to(python)
    return root


def _with_engine(root):
    """A package with the flags of SGLang's parser."""
    packages = (
        root / sys.base_prefix.lstrip("/") / "lib" / f"python3.{sys.version_info.minor}"
    )  # Debian's Python does not use site-packages
    flags = "--model-path --host --port --tp-size --tool-call-parser --reasoning-parser --mem-fraction-static --served-model-name"
    lines = [f"        parser.add_argument({flag!r})" for flag in flags.split()]
    lines += [f"        parser.add_argument({flag!r}, action='store_true')" for flag in SWITCHES]
    for name in ("sglang/srt", "sglang-0.5.12.dist-info"):
        (packages / name).mkdir(parents=True)
    (packages / "sglang/srt/server_args.py").write_text(
        "class ServerArgs:\n    @staticmethod\n    def add_cli_args(parser):\n" + "\n".join(lines) + "\n"
    )
    (packages / "sglang-0.5.12.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: sglang\nVersion: 0.5.12\n")
    return root


def _build(sif, root):
    command = ["apptainer", "build", "--force", str(sif), str(root)]
    subprocess.run(command, env={**os.environ, **ENV}, check=True, capture_output=True, timeout=200)


@pytest.fixture
def apptainer_user(simulated_image):
    """An ordinary user of this machine without special rights."""
    base = Path(tempfile.mkdtemp(prefix="g5u-"))
    base.chmod(0o755)
    made = OrdinaryUser(base, simulated_image)
    yield made
    shutil.rmtree(base, ignore_errors=True)


class OrdinaryUser:
    """The user `nobody` in a separate mount namespace with this Python, this checkout and /dev/fuse, even if they are in root's home."""

    def __init__(self, base, images):
        self.base, self.home, self.site, self.images = base, base / "home", base / "site", base / "images"
        self._seen = {sys.base_prefix: base / "python", SITE_PACKAGES: self.site, ROOT: base / "checkout", images: self.images}
        for folder in (self.home, *self._seen.values()):
            folder.mkdir()
        (base / "fuse").touch()
        os.chown(self.home, 65534, 65534)

    def run(self, *arguments):
        """Runs `glm5bench ARGUMENTS` in the user's home and waits for it."""
        binds = "".join(f"mount --bind '{theirs}' '{here}' && " for theirs, here in self._seen.items())
        fuse = f"mount -t tmpfs -o mode=755,dev tmpfs '{self.base}/dev' && mknod -m 666 '{self.base}/dev/fuse' c 10 229"
        script = f'{binds}mkdir -p "{self.base}/dev" && {fuse} && mount --bind "{self.base}/dev/fuse" /dev/fuse && exec "$@"'
        user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        python = self.base / "python" / "bin" / f"python3.{sys.version_info.minor}"
        env = {
            "PATH": PATH, "HOME": str(self.home), "PYTHONHOME": str(self.base / "python"), "GLM5BENCH_LOCK_DIR": str(self.home),
            "PYTHONPATH": python_path(self.base / "checkout", self.site), "PYTHONDONTWRITEBYTECODE": "1",
            "LD_LIBRARY_PATH": str(self.base / "python" / "lib"),
        }  # fmt: skip
        command = ["unshare", "-m", "sh", "-c", script, "sh", *user, str(python), "-m", "glm5bench", *arguments]
        return subprocess.run(command, cwd=self.home, env=env, capture_output=True, text=True, timeout=90, check=False)
