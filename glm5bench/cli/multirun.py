"""What a command line of overrides asks for: its directory, its rules, its plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:  # verbs import what they need when they run, so that `--help` and `status` start fast
    from ..directory import Campaign
    from ..plan import Plan
    from ..schedulers.scheduler import How
    from ..settings.overrides import Multirun


Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]


def campaign_of(multirun: Multirun) -> Campaign:
    """Its directory."""
    from ..directory import Campaign

    return Campaign(Path(multirun.asked.campaign.output_dir).absolute() / multirun.name)


def how_of(multirun: Multirun) -> How:
    """The rules that its jobs are sent by."""
    from ..campaign.opening import resolved_cluster
    from ..schedulers.scheduler import How

    settings = multirun.asked.campaign
    return How(resolved_cluster(multirun.launcher, multirun.overrides, settings.cluster), settings.failure, settings.retries)


def planned_of(multirun: Multirun) -> Plan:
    """What it measures."""
    from ..plan import plan
    from ..schedulers.known import scheduler

    cluster = multirun.asked.campaign.cluster
    return plan(multirun.asked, scheduler(cluster).limits_s(cluster, multirun.asked.hardware))
