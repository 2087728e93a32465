"""The verbs of campaigns: sweep, plan, status, resubmit, cancel, doctor."""

from __future__ import annotations

import json
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError, counted, printable
from ..trust import trust
from .answer import answer_of_search
from .app import HYDRA, OverridesCommand, app, as_called, asked, say
from .archives import tables_of, write_archive_of
from .multirun import Json, campaign_of, how_of, planned_of
from .plan import print_plan

if TYPE_CHECKING:  # verbs import what they need when they run, so that `--help` and `status` start fast
    from ..campaign.sending import Sending
    from ..campaign.status import Status
    from ..directory import Campaign
    from ..plan import Plan
    from ..schedulers.scheduler import How, Outcome
    from ..settings.overrides import Multirun
    from ..values.point import NodeJob
    from ..values.settings import Price


MOST_JOBS = 12  # printed when they are submitted
PLACES_S = 30  # between attempts to submit when other jobs hold the places of a limit


@app.command(cls=OverridesCommand, context_settings=HYDRA)
def sweep(
    ctx: typer.Context,
    is_trusted: Annotated[
        bool, typer.Option("--trust-directory", help="Act although other users can write the campaign's directory.")
    ] = False,
) -> int:
    """Measure: plan OVERRIDES, submit the missing points, and return. wait=true waits, merges and prints the tables."""
    from ..settings.overrides import run_hydra

    return run_hydra(asked(ctx), lambda m: _sweep(m, is_trusted=is_trusted), program="glm5bench sweep")


def _sweep(multirun: Multirun, *, is_trusted: bool) -> int:
    from ..campaign.opening import opened
    from ..campaign.sending import sweep as send
    from ..checks.needs import refuse_lacking
    from ..schedulers.known import scheduler
    from ..settings.prices import price_option

    if multirun.launcher == "plan":
        return print_plan(multirun, as_json=False, show=())
    settings, campaign = multirun.asked.campaign, campaign_of(multirun)
    if is_trusted:
        trust(campaign.root)
    how, planned = how_of(multirun), planned_of(multirun)
    refuse_lacking(planned.jobs)
    scheduler(settings.cluster).refuse(planned.jobs)
    jobs = opened(campaign, planned, how, name=multirun.name, launcher=multirun.launcher, overrides=multirun.overrides)
    _tell_plan(campaign, planned)
    outcome = send(campaign, jobs, how).outcome
    if outcome is None:
        say("Nothing to submit: every point is done, or a running job has it.")
    else:
        _tell_outcome(campaign, outcome, how)
        n_left = len(planned.points) - outcome.n_points - outcome.n_waiting
        if n_left > 0 and not outcome.refused and not outcome.n_waiting:
            say(f"{counted(n_left, 'point')} not submitted: done already, or a running job has {'it' if n_left == 1 else 'them'}.")
    with_prices = price_option(settings.price, multirun.asked.hardware)
    if settings.wait or scheduler(settings.cluster).waits:
        return _wait_and_report(campaign, jobs, outcome, how, settings.price, with_prices)
    print(campaign.root)
    if outcome is None or outcome.job_ids:
        say(f"next: `glm5bench status {quoted(campaign)}`, `glm5bench tables {quoted(campaign)}{with_prices}`")
    return 1 if outcome is not None and (outcome.refused or outcome.n_waiting) else 0


def quoted(campaign: Campaign) -> str:
    """The directory, quoted for a shell."""
    return shlex.quote(str(campaign.root))


def _tell_plan(campaign: Campaign, planned: Plan) -> None:
    from ..checks.needs import images_of
    from ..report.campaign import duration

    amounts = (
        counted(len(planned.points), "point"),
        counted(len(planned.jobs), "node job"),
        counted(planned.n_server_starts, "server start"),
    )
    say(f"{campaign.root}: {amounts[0]} in {amounts[1]}, {amounts[2]}.")
    for job in planned.jobs[:MOST_JOBS]:
        concurrencies = ", ".join(dict.fromkeys(str(p.concurrency) for p in job.points))
        numbers = sorted({p.repeat for p in job.points})
        repeats = f", repeat {', '.join(map(str, numbers))}" if numbers != [0] else ""
        say(f"  {job.arm.label}: concurrency {concurrencies}{repeats}, about {duration(job.estimate_s)}, ${job.estimate_usd:.2f}")
    if len(planned.jobs) > MOST_JOBS:
        say(f"  and {counted(len(planned.jobs) - MOST_JOBS, 'more node job')}")
    for out in planned.left_out:
        say(f"left out: {out.arm}: {out.reason}")
    images = [image for directory, image in images_of(planned.jobs) if not directory]
    if images:
        say(
            f"note: the cluster sets no image_dir, so the engine in the nodes' PATH runs instead of {', '.join(images)};"
            " its points are flagged no_container"
        )
    for line in (*planned.notes, *planned.warnings):
        say(f"note: {line}")


