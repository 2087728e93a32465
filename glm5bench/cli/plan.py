"""The command plan."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import EnvironmentLacks
from .app import HYDRA, OverridesCommand, app, as_called, asked, one_of
from .multirun import Json, campaign_of, how_of, planned_of

if TYPE_CHECKING:  # commands import what they need when they run, so that `--help` and `status` start fast
    from ..plan import Plan
    from ..schedulers.scheduler import How
    from ..settings.overrides import Multirun
    from ..values.point import NodeJob, ServerStart


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
    return run_hydra(asked(ctx), lambda m: print_plan(m, as_json=as_json, show=shown, is_validating=validate), program="glm5bench plan")


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


def print_plan(multirun: Multirun, *, as_json: bool, show: tuple[str, ...], is_validating: bool = False) -> int:
    """Prints the plan, what it needs, and its scripts. Exit code 1 if a parser or the scheduler would refuse something."""
    from ..campaign.opening import plan_record, write_scripts
    from ..checks.flags import validations
    from ..checks.needs import needs
    from ..prediction import error_text, question
    from ..report.campaign import findings_text, plan_text, validations_text
    from ..values.plain import plain

    how, planned = how_of(multirun), planned_of(multirun)
    record = plan_record(planned, how, name=multirun.name, launcher=multirun.launcher, overrides=multirun.overrides)
    scripts = write_scripts(campaign_of(multirun), planned, how)
    record["repeat_scopes"] = _repeat_scopes(multirun)
    record["search"] = _search(multirun, planned)
    needed = needs(planned.jobs)
    looked = [plain(v) for v in validations(planned.jobs)] if is_validating else []
    refused = 1 if any(v["refused"] for v in looked) else EnvironmentLacks.exit_code if any(v["lacks"] for v in looked) else 0
    if as_json:
        texts = {str(path): path.read_text(encoding="utf-8") for path in scripts}
        print(json.dumps({**record, "needs": [plain(need) for need in needed], "validations": looked, "sbatch": texts}, indent=1))
        return refused
    needs_text = findings_text([need.finding for need in needed], "Needed on the nodes:")
    error = error_text(question(job.arm) for job in planned.jobs)
    print(
        as_called(
            "\n".join([plan_text(record, shutil.get_terminal_size((140, 60)).columns, error), *needs_text, *validations_text(looked)])
        )
    )
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


def _search(multirun: Multirun, planned: Plan) -> dict[str, Any] | None:
    """The expected claim of a search, and the cost of the grid that `concurrency` asks for; None without a search."""
    from ..plan import plan
    from ..search.decision import expected, remaining, state_of
    from ..values.plain import plain
    from ..values.search import Search

    search = planned.jobs[0].search
    if search is None:
        return None
    asked = multirun.asked
    grid = plan(replace(asked, campaign=replace(asked.campaign, search=Search("none"))))
    states = tuple(state_of(arm) for arm in search.arms)
    claim = None if search.question.limits else expected(search.question, states).value
    return {
        "question": plain(search.question),
        "expected_claim": claim if claim is not None and math.isfinite(claim) else None,
        "expected": None if search.question.limits else plain(remaining(search.question, states)),
        "grid": {"points": len(grid.points), "server_starts": grid.n_server_starts, "estimate_node_h": grid.estimate_node_h},
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
        print(f"# {job.id}: {job.arm.label}, concurrency {concurrencies}, {image}")
        for role, one in [(part.role, part.recipe) for part in start.recipe.roles] + [("router", start.recipe)]:
            print(*([f"# {role}"] if start.recipe.roles else []), recipe.shell(one, path, "127.0.0.1", "30000"), sep="\n", end="\n\n")
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
