"""Slurm's job states and their meaning. Source: squeue(1), JOB STATE CODES."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .. import scheduler

# A state in neither set counts as live.
WAITING = frozenset((
    "PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT", "POWER_UP_NODE",
))  # fmt: skip
LIVE = WAITING | {"RUNNING", "SUSPENDED", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "EXPEDITING"}
TERMINAL = frozenset((
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "RECONFIG_FAIL", "REVOKED", "TIMEOUT",
))  # fmt: skip
HELD = frozenset(("JobHeldUser", "JobHeldAdmin", "job requeued in held state", "launch failed requeued held", "JobHoldMaxRequeue"))
HELD_STATES = frozenset(("REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"))
TOO_LARGE = re.compile(r"(QOS|Assoc)(Max.*PerJob.*|Min.*)|PartitionTimeLimit|PartitionNodeLimit|MaxMemPerLimit")  # for any free node
WRONG = frozenset((
    "BadConstraints", "InvalidAccount", "InvalidQOS", "AccountNotAllowed", "QOSNotAllowed", "PartitionConfig", "DependencyNeverSatisfied",
    "AccountingPolicy", "QOSUsageThreshold", "ReservationDeleted", "InactiveLimit",
))  # fmt: skip
CLOSED = frozenset(("PartitionDown", "PartitionInactive"))
CLASS_OF_STATE = {
    "TIMEOUT": "time_limit",
    "DEADLINE": "time_limit",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "PREEMPTED": "preempted",
    "NODE_FAIL": "node_fault",
    "BOOT_FAIL": "node_fault",
    "LAUNCH_FAILED": "node_fault",
    "OUT_OF_MEMORY": "lost",  # host memory of the job (slurm.mem), not GPU memory
}


@dataclass(frozen=True)
class Told(scheduler.Told):
    """Slurm's report on one job."""

    @property
    def is_over(self) -> bool:
        """Whether the job has ended. An unknown state is not an end."""
        return self.state in TERMINAL

    @property
    def is_waiting(self) -> bool:
        """Whether the job is queued."""
        return self.state in WAITING

    @property
    def failure_class(self) -> str:
        """The failure class of a job that ended in this state."""
        return CLASS_OF_STATE.get(self.state, "")

    @property
    def never_starts(self) -> bool:
        """Whether a person must resolve the reason why the job waits."""
        return bool(self.remedy("ID"))

    def remedy(self, job_id: str) -> str:
        """The command that helps a job that Slurm will not start by itself. Source: squeue(1), JOB REASON CODES."""
        if self.is_over or (not self.is_waiting and self.state not in HELD_STATES):
            return ""
        if self.reason in HELD or self.state in HELD_STATES:
            return f"scontrol release {job_id}"
        if self.reason == "DependencyNeverSatisfied":
            return f"scancel {job_id}, then run the sweep again without this dependency"
        if TOO_LARGE.fullmatch(self.reason):
            return "glm5bench cancel DIR, then run the sweep with a smaller cluster.slurm.max_time_min or another partition or qos"
        if self.reason in WRONG:
            return "glm5bench cancel DIR, correct cluster.slurm (`glm5bench doctor` checks it), then run the sweep again"
        return "wait until an administrator opens the partition, or choose another one" if self.reason in CLOSED else ""

    @property
    def note(self) -> str:
        """Which memory was exhausted, if any."""
        return "host memory of the job: raise cluster.slurm.mem" if self.state == "OUT_OF_MEMORY" else ""
