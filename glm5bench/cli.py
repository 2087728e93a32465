"""The program: one short pipeline a verb. Errors become their sentence and exit code here, and nowhere else.

`sweep`, `plan` and `simulate` take Hydra overrides; the others take ordinary options. Standard output holds the answer, standard
error the progress and the errors; with --json standard output is one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from . import __version__
from .errors import BenchError, EnvironmentLacks, ImpossibleError, UsageError, printable

if TYPE_CHECKING:  # verbs import what they need when they run, so that `--help` and `status` start fast
    from .analysis.validity import Verdict
    from .plan import Plan
    from .point import NodeJob, ServerStart
    from .settings import Multirun, Price
    from .store.archive import Collected, Stored
    from .store.campaign import Campaign

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
HYDRA = {"allow_extra_args": True, "ignore_unknown_options": True}

GROUPS = ("experiment", "hardware", "checkpoint", "tp", "speculative", "engine", "workload", "cluster", "price")
VALUES = "concurrency=4,8 repeat=0,1,2 seed=0 server_scope=arm|point bind_concurrency=N name=NAME output_dir=DIR wait=true"


class OverridesCommand(TyperCommand):
    """A command that takes Hydra overrides: its help lists what conf/ holds."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Groups with their choices, values, and how both are typed."""
        from .settings import group_values

        with formatter.section("OVERRIDES are Hydra's: group=choice or path.to.value=value; commas sweep"):
            formatter.write_dl([(f"{group}=", " ".join(group_values(group))) for group in GROUPS])
            formatter.write_dl(
                [("values:", VALUES), ("anything:", "engine.time_scale=50 workload.prompts=64 price.usd_per_gpu_h.b200=2.5 ...")]
            )
            formatter.write_dl([("--config-dir DIR", "a directory with conf groups of your own, found before the shipped ones")])


