"""A real Slurm cluster of several nodes on this machine, with accounting, on loopback and in one directory. It starts in seconds.

- `python tests/slurm/cluster.py up DIR` starts it and prints `export SLURM_CONF=...`.
- `down DIR` stops it, by the process ids in DIR.
- `kill DIR NODE` simulates a power cut, and `start DIR NODE` starts the node again.

It works as root and, if user namespaces are allowed, as an ordinary user. It needs the Debian packages of install.sh.
DIR must be short: paths of Unix sockets have at most 107 characters.

A node is a slurmd in its own PID, UTS and mount namespaces with its own hostname. If its first process is killed, the kernel kills its
jobs too. GPUs are only counted: the device of each is a symlink to /dev/null.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

NODES = ("h200-1", "h200-2", "b200-1", "b200-2", "mi355x-1", "mi355x-2")
PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "mariadb-install-db", "mariadb", "unshare", "setsid", "squeue")
N_PORTS = 40
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def lacks() -> str:
    """Why a cluster cannot be started here. Empty if it can."""
    missing = [p for p in PROGRAMS if not shutil.which(p, path=PATH)]
    if missing:
        return f"{', '.join(missing)} not installed: run `sh tests/slurm/install.sh` as root"
    if subprocess.run([*_namespaces(), "true"], capture_output=True, check=False).returncode:
        return "this kernel does not let this user create namespaces (unshare)"
    return ""


def _namespaces() -> list[str]:
    user = [] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    return ["unshare", *user, "--pid", "--uts", "--mount", "--fork", "--kill-child", "--mount-proc"]


class Cluster:
    """One cluster in one directory."""

    def __init__(self, base: Path, *, max_array_size: int = 1001, fast_requeue: bool = True, name: str = "test", more: str = "") -> None:
        self.base = base
        self.conf = base / "etc" / "slurm.conf"
        self.max_array_size, self.fast_requeue, self.name, self.more = max_array_size, fast_requeue, name, more
        self._started: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def env(self) -> dict[str, str]:
        """The environment variables of a login node of this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.conf), "PATH": PATH}

    def up(self) -> Cluster:
        """Starts every daemon and waits until all nodes are idle. After a failure no process is left."""
        try:
            return self._up()
        except BaseException:
            self.down()
            raise

    def _up(self) -> Cluster:
        for name in ("etc", "state", "spool", "log", "pid", "dev", "db", "munge"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        (self.base / "munge").chmod(0o711)
        if os.geteuid() == 0:
            self.small.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(self.small)], check=True)
        self.port0 = _free_block()
        self._write_confs()
        self._start_munge()
        self._start_accounting()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        until(lambda: len(self._idle()) == len(NODES), 60, "all nodes idle")
        if self.fast_requeue:
            self._daemon("unhold", [sys.executable, __file__, "unhold", str(self.base)])
        return self

    def down(self) -> None:
        """Ends all processes of the cluster and of its jobs, and removes the directory."""
        for pid_file in sorted((self.base / "pid").glob("node.*")):
            self.kill_node(pid_file.name.removeprefix("node."))
        for name in ("unhold", "slurmctld", "slurmdbd", "mariadbd", "munged"):
            self._kill(name)
        if self.small.is_mount():
            subprocess.run(["umount", "--lazy", str(self.small)], check=True)
        shutil.rmtree(self.base, ignore_errors=True)

    @property
    def small(self) -> Path:
        """A file system of 24 MiB that the login node and the nodes see (needs root). Tests can fill it or make it read-only."""
        return self.base / "small"

    def run(self, *command: str, check: bool = True) -> str:
        """Standard output of a Slurm command."""
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=check, timeout=60).stdout.strip()

    def start_node(self, node: str) -> None:
        """Starts a node."""
        inside = (
            'hostname "$1" && mount --bind "$3/hosts" /etc/hosts; export SLURM_CONF=$3/slurm.conf;'
            ' "$2" -D -N "$1" -f "$3/slurm.conf" & p=$!; trap "kill -TERM $p" TERM; while kill -0 $p 2>/dev/null; do wait $p; done'
        )
        slurmd = str(shutil.which("slurmd", path=PATH))
        self._daemon(f"node.{node}", [*_namespaces(), "bash", "-c", inside, "node", node, slurmd, str(self.conf.parent)])

    def kill_node(self, node: str) -> None:
        """Simulates a power cut: kills the first process of the node's namespace, so that the kernel kills all others."""
        outer = self._pid(f"node.{node}")
        for child in _children(outer):
            _signal(child, signal.SIGKILL)
        until(lambda: not _lives(outer), 10, f"the end of {node}")
        self._waited(outer)
        (self.base / "pid" / f"node.{node}").unlink(missing_ok=True)

    def in_node(self, node: str, *command: str) -> None:
        """Runs a command in the namespaces of a node. An ordinary user must enter its user namespace first."""
        inner = _children(self._pid(f"node.{node}"))[0]
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        entered = ["nsenter", "--target", str(inner), *user, "--mount", "--pid"]
        subprocess.run([*entered, *command], check=True, capture_output=True, timeout=30)

    def start_controller(self) -> None:
        """Starts slurmctld. Running jobs continue."""
        own_hosts = 'mount --bind "$1" /etc/hosts; shift; exec "$@"'
        user = [] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
        hosts = str(self.base / "etc" / "hosts")
        command = [str(shutil.which("slurmctld", path=PATH)), "-D", "-f", str(self.conf)]
        self._daemon("slurmctld", ["unshare", *user, "--mount", "bash", "-c", own_hosts, "ctld", hosts, *command])
        until(lambda: self._answers("scontrol", "ping"), 30, "slurmctld")

    def stop_controller(self) -> None:
        """Stops slurmctld. Jobs and nodes continue."""
        self._kill("slurmctld", signal.SIGTERM)

    def reset_controller(self) -> None:
        """Starts slurmctld without its saved state, as after a new installation: it forgets all jobs, and ids begin at 1 again."""
        self.stop_controller()
        for path in (self.base / "state").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.start_controller()

    def start_accounting(self) -> None:
        """Starts slurmdbd."""
        self._daemon("slurmdbd", [str(shutil.which("slurmdbd", path=PATH)), "-D"])
        until(lambda: self._answers("sacctmgr", "-n", "show", "cluster"), 60, "slurmdbd")

    def stop_accounting(self) -> None:
        """Stops slurmdbd, so that sacct does not answer."""
        self._kill("slurmdbd", signal.SIGTERM)

    def _idle(self) -> list[str]:
        return self.run("sinfo", "-h", "-N", "-p", "low", "-t", "idle", "-o", "%N", check=False).split()

    def _answers(self, *command: str) -> bool:
        return subprocess.run(command, env=self.env, capture_output=True, check=False, timeout=60).returncode == 0

    def _daemon(self, name: str, command: list[str]) -> None:
        with (self.base / "log" / f"{name}.out").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, cwd=self.base, start_new_session=True
            )
        (self.base / "pid" / name).write_text(str(process.pid))
        self._started[process.pid] = process  # kept to wait for the process; another command that stops the cluster has only the id

    def _pid(self, name: str) -> int:
        try:
            return int((self.base / "pid" / name).read_text())
        except (OSError, ValueError):
            return -1

    def _kill(self, name: str, signum: int = signal.SIGKILL) -> None:
        pid = self._pid(name)
        _signal(pid, signum)
        until(lambda: not _lives(pid), 30, f"the end of {name}")
        self._waited(pid)
        (self.base / "pid" / name).unlink(missing_ok=True)

    def _waited(self, pid: int) -> None:
        process = self._started.pop(pid, None)
        if process is not None:
            process.wait()

    def _start_munge(self) -> None:
        munge, key = self.base / "munge", self.base / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        options = [
            f"--socket={munge}/munge.sock",
            f"--key-file={key}",
            f"--pid-file={munge}/pid",
            f"--log-file={munge}/log",
            f"--seed-file={munge}/seed",
        ]
        command = [
            str(shutil.which("munged", path=PATH)),
            "--force",
            "--foreground",
            "--num-threads=4",
            *options,
            f"--seed-file={munge}/seed",
        ]
        self._daemon("munged", command)
        until((munge / "munge.sock").exists, 20, "munged")

    def _start_accounting(self) -> None:
        db, socket_, user = self.base / "db", self.base / "db" / "s.sock", getpass.getuser()
        install = ["mariadb-install-db", "--no-defaults", f"--user={user}", f"--datadir={db}", "--auth-root-authentication-method=normal"]
        (self.base / "tmp").mkdir()
        tmp = f"--tmpdir={self.base}/tmp"  # a server removes the files of others in the same directory when it starts
        subprocess.run([*install, "--skip-test-db", tmp], check=True, capture_output=True, env=self.env, timeout=120)
        small = "--innodb-buffer-pool-size=64M --innodb-log-file-size=64M --innodb-lock-wait-timeout=900 --performance-schema=OFF"
        own = f"--user={user} --datadir={db} --socket={socket_} --pid-file={db}/pid --bind-address=127.0.0.1 --port={self.port0 + 2}"
        quick = "--innodb-flush-log-at-trx-commit=0 --skip-log-bin --skip-name-resolve --max-connections=40"
        self._daemon("mariadbd", ["mariadbd", "--no-defaults", tmp, *own.split(), *small.split(), *quick.split()])
        until(lambda: self._answers("mariadb-admin", "--no-defaults", "-uroot", f"--socket={socket_}", "ping"), 30, "mariadbd")
        sql = (
            "CREATE DATABASE IF NOT EXISTS slurm_acct; CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';"
            "GRANT ALL ON slurm_acct.* TO 'slurm'@'127.0.0.1';"
        )
        self.run("mariadb", "--no-defaults", "-uroot", f"--socket={socket_}", "-e", sql)
        self.start_accounting()
        self.run("sacctmgr", "-i", "add", "cluster", self.name, check=False)

    def _write_confs(self) -> None:
        etc, base, user, host = self.base / "etc", self.base, getpass.getuser(), socket.gethostname().split(".")[0]
        for node in NODES:
            (base / "dev" / node).mkdir(exist_ok=True)
            (base / "spool" / node).mkdir(exist_ok=True)
            for i in range(8):
                (base / "dev" / node / f"gpu{i}").symlink_to("/dev/null")
        (etc / "hosts").write_text(Path("/etc/hosts").read_text() + "".join(f"\n127.0.0.1 {n}" for n in NODES) + "\n")
        common = f"AuthType=auth/munge\nAuthInfo=socket={base}/munge/munge.sock\nSlurmUser={user}\n"
        numbers = {"port": self.port0, "dbd": self.port0 + 1, "array": self.max_array_size, "name": self.name}
        self.conf.write_text(common + _SLURM.format(base=base, user=user, host=host, **numbers) + self._nodes() + self.more)
        (etc / "gres.conf").write_text("".join(self._gres(n) for n in NODES))
        (etc / "slurmdbd.conf").touch(mode=0o600)
        (etc / "slurmdbd.conf").write_text(common + _DBD.format(base=base, host=host, dbd=self.port0 + 1, db=self.port0 + 2))

    def _nodes(self) -> str:
        lines, host = [], socket.gethostname().split(".")[0]
        for i, node in enumerate(NODES):
            kind = node.rpartition("-")[0]
            size = "CPUs=32 Boards=1 SocketsPerBoard=2 CoresPerSocket=16 ThreadsPerCore=1 RealMemory=200000"
            address = f"NodeHostname={host} NodeAddr=127.0.0.1 Port={self.port0 + 10 + i}"
            lines.append(f"NodeName={node} {address} {size} Gres=gpu:{kind}:8 Feature={kind} State=UNKNOWN")
        for kind in ("h200", "b200", "mi355x"):
            times = "MaxTime=2-0 DefaultTime=60 PreemptMode=OFF State=UP"
            lines.append(f"PartitionName={kind} Nodes={kind}-[1-2] {'Default=YES ' * (kind == 'h200')}PriorityTier=10 {times}")
        lines.append("PartitionName=low Nodes=ALL PriorityTier=1 GraceTime=10 MaxTime=2-0 DefaultTime=60 PreemptMode=REQUEUE State=UP")
        return "\n".join(lines) + "\n"

    def _gres(self, node: str) -> str:
        kind = node.rpartition("-")[0]
        flag = "amd_gpu_env" if kind == "mi355x" else "nvidia_gpu_env"
        return f"NodeName={node} Name=gpu Type={kind} File={self.base}/dev/{node}/gpu[0-7] Flags={flag}\n"

    def unhold(self) -> None:
        """Releases requeued jobs as soon as no process of their last run is left. Slurm itself makes them wait two minutes.

        If a job is released sooner, slurmd reports "Duplicate jobid" and drains the node. Its credentials have a granularity of one second.
        """
        released: dict[str, str] = {}
        while True:
            time.sleep(0.5)
            waiting = self.run("squeue", "-h", "-r", "-t", "PD", "-o", "%A %r", check=False).splitlines()
            for job, reason in (line.split(maxsplit=1) for line in waiting if " " in line):
                if reason != "BeginTime" or _step_daemons(job):
                    continue
                shown = self.run("scontrol", "-o", "show", "job", job, check=False)
                restarts = next((w.removeprefix("Restarts=") for w in shown.split() if w.startswith("Restarts=")), "0")
                if restarts != "0" and released.get(job) != restarts:
                    self.run("scontrol", "update", f"jobid={job}", "StartTime=now+2", check=False)
                    released[job] = restarts