def _tell_outcome(campaign: Campaign, outcome: Outcome, how: How) -> None:
    from ..schedulers.known import scheduler

    for line in scheduler(how.cluster).said(outcome):
        say(line)
    if outcome.n_waiting and not outcome.refused:
        say("next: run this sweep again when jobs have ended, or with wait=true, which submits the rest as places become free.")
    elif outcome.refused:
        say(
            "next: correct the settings of the cluster (`glm5bench doctor` with the same overrides checks them), then run this sweep again."
        )
        say(f"      `glm5bench resubmit {quoted(campaign)}` submits the rest with the settings of the last sweep.")


def _fed(campaign: Campaign, jobs: Sequence[NodeJob], outcome: Outcome | None, how: How) -> Status:
    """Waits until every job has ended, and sends what a limit kept out as places become free. Other jobs may hold the places."""
    from ..campaign.sending import sweep as send
    from ..campaign.watch import watch

    final = watch(campaign)
    n_tries = 0  # since Slurm accepted something
    while outcome is not None and outcome.n_waiting and not outcome.refused:
        if n_tries == 2:  # jobs that have just ended keep their places for a moment
            say(f"{outcome.limit}, by jobs of other campaigns. Tried again every {PLACES_S} s; Ctrl-C ends the waiting.")
        time.sleep(PLACES_S if n_tries > 1 else n_tries)
        outcome = send(campaign, jobs, how).outcome
        n_tries = 0 if outcome is None or outcome.job_ids else n_tries + 1
        final = watch(campaign)
    return final


def _wait_and_report(campaign: Campaign, jobs: Sequence[NodeJob], outcome: Outcome | None, how: How, price: Price, with_prices: str) -> int:
    from ..campaign.sending import resubmit
    from ..campaign.watch import watch
    from ..report.campaign import status_text

    try:
        final = _fed(campaign, jobs, outcome, how)
        while how.retries and not final.is_complete and resubmit(campaign, is_automatic=True, how=how).outcome is not None:
            final = watch(campaign)
    except KeyboardInterrupt:
        here = quoted(campaign)
        say(f"The jobs continue. `glm5bench status {here}` shows their progress, `glm5bench cancel {here}` ends them.")
        return 130
    if not final.is_complete:
        say(status_text(final.as_json()))
        say(f"logs: {campaign.jobs}\n{_next(campaign, final)}")
    if final.counts.get("done"):
        write_archive_of([str(campaign.root)], campaign.archive)
        if final.search is not None:
            print(as_called(answer_of_search(campaign, price)))
        code = tables_of([str(campaign.archive)], price=price)
        say(f"Points: {campaign.points}\nArchive: {campaign.archive}")
        say(f"Tables again: glm5bench tables {shlex.quote(str(campaign.archive))}{with_prices}")
        return code if final.is_complete else 1
    return 0 if final.is_complete else 1


def _next(campaign: Campaign, final: Status) -> str:
    """The next step for a campaign that is not complete."""
    if final.search is None or any(p.state != "done" for p in final.points):
        return f"next: `glm5bench resubmit {quoted(campaign)}`, or the same command, which measures only missing points"
    same = f"the same command with name={shlex.quote(campaign.root.name)}"
    if final.search.limits:
        higher = "bind_concurrency=N under a new name goes higher"
        return f"next: {same} and a larger search.most_points or search.budget.node_h continues; {higher}"
    return f"next: {same} and a larger search.tolerance, search.most_points or search.budget.node_h continues the search"


@app.command()
def status(
    directory: Path,
    watch: Annotated[bool, typer.Option("--watch", help="Show a live table until all jobs have ended.")] = False,
    as_json: Json = False,
) -> int:
    """The state of every point and job of a campaign. Exit code 1 if points are missing, failed or invalid and nothing runs."""
    from ..campaign.status import status as read
    from ..campaign.watch import watch as watch_until_over
    from ..directory import Campaign
    from ..report.campaign import status_text

    campaign = Campaign(directory.absolute())
    try:
        now = watch_until_over(campaign) if watch else read(campaign)
    except KeyboardInterrupt:
        return 130
    print(json.dumps(now.as_json(), indent=1) if as_json else as_called(status_text(now.as_json())))
    if not as_json and now.is_over and not now.is_complete:
        if now.search is not None and all(p.state == "done" for p in now.points):
            say(_next(campaign, now))
        else:
            say(f"next: `glm5bench resubmit {quoted(campaign)} --dry-run` shows which points would be submitted again, and why")
    return 0 if now.is_complete or not now.is_over else 1


