"""What a command line of overrides asks for: its directory, its rules, its plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SettingsError, UsageError

if TYPE_CHECKING:  # verbs import what they need when they run, so that `--help` and `status` start fast
    from ..directory import Campaign
    from ..plan import Plan
    from ..schedulers.scheduler import How
    from ..settings.overrides import Multirun
    from ..values.settings import Asked


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

    asked = with_spread(multirun.asked)
    cluster = asked.campaign.cluster
    return plan(asked, scheduler(cluster).limits_s(cluster, asked.hardware))


def with_spread(asked: Asked) -> Asked:
    """The same, with the spread that `search.repeats` shows. Raises UsageError if these files have no repeats on several starts."""
    search = asked.campaign.search
    if search.repeats is None:
        return asked
    from ..analysis.difference import spread_between_starts
    from ..archive.collection import collect

    if search.spread is not None:
        raise SettingsError("search.repeats and search.spread both set the spread.", next_step="remove one of the two")
    found = spread_between_starts(list(collect([search.repeats]).rows.values()))
    if found is None:
        raise UsageError(
            "search.repeats has no point that was measured on two server starts.",
            where=search.repeats,
            next_step="measure some with repeat=0,1,2, or set search.spread=0.02",
        )
    return replace(asked, campaign=replace(asked.campaign, search=replace(search, spread=found[0])))