_SLURM = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmdUser={user}
SlurmctldPort={port}
SlurmdPort={port}
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool/%n
SlurmctldPidFile={base}/pid/ctld
SlurmdPidFile={base}/pid/slurmd.%n
SlurmctldLogFile={base}/log/slurmctld.log
SlurmdLogFile={base}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
SwitchType=switch/none
MpiDefault=none
ReturnToService=1
SlurmdParameters=config_overrides
SlurmdTimeout=20
SlurmctldTimeout=30
InactiveLimit=0
MinJobAge=300
KillWait=5
CompleteWait=0
UnkillableStepTimeout=120
BatchStartTimeout=20
MessageTimeout=15
JobRequeue=1
MaxArraySize={array}
MaxJobCount=10000
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=100000,max_rpc_cnt=0,preempt_youngest_first
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
PriorityType=priority/multifactor
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PreemptExemptTime=0
SlurmctldParameters=preempt_send_user_signal
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd}
AccountingStoragePass={base}/munge/munge.sock
AccountingStorageTRES=gres/gpu,gres/gpu:h200,gres/gpu:b200,gres/gpu:mi355x
DefMemPerCPU=100
"""
_DBD = """\
DbdAddr=127.0.0.1
DbdHost={host}
DbdPort={dbd}
LogFile={base}/log/slurmdbd.log
PidFile={base}/pid/dbd
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={db}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
CommitDelay=1
"""


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Waits until the condition is true. Raises TimeoutError with a description of the condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)


def _free_block() -> int:
    for port in range(20000 + os.getpid() % 200 * 50, 32000, N_PORTS + 10):
        with contextlib.suppress(OSError):
            for offset in range(N_PORTS):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port + offset))
            return port
    raise RuntimeError(f"no {N_PORTS} free ports in a row below 32000")


def _children(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _signal(pid: int, signum: int) -> None:
    if pid > 0:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


def _step_daemons(job: str) -> bool:
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and Path(f"/proc/{entry}/cmdline").read_bytes().startswith(f"slurmstepd: [{job}.".encode()):
                return True
    return False


def main(arguments: list[str]) -> int:
    """Runs the commands that the module's docstring lists."""
    if len(arguments) < 2:
        print(__doc__)
        return 2
    verb, base = arguments[0], Path(arguments[1]).absolute()
    cluster = Cluster(base)
    if verb == "up":
        why = lacks()
        if why:
            print(f"No cluster can be made here: {why}.", file=sys.stderr)
            return 3
        cluster.up()
        print(f"export SLURM_CONF={cluster.conf}")
    elif verb == "unhold":
        cluster.unhold()
    else:
        {"down": cluster.down, "kill": cluster.kill_node, "start": cluster.start_node}[verb](*arguments[2:])
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
