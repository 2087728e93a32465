"""One real cluster per test worker, and a site on it: a directory with a conf/cluster that describes this cluster."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from cluster import Cluster, lacks
from program import ROOT, processes_of, required, until

HERE = Path(__file__).resolve().parent
# Windows of half a second: a stall of a busy machine stays below a tenth of the window, so the concurrency counts as reached.
SMALL = (
    "engine=simulated", "engine.time_scale=4", "workload.isl_tokens=1024", "workload.osl_tokens=128",
    "workload.prompts_per_concurrency=2", "workload.warmups_per_concurrency=0",
)  # fmt: skip
LONG = (*SMALL, "engine.time_scale=5", "workload.prompts_per_concurrency=6")  # points of some seconds
CLUSTER = """\
id: test
executor: slurm
checkpoint_dir: null
slurm: {partition: null, account: null, qos: null, constraint: null, reservation: null, gres: null, gpus_per_node: null, exclusive: false,
  cpus_per_task: 2, mem: 1G, time_limit_min: null, max_time_min: 60, setup: [], sbatch: {}, wckey: null, concurrent_jobs: 4}
hardware:
  h200: {partition: h200, gres: 'gpu:h200:$GPUS'}
  b200: {partition: b200, gres: 'gpu:b200:$GPUS', cpus_per_task: 4}
  mi355x: {partition: mi355x, gpus_per_node: 'mi355x:$GPUS', mem: 2G, setup: [export SITE=mine]}
stop_before_s: 20
poll_s: 1
"""


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in Path(item.fspath).parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def cluster():
    required(lacks())
    base = Path(tempfile.mkdtemp(prefix="g5s-"))
    base.chmod(0o755)
    made = Cluster(base, max_array_size=3).up()
    yield made
    made.down()


@pytest.fixture
def site(cluster, tmp_path):
    made = Site(cluster, tmp_path)
    yield made
    made.clean_up()


class Site:
    """A user's directory on the login node."""

    def __init__(self, cluster, root, name="c"):
        self.cluster, self.root, self.name = cluster, root, name
        self.campaign = root / "outputs" / name
        self.env = {**cluster.env, "PYTHONPATH": str(ROOT)}
        (root / "conf" / "cluster").mkdir(parents=True, exist_ok=True)
        (root / "conf" / "cluster" / "test.yaml").write_text(CLUSTER)

    def bench(self, *arguments, timeout=120, **variables):
        """Runs `glm5bench ARGUMENTS` on the login node."""
        command = [sys.executable, "-m", "glm5bench", *arguments]
        return subprocess.run(
            command, cwd=self.root, env={**self.env, **variables}, capture_output=True, text=True, timeout=timeout, check=False
        )

    def overrides(self, *more):
        """The arguments of `sweep` for this site's campaign."""
        return ["sweep", "--config-dir", "conf", "hydra/launcher=slurm", "cluster=test", f"name={self.name}", *more]

    def sweep(self, *more, **variables):
        """Runs a sweep that returns immediately. Raises if it fails."""
        done = self.bench(*self.overrides(*more), **variables)
        assert done.returncode == 0, done.stderr
        return done

    def status(self, **variables):
        """The output of `status --json`."""
        done = self.bench("status", "--json", str(self.campaign), **variables)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def lines(self, kind=""):
        """The lines of submissions.jsonl with this kind."""
        lines = [json.loads(line) for line in (self.campaign / "submissions.jsonl").read_text().splitlines()]
        return [line for line in lines if kind in ("", line["kind"])]

    def resubmit(self, *more):
        """The output of `resubmit --json`."""
        done = self.bench("resubmit", "--json", str(self.campaign), *more)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def over(self, seconds=150):
        """The status after the last job has ended."""
        return self.until(lambda: (s := self.status()) and not s["jobs"] and s, seconds, "the end of all jobs")

    def until(self, condition, seconds=60, what=""):
        """The value of the condition as soon as it is true. If it never is, the error shows the state of the campaign."""
        try:
            return until(condition, what, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tell()}") from error

    def tell(self):
        """The state of the campaign and of Slurm, to print when a test fails."""
        logs = [f"{f.name}: {f.read_text()[-600:]}" for f in sorted(self.campaign.glob("jobs/submitit/*_log.err"))]
        return "\n".join([self.cluster.run("squeue", check=False), self.cluster.run("sinfo", "-NR", check=False), *logs])

    def beat(self, phase="measuring"):
        """The heartbeat of a job in this phase, and its folder. None if no job is in this phase."""
        for path in self.campaign.glob("jobs/*/heartbeat.json"):
            beat = json.loads(path.read_text())
            if beat["phase"] == phase and time.time() - beat["time_utc_s"] < 5:
                return {**beat, "job_id": path.parent.name}
        return None

    def measuring(self):
        """The heartbeat of a job that is measuring."""
        return self.until(self.beat, 60, "a job that measures")

    def whole(self):
        """Complete measurements by key."""
        return Counter(f.name.partition(".")[0] for f in self.campaign.glob("points/*.h5"))

    def processes(self, word=""):
        """Live processes of this site's jobs whose command line contains this text."""
        found = {**processes_of(self.root), **processes_of(self.campaign)}
        return {pid: line for pid, line in found.items() if word in line}

    def job_pythons(self):
        """The job processes on the nodes, without srun."""
        return [pid for pid, line in self.processes("submitit.core._submit").items() if "srun" not in line]

    def job_executable(self):
        """The Python that runs the jobs."""
        return sys.executable

    def assert_complete(self, n_points):
        """Asserts that every point is complete and measured once, and that no process of this site is left."""
        now = self.over()
        assert now["counts"] == {"done": n_points}, [p for p in now["points"] if p["state"] != "done"] + [self.tell()]
        self.assert_once(n_points)

    def assert_once(self, n_points):
        """Asserts this number of complete points, without duplicates and with valid files, and no process left."""
        assert self.whole() == dict.fromkeys(self.whole(), 1)
        assert len(self.whole()) == n_points
        checked = self.bench("check", str(self.campaign / "points"))
        assert checked.returncode == 0, checked.stdout + checked.stderr
        self.until(lambda: not self.processes(), 20, f"the end of {self.processes()}")

    def clean_up(self):
        """Ends the processes of a failed test, and repairs the cluster for the next test."""
        ids = self.cluster.run("squeue", "-h", "-o", "%A", check=False).split()
        if ids:
            self.cluster.run("scancel", *ids, check=False)
        self.until(lambda: not self.cluster.run("squeue", "-h", check=False), 150, "an empty queue")
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.campaign, ignore_errors=True)
