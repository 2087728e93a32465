"""The verb of the simulated server."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import ImpossibleError, UsageError
from .app import HYDRA, OverridesCommand, app, asked


@app.command(cls=OverridesCommand, context_settings=HYDRA)
def simulate(
    ctx: typer.Context,
    port: Annotated[int, typer.Option(help="The port on 127.0.0.1.", min=1, max=65535)] = 30000,
    fault: Annotated[
        str,
        typer.Option(
            help="Misbehave: fail_start, slow_start:N, settings, die:N, hang:N, panic:N, refuse:N, cut:N, short:N, lost:N, closes:N, "
            "retract:N, transferred, reset:N, gauge, renamed"
        ),
    ] = "",
) -> int:
    """The simulated server of the recipe that OVERRIDES name, in the foreground, without an API key."""
    from .. import recipe
    from ..contradictions import impossible
    from ..settings.overrides import compose
    from ..simulator.options import flags_of, from_arm, parse_fault
    from ..simulator.serve import serve

    parse_fault(fault)
    for argument in asked(ctx):
        key, _, value = argument.partition("=")
        if key == "experiment" or (key == "engine" and value != "simulated"):
            raise UsageError(
                f"{argument}: the simulated server is one recipe of engine=simulated.", next_step="hardware=... checkpoint=... tp=..."
            )
    settings = compose(*asked(ctx), "engine=simulated", *([f"engine.fault='{fault}'"] if fault else []))
    reason = impossible(settings.arm, settings.concurrency)
    if reason is not None:
        raise ImpossibleError(f"{reason}.", next_step="ask for another hardware, checkpoint, tp or speculative setting")
    if settings.arm.has_parts or settings.arm.nodes > 1:
        raise UsageError(
            f"{settings.arm.label} has several servers or nodes; this command runs one server on one node.",
            next_step="roles=single; `sweep engine=simulated` runs all of them",
        )
    argv = recipe.bound(settings.arm, max(settings.concurrency), settings.concurrency).argv
    flags = flags_of([*argv, "--model-path", settings.checkpoint.repository, "--host", "127.0.0.1", "--port", str(port)])
    serve(from_arm(settings.arm, flags, argv))
    return 0
