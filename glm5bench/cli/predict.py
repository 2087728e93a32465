"""The command predict."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import FileError, UsageError, counted
from .app import HYDRA, OverridesCommand, app, asked, say
from .multirun import Json, planned_of

if TYPE_CHECKING:
    from ..prediction import Prediction, Serving
    from ..settings.overrides import Multirun
    from ..values.point import Arm, NodeJob, Point, ServerStart
    from ..values.workload import Workload

    Own = tuple[Serving, Workload, int, float, float]  # server, workload, concurrency, medians of TPOT and TTFT in seconds

CURVE = "concurrency=4,8,16,32,64,128,256"  # predicted if no concurrency is asked for
Place = tuple[str, str]  # GPU and engine
Factors = tuple[float, float]  # on decode passes and on prefill
OWN = typer.Option("--from", metavar="PATH", help="Points or archives of your own: their TPOT and TTFT calibrate the model.")


@app.command(cls=OverridesCommand, context_settings=HYDRA)
def predict(
    ctx: typer.Context,
    own: Annotated[list[Path] | None, OWN] = None,
    as_json: Json = False,
) -> int:
    """Predict TTFT, TPOT, throughput, cost and memory of OVERRIDES with the step model, without a GPU. Nothing is measured."""
    from ..settings.overrides import run_hydra

    words = asked(ctx)
    if not any(word.startswith(("concurrency=", "experiment=", "+experiment=")) for word in words):
        words = [*words, CURVE]
    return run_hydra(words, lambda m: _predict(m, own or [], as_json=as_json), program="glm5bench predict")


def _predict(multirun: Multirun, own: list[Path], *, as_json: bool) -> int:
    from ..report.predicted import predicted_text

    planned = planned_of(multirun)
    price = multirun.asked.campaign.price.usd_per_gpu_h  # the plan refuses hardware without a price
    points = {p.key: (job, start, p) for job in planned.jobs for start in job.starts for p in start.points if p.repeat == 0}
    factors = _calibration(own, [job.arm for job in planned.jobs]) if own else {}
    found = [_row(job, start, point, price[job.arm.hardware.id] or 0.0, factors) for job, start, point in points.values()]
    _mark_frontiers(found)
    for out in planned.left_out:
        say(f"left out: {out.arm}: {out.reason}")
    if as_json:
        print(json.dumps({"source": "step model", "points": found}, indent=1))
    else:
        print(predicted_text(found, shutil.get_terminal_size((140, 60)).columns))
    return 0


def _row(job: NodeJob, start: ServerStart, point: Point, usd_per_gpu_h: float, factors: Mapping[Place, Factors]) -> dict[str, Any]:
    from .. import recipe
    from ..analysis.cost import usd_per_mtok
    from ..prediction import MEANING, band, engine_family, predict, question, serving, with_factors

    arm = job.arm
    server, kind = serving(arm, start.recipe), question(arm)
    own = factors.get((arm.hardware.id, engine_family(arm)))
    if own is not None:
        server, kind = with_factors(server, *own), "calibrated"
    p = predict(server, arm.workload, point.concurrency, seed=point.seed)
    memory = recipe.memory(arm, start.recipe)
    bands = {figure: band(kind, figure) for figure in ("tput", "tpot", "ttft")}
    error = {figure: known.p90 if known is not None else None for figure, known in bands.items()}
    return {
        "hardware": arm.hardware.id,
        "arm": arm.label,
        "concurrency": point.concurrency,
        "class": kind,
        "meaning": MEANING[kind],
        **_figures(p),
        "cost_usd_per_mtok": usd_per_mtok(usd_per_gpu_h, p.total_tput_per_gpu_tok_s),
        "error_p90": error,
        "weights_gib_per_gpu": memory.weights_gib,
        "kv_cache_gib_per_gpu": memory.kv_gib,
        "kv_cache_tokens": memory.capacity_tokens,
        "max_running": server.limits.max_running,
        "decode_factor": own[0] if own else 1.0,
        "prefill_factor": own[1] if own else 1.0,
    }


def _figures(p: Prediction) -> dict[str, float]:
    return {
        "ttft_median_s": p.ttft_median_s,
        "ttft_p99_s": p.ttft_p99_s,
        "tpot_median_s": p.tpot_median_s,
        "interactivity_tok_s_user": p.interactivity_tok_s_user,
        "total_tput_per_gpu_tok_s": p.total_tput_per_gpu_tok_s,
        "output_tput_tok_s": p.output_tput_tok_s,
        "running_mean": p.mean_running,
        "duration_s": p.duration_s,
    }


def _mark_frontiers(found: list[dict[str, Any]]) -> None:
    """Sets `is_on_frontier`: no other point of this GPU has both more interactivity and more throughput."""
    import numpy as np

    from ..analysis.frontier import frontier

    for hardware in {row["hardware"] for row in found}:
        rows = [row for row in found if row["hardware"] == hardware]
        columns = [np.array([row[name] for row in rows]) for name in ("interactivity_tok_s_user", "total_tput_per_gpu_tok_s")]
        kept = {int(i) for i in frontier(*columns)}
        for i, row in enumerate(rows):
            row["is_on_frontier"] = i in kept


def _calibration(paths: list[Path], arms: list[Arm]) -> dict[Place, Factors]:
    """Factors for each GPU and engine, from the archives' points. Raises UsageError if an asked GPU and engine has none."""
    from ..prediction import calibrated, engine_family, residuals

    of: dict[Place, list[Own]] = {}
    for place, pair in _own_points(paths):
        of.setdefault(place, []).append(pair)
    wanted = {(arm.hardware.id, engine_family(arm)) for arm in arms}
    missing = sorted(wanted - of.keys())
    if missing:
        has = ", ".join(f"{engine} on {hardware}" for hardware, engine in sorted(of)) or "no usable point"
        raise UsageError(
            f"--from has no point of {' or '.join(f'{engine} on {hardware}' for hardware, engine in missing)}; it has {has}.",
            next_step="predict the hardware and engine of these points, or leave --from out",
        )
    found = {place: calibrated(pairs) for place, pairs in of.items() if place in wanted}
    for (hardware, engine), (decode, prefill) in found.items():
        n = counted(len(of[hardware, engine]), "point")
        off = residuals(of[hardware, engine], decode, prefill)
        say(
            f"{engine} on {hardware}: decode passes × {decode:.2f}, prefill × {prefill:.2f}, from {n} of your own;"
            f" the largest difference left is {off[0]:.0%} in TPOT and {off[1]:.0%} in TTFT"
        )
    return found


