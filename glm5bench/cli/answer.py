"""The command answer."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .app import app, as_called, numbers
from .archives import AT, PRICE
from .multirun import Json

if TYPE_CHECKING:
    from ..campaign.searching import SearchState
    from ..directory import Campaign
    from ..values.search import ArmSearch
    from ..values.settings import Price


@app.command()
def answer(directory: Path, price: PRICE = "hyperscaler", at: AT = "", as_json: Json = False) -> int:
    """What a search has found so far: the calibrated curve with its claim, and the curve through the points. Exit code 1: not reached."""
    from ..directory import Campaign
    from ..report.answer import answer_text
    from ..settings.prices import price_table

    campaign = Campaign(directory.absolute())
    made = told_of(campaign, price_table(price), at)
    print(json.dumps(made, indent=1) if as_json else as_called(answer_text(made, _width())))
    return 0 if made["is_reached"] else 1


def answer_of_search(campaign: Campaign, price: Price) -> str:
    """The answer of a search as text."""
    from ..report.answer import answer_text

    return answer_text(told_of(campaign, price, ""), _width()) + "\n"


def _width() -> int:
    return max(60, shutil.get_terminal_size((100, 60)).columns)


def told_of(campaign: Campaign, price: Price, at: str) -> dict[str, Any]:
    """The answer of a campaign's search as plain values. Raises UsageError if it has none."""
    from ..campaign.searching import search_of, state_of

    record = campaign.read_plan()
    search, state = search_of(campaign, record), state_of(campaign, record)
    if search is None or state is None:
        raise UsageError("This campaign has no search.", where=str(campaign.root), next_step="`glm5bench tables` shows its points")
    is_simulated = any(job["arm"]["engine"]["simulated"] for job in record["jobs"])
    return answer_of(campaign, search, state, price, at, is_simulated=is_simulated)


def answer_of(
    campaign: Campaign, search: ArmSearch, state: SearchState, price: Price, at: str = "", *, is_simulated: bool
) -> dict[str, Any]:
    """The answer as plain values, described in docs/json.md."""
    from dataclasses import asdict

    import numpy as np

    from ..analysis.comparison import PUBLISHED_GRID
    from ..node.searching import known
    from ..search.decision import claimed, printed
    from ..settings.prices import refuse_gaps
    from ..values.plain import finite

    now = known(campaign, search)
    told: dict[str, Any] = {**asdict(state), "is_reached": state.is_reached, "source": "simulated" if is_simulated else "measured"}
    if search.question.limits:
        return told
    states = now.states(search)
    claim = claimed(search.question, states)
    grid = [x for x in (numbers("--at", at) if at else PUBLISHED_GRID) if at or search.question.low <= x <= search.question.high]
    log_x = np.log(grid)
    calibrated = printed(search.question, states, log_x)
    hardware = {arm.series: arm.series.split()[0] for arm in search.arms}
    refuse_gaps(price, set(hardware.values()))
    usd = {series: price.usd_per_gpu_h[name] or math.nan for series, name in hardware.items()}
    through = {s: _through(now, search, s, np.array(grid)) for s in calibrated}
    first = next(iter(calibrated))
    rows = []
    for series, curve in calibrated.items():
        for i, x in enumerate(grid):
            tput, points = float(np.exp(curve[i])), float(through[series][i])
            base = float(np.exp(calibrated[first][i]))
            rows.append(
                {
                    "series": series,
                    "interactivity_tok_s_user": x,
                    "calibrated_tput_per_gpu_tok_s": finite(tput),
                    "calibrated_cost_usd_per_mtok": finite(_usd(usd[series], tput)),
                    "claim": finite(claim.series[series]),
                    "through_points_cost_usd_per_mtok": finite(_usd(usd[series], points)),
                    "perf_per_dollar_vs_first": finite(_usd(usd[first], base) / _usd(usd[series], tput)),
                    "is_inside_claim": bool(claim.low - 1e-9 <= x <= claim.high + 1e-9),
                }
            )
    return {**told, "baseline": first, "price": price.id, "rows": rows}


def _through(now: Any, search: ArmSearch, series: str, grid: Any) -> Any:
    """Throughput at equal interactivity, by the same interpolation through the measured points that `tables` uses."""
    import numpy as np

    from ..analysis.comparison import frontiers
    from ..analysis.interpolation import interpolated
    from ..analysis.repeats import configurations

    rows = [now.rows[key] for arm in search.arms if arm.series == series for key in now.keys(arm) if key in now.rows]
    front = frontiers({series: configurations(rows)}).get(series, [])
    x = np.array([r.interactivity_tok_s_user for r in front])
    return 1 / interpolated(x, np.array([1 / r.total_tput_per_gpu_tok_s for r in front]), grid)


def _usd(price: float, tput: float) -> float:
    from ..analysis.cost import usd_per_mtok

    return usd_per_mtok(price, tput) if math.isfinite(tput) else math.nan
