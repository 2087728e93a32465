"""Compares the simulator's step model with all 42 published points, and fits its efficiency factors.

    python benchmarks/roofline_fit.py                   Print the table of docs/roofline.md, from the factors in conf/.
    python benchmarks/roofline_fit.py --write           Write the table into docs/roofline.md.
    python benchmarks/roofline_fit.py --fit b200        Fit the factors of this hardware again and print them (minutes).

Each point is run as it was published: a separate server, the recipe bound to the point's concurrency, and 10 C prompts in a closed loop.
The run is in virtual time and uses the simulator's scheduler, without HTTP or a clock.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from tabulate import tabulate

from glm5bench import recipe
from glm5bench.settings.overrides import compose
from glm5bench.simulator.options import flags_of, from_arm
from glm5bench.simulator.predict import predict
from glm5bench.values.groups import Efficiency
from glm5bench.values.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
DOC = ROOT / "docs" / "roofline.md"
MARK = "<!-- made by benchmarks/roofline_fit.py --write -->"
CHECKPOINTS = {"zai-org/GLM-5-FP8": "glm5_fp8", "nvidia/GLM-5-NVFP4": "glm5_nvfp4"}


@dataclasses.dataclass(frozen=True)
class Compared:
    """One published point and its prediction."""

    arm: str
    hardware: str
    concurrency: int
    tput: float
    predicted_tput: float
    interactivity: float
    predicted_interactivity: float
    running: float

    @property
    def errors(self) -> tuple[float, float]:
        return self.predicted_tput / self.tput - 1, self.predicted_interactivity / self.interactivity - 1


def published() -> list[dict[str, str]]:
    with (ROOT / "glm5bench" / "published" / "points.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@cache
def settings(hardware: str, checkpoint: str, tp: str, speculative: str) -> Settings:
    return compose(
        "engine=simulated", f"hardware={hardware}", f"checkpoint={CHECKPOINTS[checkpoint]}", f"tp={tp}", f"speculative={speculative}"
    )


def compared(row: dict[str, str], efficiency: Efficiency | None = None, accept: float | None = None, prompts: int = 10) -> Compared:
    s = settings(row["hardware"], row["checkpoint"], row["tp"], row["speculative"])
    arm, concurrency = s.arm, int(row["concurrency"])
    if efficiency is not None:
        arm = dataclasses.replace(arm, hardware=dataclasses.replace(arm.hardware, efficiency=efficiency))
    if accept is not None:
        arm = dataclasses.replace(arm, checkpoint=dataclasses.replace(arm.checkpoint, mtp_accept=accept))
    bound = recipe.bound(arm, concurrency)
    options = from_arm(arm, flags_of(bound.argv), bound.argv)
    workload = dataclasses.replace(arm.workload, prompts_per_concurrency=prompts)
    p = predict(options.model, options.limits, workload, concurrency)
    return Compared(
        arm=f"{row['hardware']} {row['precision']} TP={row['tp']} MTP {'on' if row['speculative'] == 'mtp' else 'off'}",
        hardware=row["hardware"],
        concurrency=concurrency,
        tput=float(row["total_tput_per_gpu_tok_s"]),
        predicted_tput=p.total_tput_per_gpu_tok_s,
        interactivity=float(row["interactivity_tok_s_user"]),
        predicted_interactivity=p.interactivity_tok_s_user,
        running=p.mean_running,
    )


def report(points: list[Compared]) -> str:
    lines = [
        {
            "arm": p.arm,
            "conc.": p.concurrency,
            "mean running": f"{p.running:.0f}",
            "tok/s/GPU published": f"{p.tput:.1f}",
            "predicted": f"{p.predicted_tput:.1f}",
            "error": f"{p.errors[0]:+.1%}",
            "tok/s/user published": f"{p.interactivity:.2f}",
            "predicted ": f"{p.predicted_interactivity:.2f}",
            "error ": f"{p.errors[1]:+.1%}",
        }
        for p in points
    ]
    arms = [{"arm": arm, **_summary([p for p in points if p.arm == arm])} for arm in dict.fromkeys(p.arm for p in points)]
    arms.append({"arm": "all 42 points", **_summary(points)})
    markdown = {"headers": "keys", "tablefmt": "github", "disable_numparse": True}
    return f"{tabulate(arms, **markdown)}\n\n{tabulate(lines, **markdown)}\n"


def _summary(points: list[Compared]) -> dict[str, str]:
    def text(errors: list[float]) -> str:
        return f"{np.median(np.abs(errors)):.1%} / {np.max(np.abs(errors)):.1%}"

    tput, interactivity = [p.errors[0] for p in points], [p.errors[1] for p in points]
    return {
        "points": str(len(points)),
        "tok/s/GPU, median / worst": text(tput),
        "tok/s/user, median / worst": text(interactivity),
        "both": text(tput + interactivity),
    }


def fit(hardware: str) -> None:
    """Least squares over log errors of throughput and interactivity. `compute` is fixed at 0.7: no published point depends on it."""
    from scipy.optimize import least_squares

    rows = [r for r in published() if r["hardware"] == hardware]
    fp4 = any(r["precision"] == "nvfp4" for r in rows)
    start = [math.log(0.8), math.log(0.03), math.log(150e-6)] + ([math.log(50e-6), 0.9] if fp4 else [])

    def factors(x: np.ndarray) -> tuple[Efficiency, float | None]:
        b, i, layer, *rest = [float(v) for v in x]
        quantise = math.exp(rest[0]) if fp4 else 0.0
        return Efficiency(math.exp(b), 0.7, math.exp(i), math.exp(layer), quantise), 1 / (1 + math.exp(-rest[1])) if fp4 else None

    with ProcessPoolExecutor() as pool:

        def errors(x: np.ndarray) -> np.ndarray:
            efficiency, accept = factors(x)
            n = len(rows)
            found = pool.map(compared, rows, [efficiency] * n, [accept] * n, [3] * n)
            return np.array([math.log1p(e) for p in found for e in p.errors])

        upper = [0.0, 0.0, math.log(1e-3)] + ([math.log(1e-3), 3.0] if fp4 else [])
        best = least_squares(errors, start, diff_step=0.03, loss="soft_l1", f_scale=0.1, max_nfev=15, bounds=(-20, upper))
    print(hardware, *factors(best.x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--fit")
    asked = parser.parse_args()
    if asked.fit:
        return fit(asked.fit)
    with ProcessPoolExecutor() as pool:
        text = report(list(pool.map(compared, published())))
    if asked.write:
        DOC.write_text(DOC.read_text().split(MARK)[0] + MARK + "\n\n" + text)
    else:
        print(text)
    return None


if __name__ == "__main__":
    main()