def _own_points(paths: list[Path]) -> list[tuple[Place, Own]]:
    """Each valid point of the files whose workload can be predicted, by GPU and engine, with its medians of TPOT and TTFT."""
    from ..archive.collection import files
    from ..archive.decoding import measurements
    from ..archive.summary import row_of
    from ..errors import BenchError
    from ..prediction import engine_family, refuse_unpredictable, serving
    from ..values.plain import from_plain
    from ..values.point import Arm, Recipe

    found, seen = [], set()
    for path in files([str(p) for p in paths]):
        for each in measurements(path):
            if isinstance(each, FileError):
                raise each
            m, digest = each[0], each[2]
            if m is None or digest in seen:
                continue
            seen.add(digest)
            row = row_of(m, m.digest(), str(path))
            try:
                arm, recipe = from_plain(Arm, m.point["arm"]), from_plain(Recipe, m.point["recipe"])
                refuse_unpredictable(arm.workload)
                server = serving(arm, recipe)
            except (BenchError, KeyError, TypeError, ValueError):
                continue  # an import, or a workload that the model does not follow
            medians = (row.tpot_median_s, row.ttft_median_s)
            if row.validity != "invalid" and all(math.isfinite(s) and s > 0 for s in medians):
                found.append(((arm.hardware.id, engine_family(arm)), (server, arm.workload, row.concurrency, *medians)))
    if len(seen) > len(found):
        unused = f"{len(seen) - len(found)} of {counted(len(seen), 'point')}"
        say(f"{unused} not used: invalid, imported, or of a workload that the model cannot follow")
    return found
