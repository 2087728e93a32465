"""The verbs of campaigns: sweep, plan, status, resubmit, cancel, doctor."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import EnvironmentLacks, UsageError, counted, printable
from .app import HYDRA, OverridesCommand, app, as_called, asked, one_of, say
from .archives import tables_of, write_archive_of
from .multirun import Json, campaign_of, how_of, planned_of

if TYPE_CHECKING:  # verbs import what they need when they run, so that `--help` and `status` start fast
    from ..campaign.sending import Sending
    from ..directory import Campaign
    from ..plan import Plan
    from ..schedulers.scheduler import How, Outcome
    from ..settings.overrides import Multirun
    from ..values.point import NodeJob, ServerStart
    from ..values.settings import Price


MOST_JOBS = 12  # printed when they are submitted


@app.command(cls=OverridesCommand, context_settings=HYDRA)
def sweep(ctx: typer.Context) -> int:
    """Measure: plan OVERRIDES, submit the missing points, and return. wait=true waits, merges and prints the tables."""
    from ..settings.overrides import run_hydra

    return run_hydra(asked(ctx), _sweep, program="glm5bench sweep")


def _sweep(multirun: Multirun) -> int:
    from ..campaign.opening import opened
    from ..campaign.sending import sweep as send
    from ..checks.needs import refuse_lacking
    from ..schedulers.known import scheduler
    from ..settings.prices import price_option

    if multirun.launcher == "plan":
        return _print_plan(multirun, as_json=False, show=())
    settings, campaign = multirun.asked.campaign, campaign_of(multirun)
    how, planned = how_of(multirun), planned_of(multirun)
    refuse_lacking(planned.jobs)
    scheduler(settings.cluster).refuse(planned.jobs)
    opened(campaign, planned, how, name=multirun.name, launcher=multirun.launcher, overrides=multirun.overrides)
    _tell_plan(campaign, planned)
    outcome = send(campaign, planned.jobs, how).outcome
    if outcome is None:
        say("Nothing to submit: every point is done, or a running job has it.")
    else:
        _tell_outcome(campaign, outcome, how)
    with_prices = price_option(settings.price, multirun.asked.hardware)
    if settings.wait or scheduler(settings.cluster).waits:
        return _wait_and_report(campaign, settings.price, how, with_prices)
    print(campaign.root)
    say(f"next: `glm5bench status {quoted(campaign)}`, `glm5bench tables {quoted(campaign)}{with_prices}`")
    return 1 if outcome is not None and (outcome.refused or outcome.n_waiting) else 0


def quoted(campaign: Campaign) -> str:
    """The directory, quoted for a shell."""
    return shlex.quote(str(campaign.root))


def _tell_plan(campaign: Campaign, planned: Plan) -> None:
    from ..report.campaign import duration

    amounts = (
        counted(len(planned.points), "point"),
        counted(len(planned.jobs), "node job"),
        counted(planned.n_server_starts, "server start"),
    )
    say(f"{campaign.root}: {amounts[0]} in {amounts[1]}, {amounts[2]}.")
    for job in planned.jobs[:MOST_JOBS]:
        concurrencies = ", ".join(dict.fromkeys(str(p.concurrency) for p in job.points))
        say(f"  {job.arm.label}: concurrency {concurrencies}, about {duration(job.estimate_s)}, ${job.estimate_usd:.2f}")
    if len(planned.jobs) > MOST_JOBS:
        say(f"  and {counted(len(planned.jobs) - MOST_JOBS, 'more node job')}")
    for out in planned.left_out:
        say(f"left out: {out.arm}: {out.reason}")
    for line in (*planned.notes, *planned.warnings):
        say(f"note: {line}")


def _tell_outcome(campaign: Campaign, outcome: Outcome, how: How) -> None:
    from ..schedulers.known import scheduler

    for line in scheduler(how.cluster).said(outcome):
        say(line)
    if outcome.refused or outcome.n_waiting:
        say(
            "next: correct the settings of the cluster (`glm5bench doctor` with the same overrides checks them), then run this sweep again."
        )
        say(f"      `glm5bench resubmit {quoted(campaign)}` submits the rest with the settings of the last sweep.")


def _wait_and_report(campaign: Campaign, price: Price, how: How, with_prices: str) -> int:
    from ..campaign.sending import resubmit
    from ..campaign.watch import watch
    from ..report.campaign import status_text

    try:
        final = watch(campaign)
        while how.retries and not final.is_complete and resubmit(campaign, is_automatic=True, how=how).outcome is not None:
            final = watch(campaign)
    except KeyboardInterrupt:
        here = quoted(campaign)
        say(f"The jobs continue. `glm5bench status {here}` shows their progress, `glm5bench cancel {here}` ends them.")
        return 130
    if not final.is_complete:
        say(status_text(final.as_json()))
        say(
            f"logs: {campaign.jobs}\nnext: `glm5bench resubmit {quoted(campaign)}`, or the same command, which measures only missing points"
        )
    if final.counts.get("done"):
        write_archive_of([str(campaign.root)], campaign.archive)
        code = tables_of([str(campaign.archive)], price=price)
        say(f"Points: {campaign.points}\nArchive: {campaign.archive}")
        say(f"Tables again: glm5bench tables {shlex.quote(str(campaign.archive))}{with_prices}")
        return code if final.is_complete else 1
    return 0 if final.is_complete else 1


@app.command("plan", cls=OverridesCommand, context_settings=HYDRA)
def plan_command(
    ctx: typer.Context,
    as_json: Json = False,
    show: Annotated[
        list[str] | None,
        typer.Option(help="settings: every setting, its value, origin and meaning; recipe: server commands; memory: where memory goes."),
    ] = None,
    validate: Annotated[
        bool, typer.Option("--validate", help="Give every server command to the engine's own parser, from its image or installed here.")
    ] = False,
) -> int:
    """Show what `sweep` would do with the same OVERRIDES; submits nothing. On a cluster of Slurm it writes the sbatch scripts."""
    from ..settings.overrides import run_hydra

    shown = tuple(show or ())
    for word in shown:
        one_of("--show", word, ("settings", "recipe", "memory"))
    if shown and not as_json and not validate:
        return run_hydra(asked(ctx), lambda m: _print_shown(m, shown, asked(ctx)), program="glm5bench plan")
    return run_hydra(asked(ctx), lambda m: _print_plan(m, as_json=as_json, show=shown, is_validating=validate), program="glm5bench plan")


def _print_shown(multirun: Multirun, show: tuple[str, ...], arguments: Sequence[str]) -> int:
    """Only what --show names, so that it can be pasted."""
    from ..settings.described import described

    if "settings" in show:
        from ..report.campaign import settings_text

        found = described(multirun.asked, multirun.overrides, arguments)
        print(settings_text([(d.name, d.values, d.origin, d.help) for d in found]))
    if set(show) - {"settings"}:
        for job in planned_of(multirun).jobs:
            for start in job.starts:
                _show(job, start, show, multirun.asked.campaign.cluster.checkpoint_dir)
    return 0


def _print_plan(multirun: Multirun, *, as_json: bool, show: tuple[str, ...], is_validating: bool = False) -> int:
    from ..campaign.opening import plan_record, write_scripts
    from ..checks.flags import validations
    from ..checks.needs import needs
    from ..report.campaign import findings_text, plan_text, validations_text
    from ..values.plain import plain

    how, planned = how_of(multirun), planned_of(multirun)
    record = plan_record(planned, how, name=multirun.name, launcher=multirun.launcher, overrides=multirun.overrides)
    scripts = write_scripts(campaign_of(multirun), planned, how)
    record["repeat_scopes"] = _repeat_scopes(multirun)
    needed = needs(planned.jobs)
    looked = [plain(v) for v in validations(planned.jobs)] if is_validating else []
    refused = 1 if any(v["refused"] for v in looked) else EnvironmentLacks.exit_code if any(v["lacks"] for v in looked) else 0
    if as_json:
        texts = {str(path): path.read_text(encoding="utf-8") for path in scripts}
        print(json.dumps({**record, "needs": [plain(need) for need in needed], "validations": looked, "sbatch": texts}, indent=1))
        return refused
    needs_text = findings_text([need.finding for need in needed], "Needed on the nodes:")
    print(as_called("\n".join([plan_text(record), *needs_text, *validations_text(looked)])))
    for job in planned.jobs:
        for start in job.starts:
            _show(job, start, show, multirun.asked.campaign.cluster.checkpoint_dir)
    return max(_show_scripts(scripts, how), refused)


def _repeat_scopes(multirun: Multirun) -> dict[str, dict[str, float]]:
    """What the repeats cost with a server start for each, and on one start; nothing if there are none."""
    from ..plan import repeat_scopes
    from ..schedulers.known import scheduler

    cluster = multirun.asked.campaign.cluster
    longest = scheduler(cluster).limits_s(cluster, multirun.asked.hardware)
    return {
        scope: {"n_server_starts": p.n_server_starts, "estimate_node_h": p.estimate_node_h, "estimate_usd": p.estimate_usd}
        for scope, p in repeat_scopes(multirun.asked, longest).items()
    }


def _show(job: NodeJob, start: ServerStart, show: tuple[str, ...], checkpoint_dir: str | None) -> None:
    from .. import recipe

    if "recipe" in show:
        image = start.recipe.image or (
            "no image in the recipe" if job.arm.engine.image is None and not job.arm.engine.simulated else "no container"
        )
        concurrencies = ", ".join(str(p.concurrency) for p in start.points)
        repository = job.arm.checkpoint.repository
        path = f"{checkpoint_dir}/{repository}" if checkpoint_dir else repository
        print(
            f"# {job.id}: {job.arm.label}, concurrency {concurrencies}, {image}\n{recipe.shell(start.recipe, path, '127.0.0.1', '30000')}\n"
        )
    if "memory" in show:
        m = recipe.memory(job.arm, start.recipe)
        print(
            f"# {job.id}: {m.memory_gib:g} GiB × {m.fraction:g} = {m.memory_gib * m.fraction:.1f} GiB per GPU: weights {m.weights_gib:.2f},"
            f" workspace {m.workspace_gib:g}, KV cache {m.kv_gib:.2f} ({m.kv_dtype}), {m.capacity_tokens:,} tokens"
        )


def _show_scripts(scripts: list[Path], how: How) -> int:
    """Prints every script, and the scheduler's answer to a test of it. Exit code 1 if it would refuse one."""
    from ..schedulers.known import scheduler

    judged = list(scheduler(how.cluster).judged(scripts))
    for i, path in enumerate(scripts):
        print(f"\n{path}:\n{path.read_text(encoding='utf-8').rstrip()}")
        if judged:
            print(judged[i][0])
    if scripts and not judged:
        print("\nNo Slurm answers here, so these scripts are not checked.")
    return int(any(is_refused for _, is_refused in judged))


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
        say(f"next: `glm5bench resubmit {quoted(campaign)} --dry-run` shows which points would be submitted again, and why")
    return 0 if now.is_complete or not now.is_over else 1


@app.command()
def resubmit(
    directory: Path,
    classes: Annotated[list[str] | None, typer.Option("--class", help="Only this class of failure, even if its policy is never.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be submitted, and submit nothing.")] = False,
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
def cancel(directory: Path) -> int:
    """End the campaign's jobs. Measured points are kept; `resubmit` or the same sweep measures the rest."""
    from ..campaign.ending import cancel as end
    from ..campaign.opening import planned_how
    from ..directory import Campaign

    campaign = Campaign(directory.absolute())
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
