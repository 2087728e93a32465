"""Whether a failed point is retried in the same job."""

from __future__ import annotations

from ..directory import Attempt, Campaign
from ..values.cluster import Failure


def class_of(attempt: Attempt) -> str:
    """The failure class of a failed or invalid attempt."""
    return attempt.failure_class if attempt.status == "failed" else "invalid_point"


def is_tried_again_here(campaign: Campaign, failure: Failure, key: str) -> bool:
    """Whether a point that has just failed may be retried immediately on the same node."""
    attempts = campaign.attempts([key])[key]
    policy = failure.policy(class_of(attempts[-1])) if attempts else None
    tries = sum(failure.policy(class_of(a)).counts for a in attempts)
    return policy is not None and policy.automatic and policy.again == "anywhere" and tries < failure.limit
