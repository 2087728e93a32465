"""Slurm's words for the states of jobs, and what they mean. Source: squeue(1), JOB STATE CODES."""

from __future__ import annotations

from dataclasses import dataclass

from .. import scheduler

# What is in neither set is live: an unknown word is not an end.
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
))  # fmt: skip  # reasons to wait that pass only when somebody does something
CLASS_OF_STATE = {
    "TIMEOUT": "time_limit",
    "DEADLINE": "time_limit",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "PREEMPTED": "preempted",
    "NODE_FAIL": "node_fault",
    "BOOT_FAIL": "node_fault",
    "LAUNCH_FAILED": "node_fault",
    "OUT_OF_MEMORY": "lost",  # the job's host memory, slurm.mem, not the GPUs'
}


@dataclass(frozen=True)
class Told(scheduler.Told):
    """What Slurm says of one job."""

    @property
    def is_over(self) -> bool:
        """Whether Slurm says so. An unknown word is not an end."""
        return self.state in TERMINAL

    @property
    def is_waiting(self) -> bool:
        """Whether it is in the queue."""
        return self.state in WAITING

    @property
    def failure_class(self) -> str:
        """The class of a job that ended in this state."""
        return CLASS_OF_STATE.get(self.state, "")

    @property
    def never_starts(self) -> bool:
        """Whether its reason to wait passes only if somebody does something."""
        return self.reason in NEVER_STARTS

    @property
    def note(self) -> str:
        """Which memory was short."""
        return "the job's host memory: cluster.slurm.mem" if self.state == "OUT_OF_MEMORY" else ""
