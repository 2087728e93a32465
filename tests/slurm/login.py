"""One real cluster a test worker, and a site on it: a directory of its own with a conf/cluster that says what this Slurm has."""

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
# A window of half a second: a stall of a busy machine is no tenth of it, and the concurrency counts as reached.
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

    def __init__(self, cluster, root):
        self.cluster, self.root = cluster, root
        self.campaign = root / "outputs" / "c"
        self.env = {**cluster.env, "PYTHONPATH": str(ROOT)}
        (root / "conf" / "cluster").mkdir(parents=True)
        (root / "conf" / "cluster" / "test.yaml").write_text(CLUSTER)

    def bench(self, *arguments, timeout=120, **variables):
        """Runs `glm5bench ARGUMENTS` on the login node."""
        command = [sys.executable, "-m", "glm5bench", *arguments]
        return subprocess.run(
            command, cwd=self.root, env={**self.env, **variables}, capture_output=True, text=True, timeout=timeout, check=False
        )

    def overrides(self, *more):
        """`sweep` and the overrides of a campaign named c."""
        return ["sweep", "--config-dir", "conf", "hydra/launcher=slurm", "cluster=test", "name=c", *more]

    def sweep(self, *more, **variables):
        """A sweep that comes back at once. Raises where it fails."""
        done = self.bench(*self.overrides(*more), **variables)
        assert done.returncode == 0, done.stderr
        return done

    def status(self, **variables):
        """What `status --json` says."""
        done = self.bench("status", "--json", str(self.campaign), **variables)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def lines(self, kind=""):
        """The lines of submissions.jsonl, of one kind."""
        lines = [json.loads(line) for line in (self.campaign / "submissions.jsonl").read_text().splitlines()]
        return [line for line in lines if kind in ("", line["kind"])]

    def resubmit(self, *more):
        """What `resubmit --json` says."""
        done = self.bench("resubmit", "--json", str(self.campaign), *more)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def over(self, seconds=150):
        """The status when no job is live any more."""
        return self.until(lambda: (s := self.status()) and not s["jobs"] and s, seconds, "the end of all jobs")

    def until(self, condition, seconds=60, what=""):
        """The condition's value as soon as it is true; where it never is, with what there is to see."""
        try:
            return until(condition, what, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tell()}") from error

    def tell(self):
        """What there is to see when a test fails."""
        logs = [f"{f.name}: {f.read_text()[-600:]}" for f in sorted(self.campaign.glob("jobs/submitit/*_log.err"))]
        return "\n".join([self.cluster.run("squeue", check=False), self.cluster.run("sinfo", "-NR", check=False), *logs])

    def beat(self, phase="measuring"):
        """The heartbeat of some job in this phase, and its folder; None where there is none."""
        for path in self.campaign.glob("jobs/*/heartbeat.json"):
            beat = json.loads(path.read_text())
            if beat["phase"] == phase and time.time() - beat["time_utc_s"] < 5:
                return {**beat, "job_id": path.parent.name}
        return None

    def measuring(self):
        """The heartbeat of a job in mid-measurement."""
        return self.until(self.beat, 60, "a job that measures")

    def whole(self):
        """Whole measurements, by key."""
        return Counter(f.name.partition(".")[0] for f in self.campaign.glob("points/*.h5"))

    def processes(self, word=""):
        """Living processes of this site's jobs, by what their command line holds."""
        found = {**processes_of(self.root), **processes_of(self.campaign)}
        return {pid: line for pid, line in found.items() if word in line}

    def job_pythons(self):
        """The processes of the jobs themselves, on the nodes."""
        return [pid for pid, line in self.processes("submitit.core._submit").items() if "srun" not in line]

    def job_executable(self):
        """The Python that jobs are run with."""
        return sys.executable

    def assert_complete(self, n_points):
        """Every point is whole, measured once, and nothing of this site runs any more."""
        now = self.over()
        assert now["counts"] == {"done": n_points}, [p for p in now["points"] if p["state"] != "done"] + [self.tell()]
        self.assert_once(n_points)

    def assert_once(self, n_points):
        """So many whole points, none twice, all of them sound, and nothing left running."""
        assert self.whole() == dict.fromkeys(self.whole(), 1)
        assert len(self.whole()) == n_points
        checked = self.bench("check", str(self.campaign / "points"))
        assert checked.returncode == 0, checked.stdout + checked.stderr
        self.until(lambda: not self.processes(), 20, f"the end of {self.processes()}")

    def clean_up(self):
        """Ends what a failed test left, and makes the cluster whole again for the next."""
        ids = self.cluster.run("squeue", "-h", "-o", "%A", check=False).split()
        if ids:
            self.cluster.run("scancel", *ids, check=False)
        self.until(lambda: not self.cluster.run("squeue", "-h", check=False), 150, "an empty queue")
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.campaign, ignore_errors=True)
