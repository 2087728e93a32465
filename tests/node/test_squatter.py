"""Another user who listens on the server's port first learns no key, and is not measured."""

import os
import shutil
import subprocess

import pytest
from program import SMALL, bench, status, until

NOBODY = 65534
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/usr/bin/python3"), reason="only root can run a process as another user"
)


@needs_root
def test_a_squatter_learns_no_key_and_the_point_is_measured_on_another_port(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shutil.copy(os.path.join(os.path.dirname(__file__), "..", "squatter.py"), shared)
    for folder in (shared, *[p for p in (tmp_path, *tmp_path.parents) if str(p).startswith("/tmp/")]):
        folder.chmod(0o755)
    (shared / "log").touch()
    os.chown(shared / "log", NOBODY, -1)
    command = ["/usr/bin/python3", str(shared / "squatter.py"), str(tmp_path), str(shared / "log"), "60"]
    with subprocess.Popen(command, user=NOBODY, cwd="/", env={"PATH": "/usr/bin"}) as squatter:
        done = bench(tmp_path, "sweep", *SMALL, "name=c", "wait=true", "concurrency=2", "engine.fault='slow_start:8'")
        until((shared / "log").read_text, "the squatter's log")
        squatter.kill()
    told = (shared / "log").read_text()

    assert done.returncode == 0, done.stderr
    assert told == "listening\n"  # no request reached it
    assert status(tmp_path)["counts"] == {"done": 1}
