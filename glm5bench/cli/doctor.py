"""The verb that looks at a cluster."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import BenchError
from .app import HYDRA, OverridesCommand, app, as_called, asked
from .multirun import Json, campaign_of, how_of, planned_of

if TYPE_CHECKING:  # verbs import what they need when they run, so that `--help` and `status` start fast
    from ..settings.overrides import Multirun
    from ..values.point import NodeJob


@app.command(cls=OverridesCommand, context_settings=HYDRA)
def doctor(
    ctx: typer.Context,
    probe: Annotated[bool, typer.Option("--probe", help="Also send a short job to every partition, which checks its node.")] = False,
    as_json: Json = False,
) -> int:
    """Check this cluster for a campaign of OVERRIDES (cluster=mysite). Exit code 1 if something is missing."""
    from ..campaign.doctor import examine
    from ..campaign.opening import refuse_other_points
    from ..checks.finding import Finding
    from ..report.campaign import findings_text
    from ..schedulers.known import scheduler
    from ..schedulers.scheduler import Order
    from ..settings.overrides import run_hydra
    from ..trust import trusted

    def examined(multirun: Multirun) -> int:
        campaign, cluster = campaign_of(multirun), multirun.asked.campaign.cluster
        jobs: tuple[NodeJob, ...] = ()
        refused = []
        try:  # whatever `sweep` would refuse; the cluster is checked all the same
            how, planned = how_of(multirun), planned_of(multirun)
            jobs = planned.jobs
            trusted(campaign.root)
            refuse_other_points(campaign, planned)
            scheduler(how.cluster).scripts(campaign, [Order(job) for job in jobs], how.cluster)
        except BenchError as error:
            refused = [Finding("plan", False, error.message, error.next_step)]
        found = [*refused, *examine(campaign.root.parent, cluster, multirun.asked.hardware, jobs, is_probing=probe)]
        record = [{"what": f.what, "is_well": f.is_well, "said": f.said, "next": f.next_step} for f in found]
        print(json.dumps({"findings": record}, indent=1) if as_json else as_called("\n".join(findings_text(found))))
        return int(any(f.is_well is False for f in found))

    return run_hydra(asked(ctx), examined, program="glm5bench doctor")