@app.command()
def resubmit(
    directory: Path,
    classes: Annotated[list[str] | None, typer.Option("--class", help="Only this class of failure, even if its policy is never.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be submitted, and submit nothing.")] = False,
    is_trusted: Annotated[
        bool, typer.Option("--trust-directory", help="Act although other users can write the campaign's directory.")
    ] = False,
    as_json: Json = False,
    after: Annotated[str, typer.Option("--after", hidden=True, help="What this job left, by the campaign's retries.")] = "",
) -> int:
    """Submit failed and missing points again, by the policy of their class (docs/failures.md). Exit code 1 if some are not submitted."""
    from ..campaign.opening import planned_how
    from ..campaign.sending import resubmit as send_again
    from ..directory import Campaign
    from ..report.campaign import resubmission_text
    from ..values.cluster import CLASSES

    unknown = sorted(set(classes or ()) - set(CLASSES))
    if unknown:
        raise UsageError(f"--class {unknown[0]}: there is no such class.", next_step=f"one of {', '.join(CLASSES)}")
    campaign = Campaign(directory.absolute())
    if is_trusted:
        trust(campaign.root)
    made = send_again(campaign, only=classes or (), is_dry=dry_run, is_automatic=bool(after), after=after)
    if after:
        print(f"{len(made.outcome.job_ids) if made.outcome else 0} jobs sent again")
        if made.outcome is not None:
            _tell_outcome(campaign, made.outcome, planned_how(campaign.read_plan(), str(campaign.plan)))
        return int(made.outcome is not None and bool(made.outcome.refused or made.outcome.n_waiting))
    record = _resubmission(made)
    print(json.dumps(record, indent=1) if as_json else as_called(resubmission_text(record, is_dry=dry_run)))
    if made.outcome is not None:
        how = planned_how(campaign.read_plan(), str(campaign.plan))
        _tell_outcome(campaign, made.outcome, how)
    outcome = made.outcome
    kept = any(not d.is_sent for d in made.decisions) or (outcome is not None and bool(outcome.refused or outcome.n_waiting))
    return int(kept)


def _resubmission(made: Sending) -> dict[str, object]:
    return {
        "points": [
            {
                "key": d.missing.key,
                "class": d.missing.failure_class,
                "tries": d.missing.tries,
                "nodes": sorted({e.node for e in d.missing.events if e.node}),
                "is_sent": d.is_sent,
                "why": d.why,
            }
            for d in made.decisions
        ],
        "jobs": [
            {"node_job": o.job.id, "points": len(o.job.points), "exclude": list(o.exclude), "time_factor": o.time_factor}
            for o in made.orders
        ],
        "nodes_away": made.away,
        "job_ids": list(made.outcome.job_ids) if made.outcome else [],
        "refused": list(made.outcome.refused) if made.outcome else [],
    }


@app.command()
def cancel(
    directory: Path,
    is_trusted: Annotated[
        bool, typer.Option("--trust-directory", help="Act although other users can write the campaign's directory.")
    ] = False,
) -> int:
    """End the campaign's jobs. Measured points are kept; `resubmit` or the same sweep measures the rest."""
    from ..campaign.ending import cancel as end
    from ..campaign.opening import planned_how
    from ..directory import Campaign

    campaign = Campaign(directory.absolute())
    if is_trusted:
        trust(campaign.root)
    how = planned_how(campaign.read_plan(), str(campaign.plan))
    gone, still, said = end(campaign, poll_s=how.cluster.poll_s)
    if said:
        say(printable(said))
    say(f"Ended: {_ids(gone)}." if gone else "No job of this campaign was running." if not still else "No job has ended.")
    if still:
        say(f"Still there: {_ids(still)}. `glm5bench status {quoted(campaign)}` shows when they are gone.")
    return 1 if still else 0


def _ids(job_ids: Sequence[str]) -> str:
    """`12 (40 tasks), 13`."""
    counted = Counter(job_id.split("_")[0] for job_id in job_ids)
    return ", ".join(f"{master} ({n} tasks)" if n > 1 else master for master, n in counted.items())
