"""A campaign of many node jobs under random faults of every kind, resubmitted until it is complete.

`python benchmarks/soak.py` runs the long version. The test suite runs a short one. The campaign must end complete, without lost points
and without points that are measured twice. Otherwise the error shows what is wrong.
"""

import os
import random
import signal
import time
from collections import Counter

from cluster import NODES
from login import SMALL

ROUNDS = 12  # of resubmit
PAUSE_S = (1.0, 4.0)  # between faults


class Soak:
    """One campaign, and the random faults that are injected into it."""

    def __init__(self, site, n_jobs, seed):
        self.site, self.n_jobs, self.random = site, n_jobs, random.Random(seed)
        self.thrown = Counter()
        self.down = {}  # node -> time when it is started again
        self.faults = [
            self.power_cut, self.requeue, self.scancel, self.kill_job, self.kill_job, self.kill_server, self.kill_server,
            self.drain, self.restart_controller, self.stop_accounting, self.preempt,
        ]  # fmt: skip

    def run(self):
        """The number of points of the complete campaign. Raises AssertionError for a lost or duplicate point."""
        isl = ",".join(str(256 + 8 * i) for i in range(self.n_jobs // 2))
        asked = [
            *SMALL,
            "hardware=h200,b200",
            f"workload.isl_tokens={isl}",
            "concurrency=2,3",
            "failure.limit=100",
            "failure.node_faults=100",
        ]
        self.site.sweep(*asked, "cluster.hardware.h200.partition=low", "cluster.slurm.concurrent_jobs=2")
        n_points = 2 * 2 * (self.n_jobs // 2)
        for _ in range(ROUNDS):
            self.until_over()
            self.heal()
            now = self.site.over(300)
            if now["counts"].get("done", 0) == n_points:
                break
            self.thrown["resubmit"] += 1
            made = self.site.resubmit()
            assert made["job_ids"] or not made["points"], made
        self.site.assert_complete(n_points)
        return n_points

    def until_over(self):
        """Injects faults at random times until no job of the campaign is queued or running."""
        while self.site.status()["jobs"]:
            time.sleep(self.random.uniform(*PAUSE_S))
            self.nodes_back()
            fault = self.random.choice(self.faults)
            if fault():
                self.thrown[fault.__name__] += 1

    def heal(self):
        """Starts all nodes, the controller and accounting again."""
        for node in list(self.down):
            self.site.cluster.start_node(node)
            del self.down[node]
        for node in NODES:
            self.site.cluster.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)

    def nodes_back(self):
        for node, when in list(self.down.items()):
            if time.monotonic() > when:
                self.site.cluster.start_node(node)
                del self.down[node]

    def running(self):
        told = self.site.cluster.run("squeue", "-h", "-r", "-t", "R", "-o", "%i %j", check=False).splitlines()
        return [line.split()[0] for line in told if line.split()[-1].startswith("c-")]

    def power_cut(self):
        nodes = [n for n in NODES if n not in self.down and not n.startswith("mi355x")]
        if len(nodes) < 4:
            return False
        node = self.random.choice(nodes)
        self.site.cluster.kill_node(node)
        self.down[node] = time.monotonic() + 5
        return True

    def requeue(self):
        return self._with_a_job("scontrol", "requeue")

    def scancel(self):
        return self._with_a_job("scancel")

    def _with_a_job(self, *command):
        ids = self.running()
        if ids:
            self.site.cluster.run(*command, self.random.choice(ids), check=False)
        return bool(ids)

    def kill_job(self):
        return self._kill(self.site.job_pythons())

    def kill_server(self):
        return self._kill([pid for pid, line in self.site.processes("glm5bench.simulator").items() if "guard.py" not in line])

    def _kill(self, pids):
        if pids:
            try:
                os.kill(self.random.choice(sorted(pids)), signal.SIGKILL)
            except ProcessLookupError:
                return False
        return bool(pids)

    def drain(self):
        node = self.random.choice(["h200-1", "b200-1"])
        self.site.cluster.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=soak", check=False)
        time.sleep(1)
        self.site.cluster.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        return True

    def restart_controller(self):
        self.site.cluster.stop_controller()
        self.site.cluster.start_controller()
        return True

    def stop_accounting(self):
        self.site.cluster.stop_accounting()
        time.sleep(1)
        self.site.cluster.start_accounting()
        return True

    def preempt(self):
        holder = ["sbatch", "--parsable", "-p", "h200", "--gres=gpu:h200:8", "-t", "1", "-o", "/dev/null", "--wrap", "sleep 2"]
        self.site.cluster.run(*holder, check=False)
        return True
