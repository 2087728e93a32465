"""Campaigns of many node jobs under random faults of every kind, resubmitted until they are complete.

`python benchmarks/soak.py` runs the long version with two clusters on one file system. The test suite runs a short one with one cluster.
Each campaign must end complete: no point lost, no point measured twice, no job accepted twice, and no job of a stranger ended.
Otherwise the error shows what is wrong.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from cluster import NODES
from login import CLUSTER, SMALL

ROUNDS = 20  # of resubmit
PAUSE_S = (0.5, 3.0)  # between faults
MAY_RETURN = (0, 1, 3)  # done; not all points measured; Slurm gave no usable answer
STRANGER = "thesis"

# What a site puts around a program of Slurm. One of them is drawn for each call. $REAL is the real program.
WRAPPERS = {
    "sbatch": (
        'exec $REAL "$@"',
        'exec $REAL "$@"',
        'exec $REAL --parsable "$@"',
        'out=$($REAL "$@"); rc=$?; printf "sbatch: V\\351rification du quota: OK\\n" >&2; echo "$out"; exit $rc',
        '$REAL "$@"; echo "sbatch: warning: could not log the submission" >&2; exit 1',
        'echo "Your job 1 is running, 1 of 10 slots used"; exec $REAL "$@"',
        '$REAL "$@" > /dev/null',
        '$REAL "$@"; kill -9 $PPID',
        "kill -9 $PPID",
        'echo "quota service is down" >&2; exit 1',
    ),
    "squeue": ('exec $REAL "$@"',) * 9 + ('echo "slurm_load_jobs error: Socket timed out" >&2; exit 1',),
    "sacct": ('exec $REAL "$@"',) * 4 + ('echo "sacct: error: Problem talking to the database" >&2; exit 1',),
}


class Soak:
    """One campaign per cluster, and the random faults that are injected into them."""

    def __init__(self, sites, n_jobs, seed):
        self.sites, self.n_jobs, self.random = sites, n_jobs, random.Random(seed)
        self.thrown = Counter()
        self.down = {}  # (site, node) -> time when it is started again
        self.strangers = {}  # file that a stranger's job writes at its end -> its site
        self.faults = [
            self.power_cut, self.requeue, self.scancel, self.kill_job, self.kill_job, self.kill_server, self.kill_server,
            self.drain, self.restart_controller, self.stop_accounting, self.preempt,
        ]  # fmt: skip
        if len(sites) > 1:
            self.faults += [self.reset_controller, self.command_on_the_other_cluster, self.cancel, self.killed_client, self.stranger]

    def run(self):
        """The number of points of the complete campaigns. Raises AssertionError for whatever was lost, doubled, or ended by mistake."""
        asked, n_points = self.asked()
        if len(self.sites) > 1:
            for site in self.sites:
                self._wrap(site)
                self.stranger(site)
        for site in self.sites:
            self._typed_until_accepted(site, *site.overrides(*asked))
        for _ in range(ROUNDS):
            self.until_over()
            self.heal()
            unfinished = [site for site in self.sites if self.over(site)["counts"].get("done", 0) != n_points]
            if not unfinished:
                break
            for site in unfinished:
                self.thrown["resubmit"] += 1
                self._typed_until_accepted(site, "resubmit", str(site.campaign))
        for site in self.sites:
            site.env["PATH"] = site.cluster.env["PATH"]
        for site in self.sites:
            site.assert_complete(n_points)
            self._assert_accepted_once(site)
        self._assert_strangers_unharmed()
        return n_points * len(self.sites)

    def asked(self):
        """The overrides of each campaign, and the number of its points."""
        n_each = self.n_jobs // len(self.sites)
        isl = ",".join(str(256 + 8 * i) for i in range(n_each // 2))
        asked = [*SMALL, "hardware=h200,b200", f"workload.isl_tokens={isl}", "concurrency=2,3", "failure.limit=100"]
        asked += ["failure.node_faults=100", "cluster.hardware.h200.partition=low", "cluster.slurm.concurrent_jobs=2"]
        return asked, 2 * 2 * (n_each // 2)

    def _wrap(self, site):
        folder = site.root / f"bin-{site.name}"
        folder.mkdir()
        for program, choices in WRAPPERS.items():
            real = shutil.which(program, path=site.env["PATH"])
            cases = "\n".join(f"{i}) {text} ;;" for i, text in enumerate(choices))
            drawn = f"$(( $(od -An -N2 -tu2 /dev/urandom) % {len(choices)} ))"
            (folder / program).write_text(f"#!/bin/sh\nREAL={real}\ncase {drawn} in\n{cases}\nesac\n")
            (folder / program).chmod(0o755)
        site.env["PATH"] = f"{folder}{os.pathsep}{site.env['PATH']}"

    def _typed(self, site, *arguments, may_be_killed=True, **variables):
        done = site.bench(*arguments, timeout=300, **variables)
        allowed = (*MAY_RETURN, -signal.SIGKILL) if may_be_killed else MAY_RETURN
        assert done.returncode in allowed, (arguments, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, (arguments, done.stderr)
        return done

    def _typed_until_accepted(self, site, *arguments):
        """A user types the command again until it is not told that something is unknown."""
        for _ in range(30):
            done = self._typed(site, *arguments)
            if done.returncode in (0, 1):
                return
            self.thrown["commands typed again"] += 1
        raise AssertionError(f"{arguments} was never accepted: {done.stderr}")

    def status(self, site):
        """The output of `status --json`, typed again if a wrapper spoiled it."""
        while True:
            now = site.status()
            if now is not None:
                return now

    def over(self, site):
        """The status after the last job has ended."""
        return site.until(lambda: (s := self.status(site)) and not s["jobs"] and s, 300, "the end of all jobs")

    def until_over(self):
        """Injects faults at random times until no job of the campaigns is queued or running."""
        while any(self.status(site)["jobs"] for site in self.sites):
            time.sleep(self.random.uniform(*PAUSE_S))
            self.nodes_back()
            fault = self.random.choice(self.faults)
            if fault(self.random.choice(self.sites)):
                self.thrown[fault.__name__] += 1

    def heal(self):
        """Starts all nodes again."""
        for site, node in list(self.down):
            site.cluster.start_node(node)
            del self.down[site, node]
        for site in self.sites:
            for node in NODES:
                site.cluster.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)

    def nodes_back(self):
        for (site, node), when in list(self.down.items()):
            if time.monotonic() > when:
                site.cluster.start_node(node)
                del self.down[site, node]

    def running(self, site):
        told = site.cluster.run("squeue", "-h", "-r", "-t", "R", "-o", "%i %j", check=False).splitlines()
        return [line.split()[0] for line in told if line.split()[-1].startswith(f"{site.name}-")]

    def power_cut(self, site):
        nodes = [n for n in NODES if (site, n) not in self.down and not n.startswith("mi355x")]
        if len(nodes) < 4:
            return False
        node = self.random.choice(nodes)
        site.cluster.kill_node(node)
        self.down[site, node] = time.monotonic() + 5
        return True

    def requeue(self, site):
        return self._with_a_job(site, "scontrol", "requeue")

    def scancel(self, site):
        return self._with_a_job(site, "scancel")

    def _with_a_job(self, site, *command):
        ids = self.running(site)
        if ids:
            site.cluster.run(*command, self.random.choice(ids), check=False)
        return bool(ids)

    def kill_job(self, site):
        return self._kill(site.job_pythons())

    def kill_server(self, site):
        return self._kill([pid for pid, line in site.processes("glm5bench.simulator").items() if "guard.py" not in line])

    def _kill(self, pids):
        if pids:
            try:
                os.kill(self.random.choice(sorted(pids)), signal.SIGKILL)
            except ProcessLookupError:
                return False
        return bool(pids)

    def drain(self, site):
        node = self.random.choice(["h200-1", "b200-1"])
        site.cluster.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=soak", check=False)
        time.sleep(1)
        site.cluster.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        return True

    def restart_controller(self, site):
        site.cluster.stop_controller()
        site.cluster.start_controller()
        return True

    def stop_accounting(self, site):
        site.cluster.stop_accounting()
        time.sleep(1)
        site.cluster.start_accounting()
        return True

    def preempt(self, site):
        holder = ["sbatch", "--parsable", "-p", "h200", "--gres=gpu:h200:8", "-t", "1", "-o", "/dev/null", "--wrap", "sleep 2"]
        site.cluster.run(*holder, check=False)
        return True

    def stranger(self, site):
        """Another user's job, on nodes that no other fault touches. Its file shows that it came to its own end."""
        file = site.root / f"stranger-{len(self.strangers)}"
        job = ("-p", "mi355x", "-J", STRANGER, "-c", "1", "--mem=10M", "-t", "10", "-o", "/dev/null", "--wrap", f"sleep 20; touch {file}")
        if site.cluster.run("sbatch", "--parsable", *job, check=False):
            self.strangers[file] = site
        return True

    def reset_controller(self, site):
        """Slurm loses all its jobs. Strangers are submitted at once, so that they get ids that the campaign has already used."""
        self.strangers = {file: whose for file, whose in self.strangers.items() if whose is not site or file.exists()}
        site.cluster.reset_controller()
        for _ in range(8):
            self.stranger(site)
        return True

    def command_on_the_other_cluster(self, site):
        """Somebody types a command for this campaign on a login node of another cluster. It must be refused."""
        other = next(s for s in self.sites if s is not site)
        command = self.random.choice(["resubmit", "cancel"])
        done = self._typed(site, command, str(site.campaign), SLURM_CONF=str(other.cluster.conf), PATH=other.cluster.env["PATH"])
        said = done.stdout + done.stderr
        assert done.returncode == 3 or "Nothing to resubmit" in said or "No job of this campaign" in said, (command, said)
        return True

    def cancel(self, site):
        if self.random.random() < 0.7:  # rare, because the whole campaign waits for the next round
            return False
        self._typed(site, "cancel", str(site.campaign))
        return True

    def killed_client(self, site):
        """A login node goes down while the user resubmits."""
        command = [sys.executable, "-m", "glm5bench", "resubmit", str(site.campaign)]
        with subprocess.Popen(command, cwd=site.root, env=site.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
            time.sleep(self.random.uniform(0.3, 2.0))
            client.kill()
        return True

    def _assert_accepted_once(self, site):
        """Asserts that Slurm has never accepted two jobs with one of the campaign's names."""
        told = site.cluster.run("sacct", "-X", "-n", "-P", "-D", "-a", "-S", "now-1day", "-o", "JobID,JobName").splitlines()
        ids = {}
        for line in told:
            job, name = line.split("|")
            if name.startswith(f"{site.name}-"):
                ids.setdefault(name, set()).add(job.partition("_")[0])
        assert ids, "accounting knows no job of the campaign"
        assert not {name: found for name, found in ids.items() if len(found) > 1}

    def _assert_strangers_unharmed(self):
        left = [file for file in self.strangers if not file.exists()]
        if left:
            self.sites[0].until(lambda: all(file.exists() for file in left), 90, f"the own end of {left}")


class NodesSoak(Soak):
    """Systems of several nodes: one server over two nodes, and workers on three behind a router. Faults also end ranks and routers."""

    def __init__(self, sites, n_jobs, seed):
        super().__init__(sites, n_jobs, seed)
        self.faults = [
            self.power_cut, self.requeue, self.scancel, self.kill_job, self.kill_job, self.kill_process, self.kill_process,
            self.kill_process, self.restart_controller,
        ]  # fmt: skip
        for site in sites:
            conf = CLUSTER.replace("hardware:\n", "hardware:\n  gb200: {partition: low}\n") + "interface: lo\n"
            (site.root / "conf" / "cluster" / "test.yaml").write_text(conf)
            (site.root / "conf" / "experiment").mkdir(exist_ok=True)
            (site.root / "conf" / "experiment" / "nodes.yaml").write_text(
                "arms:\n  - [roles=wide, tp=8]\n  - [roles=pd, roles.prefill.tp=8, roles.decode.tp=4, checkpoint=glm5_nvfp4]\n"
            )

    def asked(self):
        """The overrides of each campaign, and the number of its points."""
        isl = ",".join(str(256 + 8 * i) for i in range(self.n_jobs // 2))
        asked = [*SMALL, "experiment=nodes", "hardware=gb200", "speculative=off", f"workload.isl_tokens={isl}", "concurrency=2,3"]
        asked += ["failure.limit=100", "failure.node_faults=100", "failure.classes.node_fault.again=anywhere"]
        return asked, 2 * 2 * (self.n_jobs // 2)

    def kill_process(self, site):
        """Ends a rank, a worker or a router: the child of a guard."""
        servers = []
        for guard in site.processes("guard.py"):
            try:
                servers += map(int, Path(f"/proc/{guard}/task/{guard}/children").read_text().split())
            except OSError:
                continue
        return self._kill(servers)
