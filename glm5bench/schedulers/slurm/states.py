"""Slurm's job states and their meaning. Source: squeue(1), JOB STATE CODES."""

from __future__ import annotations

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
NEVER_STARTS = frozenset((
    "PartitionTimeLimit", "PartitionNodeLimit", "BadConstraints", "InvalidAccount", "InvalidQOS", "JobHeldUser", "JobHeldAdmin",
    "PartitionDown", "PartitionInactive",
))  # fmt: skip  # reasons to wait that a person must resolve
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
        return self.reason in NEVER_STARTS

    @property
    def note(self) -> str:
        """Which memory was exhausted, if any."""
        return "host memory of the job: raise cluster.slurm.mem" if self.state == "OUT_OF_MEMORY" else ""