def main() -> int:
    """The entry point. Exit code 0 done, 1 the answer is no, 2 wrong usage, 3 the environment lacks something."""
    try:
        result = app(standalone_mode=False)
        sys.stdout.flush()
        return int(result) if isinstance(result, int) else 0
    except BenchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `glm5bench tables ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(EnvironmentLacks(f"{error.strerror or error}.", where=str(error.filename or "standard output")), file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered cannot be written either
        return EnvironmentLacks.exit_code
    except Exception as error:
        return _usage_or_defect(error)


def _usage_or_defect(error: Exception) -> int:
    shown = getattr(error, "format_message", None)  # click's own errors of usage
    if shown is not None:
        print(UsageError(shown(), next_step="`glm5bench --help`"), file=sys.stderr)
        return int(getattr(error, "exit_code", 2))
    traceback.print_exc()
    print(f"This is a defect of glm5bench {__version__}: please report it with the lines above.", file=sys.stderr)
    return 70


@app.callback(invoke_without_command=True)
def program(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """What it costs to serve GLM-5: plan, measure, merge and compare serving recipes."""
    if version:
        print(__version__)
        raise typer.Exit


@app.command(cls=OverridesCommand, context_settings=HYDRA)
def sweep(ctx: typer.Context) -> int:
    """Measure: plan OVERRIDES, submit what is missing, and come back (wait=true stays, merges and prints the tables)."""
    from .settings import run_hydra

    return run_hydra(_asked(ctx), _sweep, program="glm5bench sweep")


def _sweep(multirun: Multirun) -> int:
    from .launch.campaign import left, opened
    from .launch.submit import submit
    from .plan import plan
    from .store.campaign import Campaign

    first = multirun.arms[0]
    campaign = Campaign(Path(first.output_dir).absolute() / multirun.name)
    planned = plan(multirun.arms)
    if multirun.launcher == "plan":
        return _print_plan(multirun, planned, as_json=False, show=())
    jobs = opened(campaign, planned, name=multirun.name, launcher=multirun.launcher, overrides=multirun.overrides)
    _tell_plan(campaign, planned)
    missing = left(campaign, jobs)
    if missing:
        job_id = submit(campaign, missing, first.cluster.executor)
        _say(f"{sum(len(j.points) for j in missing)} points submitted as {first.cluster.executor} job {job_id}.")
    else:
        _say("Nothing to submit: every point is done or in the charge of a running job.")
    if first.wait or first.cluster.executor == "debug":
        return _wait_and_report(campaign, first.price)
    print(campaign.root)
    _say(f"next: `glm5bench status {campaign.root}`, `glm5bench tables {campaign.root}`")
    return 0


def _tell_plan(campaign: Campaign, planned: Plan) -> None:
    _say(f"{campaign.root}: {len(planned.points)} points in {len(planned.jobs)} arms, {planned.n_server_starts} server starts.")
    for out in planned.left_out:
        _say(f"left out: {out.arm}: {out.reason}")
    for line in (*planned.notes, *planned.warnings):
        _say(f"note: {line}")


def _wait_and_report(campaign: Campaign, price: Price) -> int:
    from .launch.watch import watch
    from .report.campaign import status_text

    try:
        final = watch(campaign)
    except KeyboardInterrupt:
        _say(f"The jobs go on. `glm5bench status {campaign.root}` tells how far they are, `glm5bench cancel {campaign.root}` ends them.")
        return 130
    if not final.is_complete:
        print(status_text(final.as_json()), file=sys.stderr)
        _say(f"logs: {campaign.jobs}\nnext: run the same command again: it measures only what is missing")
    if final.counts.get("done"):
        _write_archive([str(campaign.root)], campaign.archive)
        code = _tables([str(campaign.archive)], price=price)
        _say(f"Points: {campaign.points}\nArchive: {campaign.archive}\nTables again: glm5bench tables {campaign.archive}")
        return code if final.is_complete else 1
    return 0 if final.is_complete else 1


@app.command("plan", cls=OverridesCommand, context_settings=HYDRA)
def plan_command(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    show: Annotated[
        list[str] | None, typer.Option(help="recipe: every server's command and environment; memory: where memory goes.")
    ] = None,
) -> int:
    """Show what `sweep` would do with the same OVERRIDES; submits and writes nothing."""
    from .plan import plan
    from .settings import run_hydra

    shown = tuple(show or ())
    if set(shown) - {"recipe", "memory"}:
        raise UsageError(f"--show {', '.join(shown)}: there is no such thing to show.", next_step="--show recipe, --show memory")
    return run_hydra(_asked(ctx), lambda m: _print_plan(m, plan(m.arms), as_json=as_json, show=shown), program="glm5bench plan")


def _print_plan(multirun: Multirun, planned: Plan, *, as_json: bool, show: tuple[str, ...]) -> int:
    from .launch.campaign import plan_record
    from .report.campaign import plan_text

    record = plan_record(planned, name=multirun.name, launcher=multirun.launcher, overrides=multirun.overrides)
    if as_json:
        print(json.dumps(record, indent=1))
        return 0
    print(plan_text(record))
    for job in planned.jobs:
        for start in job.starts:
            _show(job, start, show)
    return 0


def _show(job: NodeJob, start: ServerStart, show: tuple[str, ...]) -> None:
    from . import recipe

    if "recipe" in show:
        image = start.recipe.image or ("none: the host's Python" if job.arm.engine.simulated else "none is named")
        print(
            f"\n{job.id}, concurrency {', '.join(str(p.concurrency) for p in start.points)}, image {image}:\n{recipe.shell(start.recipe)}"
        )
    if "memory" in show:
        m = recipe.memory(job.arm, start.recipe)
        print(
            f"\n{job.id}: {m.memory_gib:g} GiB x {m.fraction:g} = {m.memory_gib * m.fraction:.1f} GiB per GPU: weights {m.weights_gib:.2f},"
            f" workspace {m.workspace_gib:g}, KV cache {m.kv_gib:.2f} ({m.kv_dtype}), {m.capacity_tokens:,} tokens"
        )


@app.command()
def status(directory: Path, as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> int:
    """Where every point and job of a campaign stands. Exit code 1 while points are missing, failed or invalid and nothing runs."""
    from .launch.status import status as read
    from .report.campaign import status_text
    from .store.campaign import Campaign

    now = read(Campaign(directory.absolute()))
    print(json.dumps(now.as_json(), indent=1) if as_json else status_text(now.as_json()))
    return 0 if now.is_complete or not now.is_over else 1


@app.command()
def cancel(directory: Path) -> int:
    """End the campaign's running jobs. What is measured stays; the same sweep again measures the rest."""
    from .launch.submit import cancel as end
    from .launch.submit import live_jobs
    from .store.campaign import Campaign

    campaign = Campaign(directory.absolute())
    campaign.read_plan()
    ended = end(campaign)
    _say(f"Ended: {', '.join(ended)}." if ended else "No job of this campaign runs on this machine.")
    for job in live_jobs(campaign):
        _say(f"Job {job.job_id} on {job.host} still runs.")
    return 1 if live_jobs(campaign) else 0


@app.command()
def merge(
    paths: list[str],
    output: Annotated[Path, typer.Option("-o", "--output", help="The archive; points that it already holds are kept.")],
    strict: Annotated[bool, typer.Option(help="Stop at the first bad file.")] = False,
) -> int:
    """Consolidate point files, campaigns and archives into one archive. Bad files are named and left out (exit code 1)."""
    from .store.archive import refuse_to_overwrite

    output = output.resolve()
    refuse_to_overwrite(output)
    return _write_archive([*paths, str(output)] if output.exists() else paths, output, strict=strict)


def _write_archive(paths: list[str], output: Path, *, strict: bool = False) -> int:
    from .store.archive import collect, write_archive

    collected = collect(paths, strict=strict)
    _tell_bad(collected.bad)
    if not collected.points and not collected.tables:
        raise UsageError(f"No point was found in {', '.join(paths)}.", next_step="`glm5bench status DIR` says what a campaign holds")
    write_archive(output, collected)
    _say(f"{output}: {len(collected.points)} points, digest {collected.digest()[:16]}.")
    return 1 if collected.bad else 0


@app.command()
def check(
    paths: list[str],
    digest: Annotated[bool, typer.Option(help="Print the digest of the whole set.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> int:
    """Verify files and recompute the validity of every point from its raw times. Exit code 1 for a bad file or an invalid point."""
    from .store.archive import collect

    collected = collect(paths)
    found = [(s, s.measurement.verdict()) for s in collected.points.values()]
    if as_json:
        print(json.dumps(_checked(collected, found), indent=1))
    else:
        for stored, verdict in found:
            m = stored.measurement
            p = m.point
            what = f"{p['hardware']} {p['precision']} tp{p['tp']} concurrency {p['concurrency']}"
            print(printable(f"{verdict.validity:8} {m.source:9} {m.key} {what}"))
            for reason in verdict.reasons:
                print(printable(f"           {reason.code}: {reason.text}"))
        if digest:
            print(collected.digest())
        _tell_bad(collected.bad)
    return 1 if any(v.validity == "invalid" for _, v in found) else _refuse_nothing(collected, paths)


def _checked(collected: Collected, found: list[tuple[Stored, Verdict]]) -> dict[str, Any]:
    return {
        "digest": collected.digest(),
        "points": [
            {
                "key": s.measurement.key,
                "digest": s.digest,
                "source": s.measurement.source,
                "origin": s.origin,
                "validity": v.validity,
                "reasons": [{"code": r.code, "text": r.text} for r in v.reasons],
            }
            for s, v in found
        ],
        "bad": [{"path": e.path, "reason": e.message} for e in collected.bad],
    }


@app.command()
def tables(
    paths: list[str],
    format_: Annotated[str, typer.Option("--format", help="md, csv or json.")] = "md",
    at: Annotated[str, typer.Option(help="Interactivities of the iso table, tok/s/user: 25,30,40")] = "",
    interpolation: Annotated[str, typer.Option(help="steffen, linear or pchip.")] = "steffen",
    price: Annotated[str, typer.Option(help="A set of conf/price, a YAML file, or b200=2.5,h200=1.4")] = "hyperscaler",
    baseline: Annotated[str, typer.Option(help="Words of the series to compare with: 'h200 fp8 mtp'")] = "",
    only: Annotated[str, typer.Option("--table", help="points, frontier or iso alone.")] = "",
) -> int:
    """Points, frontier, iso-interactivity and cost tables of any files; `published` is what ships."""
    from .settings import price_table

    return _tables(paths, price=price_table(price), format_=format_, at=at, interpolation=interpolation, baseline=baseline, only=only)


def _tables(
    paths: list[str], *, price: Price, format_: str = "md", at: str = "", interpolation: str = "steffen", baseline: str = "", only: str = ""
) -> int:
    from .analysis.comparison import PUBLISHED_GRID, Economy, iso_table, named, series_frontiers
    from .analysis.interpolation import METHODS
    from .report import tables as report
    from .settings import power_table
    from .store.archive import collect

    writers: dict[str, Callable[[report.Tables], str]] = {"md": report.as_markdown, "csv": report.as_csv, "json": report.as_json}
    _one_of("--format", format_, writers)
    _one_of("--interpolation", interpolation, METHODS)
    _one_of("--table", only or "points", ("points", "frontier", "iso"))
    grid = _numbers("--at", at) if at else PUBLISHED_GRID
    economy = Economy(price.usd_per_gpu_h, power_table())
    collected = collect(paths)
    rows = [stored.row for stored in collected.points.values()]
    fronts = series_frontiers(rows)
    iso = iso_table(fronts, economy, at=grid, method=interpolation, is_baseline=named(baseline, list(fronts)))
    made = report.tables(rows, fronts, iso, economy, price_id=price.id, method=interpolation)
    print(writers[format_](report.only(made, only) if only else made), end="" if format_ == "md" else "\n" * (format_ == "json"))
    _tell_bad(collected.bad)
    return _refuse_nothing(collected, paths)


def _refuse_nothing(collected: Collected, paths: list[str]) -> int:
    if not collected.points:
        _say(f"No point was found in {', '.join(paths)}.\n  next: `glm5bench status DIR` says what a campaign holds")
    return 1 if collected.bad or not collected.points else 0


def _one_of(option: str, value: str, choices: Any) -> None:
    if value not in choices:
        raise UsageError(f"{option} {value}: there is no such choice.", next_step=f"one of {', '.join(choices)}")


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(sorted({float(word) for word in text.split(",") if word.strip()}))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 < n < float("inf") for n in numbers):
        raise UsageError(f"{option} {text}: these are no positive numbers.", next_step=f"{option} 25,30,40")
    return numbers


@app.command(cls=OverridesCommand, context_settings=HYDRA)
def simulate(
    ctx: typer.Context,
    port: Annotated[int, typer.Option(help="The port on 127.0.0.1.", min=1, max=65535)] = 30000,
    fault: Annotated[
        str, typer.Option(help="Misbehave: " + "fail_start, slow_start:N, die:N, hang:N, refuse:N, cut:N, short:N, lost:N")
    ] = "",
) -> int:
    """The simulated server of the recipe that OVERRIDES name, in the foreground, without an API key."""
    from . import recipe
    from .settings import compose
    from .simulator.options import flags_of, from_arm, parse_fault
    from .simulator.serve import serve

    parse_fault(fault)
    for argument in _asked(ctx):
        key, _, value = argument.partition("=")
        if key == "experiment" or (key == "engine" and value != "simulated"):
            raise UsageError(
                f"{argument}: the simulated server is one recipe of engine=simulated.", next_step="hardware=... checkpoint=... tp=..."
            )
    settings = compose(*_asked(ctx), "engine=simulated", *([f"engine.fault='{fault}'"] if fault else []))
    reason = recipe.impossible(settings.arm, settings.concurrency)
    if reason is not None:
        raise ImpossibleError(f"{reason}.", next_step="ask for another hardware, checkpoint, tp or speculative setting")
    argv = recipe.bound(settings.arm, max(settings.concurrency), settings.concurrency).argv
    flags = flags_of([*argv, "--model-path", settings.checkpoint.repository, "--host", "127.0.0.1", "--port", str(port)])
    serve(from_arm(settings.arm, flags, argv))
    return 0


def _asked(ctx: typer.Context) -> list[str]:
    return list(ctx.args)


def _tell_bad(bad: list[Any]) -> None:
    for error in bad:
        _say(printable(f"left out: {error.path}: {error.message}"))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
