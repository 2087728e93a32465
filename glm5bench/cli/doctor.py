"""The verb that looks at a cluster."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ImpossibleError
from .app import HYDRA, OverridesCommand, app, as_called, asked, say
from .multirun import Json, campaign_of, planned_of

if TYPE_CHECKING:  # verbs import what they need when they run, so that `--help` and `status` start fast
    from ..settings.overrides import Multirun


@app.command(cls=OverridesCommand, context_settings=HYDRA)
def doctor(
    ctx: typer.Context,
    probe: Annotated[bool, typer.Option("--probe", help="Send a short job to every partition: what its node sees, has and lacks.")] = False,
    as_json: Json = False,
) -> int:
    """What this cluster has and lacks for a campaign of OVERRIDES (cluster=mysite). Exit code 1 for something that lacks."""
    from ..campaign.doctor import examine
    from ..report.campaign import findings_text
    from ..settings.overrides import run_hydra

    def examined(multirun: Multirun) -> int:
        try:
            jobs = planned_of(multirun).jobs
        except ImpossibleError as error:  # what the cluster has can be said all the same
            say(str(error))
            jobs = ()
        found = examine(campaign_of(multirun).root.parent, multirun.asked.campaign.cluster, multirun.asked.hardware, jobs, is_probing=probe)
        record = [{"what": f.what, "is_well": f.is_well, "said": f.said, "next": f.next_step} for f in found]
        print(json.dumps({"findings": record}, indent=1) if as_json else as_called("\n".join(findings_text(found))))
        return int(any(f.is_well is False for f in found))

    return run_hydra(asked(ctx), examined, program="glm5bench doctor")
