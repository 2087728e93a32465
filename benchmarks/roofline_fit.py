"""Fits the factors of the step model, and reports its errors against published points: fitted, left out, and with another GPU's factors.

    python benchmarks/roofline_fit.py                   Print the tables of docs/roofline.md, from the factors in conf/ (a minute).
    python benchmarks/roofline_fit.py --write           Write the tables into docs/roofline.md.
    python benchmarks/roofline_fit.py --fit b200        Fit the factors of this GPU again and print them (minutes).
    python benchmarks/roofline_fit.py --left-out        Fit without each arm in turn, and write the arm's errors to left_out.csv (an hour).

The rows of GLM-5 are 42 points of May 2026 (throughput and interactivity, 8k/1k), 32 rows of March 2026 (TTFT and TPOT, SGLang without
MTP, 1k/1k and 8k/1k) and nine of vLLM 0.16 (2k/512). The rows of other models (TPOT and TTFT; DeepSeek-R1, MiniMax-M2.5 and Kimi-K2.5
without data-parallel attention or expert parallelism) separate what GLM-5 alone cannot: the time of its indexer from that of other kernels.
Each row is predicted as it was measured: its own server, its own flags, a closed loop.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from tabulate import tabulate

from glm5bench import recipe
from glm5bench.prediction import predict, serving
from glm5bench.settings.overrides import compose
from glm5bench.values.point import Arm

ROOT = Path(__file__).resolve().parent.parent
DOC = ROOT / "docs" / "roofline.md"
LEFT_OUT = ROOT / "benchmarks" / "left_out.csv"
MARK = "<!-- made by benchmarks/roofline_fit.py --write -->"
CHECKPOINTS = {
    "zai-org/GLM-5-FP8": "glm5_fp8",
    "nvidia/GLM-5-NVFP4": "glm5_nvfp4",
    "zhipuai/GLM-5 fp8": "glm5_fp8",
    "zhipuai/GLM-5 fp4": "glm5_nvfp4",
    "deepseek-ai/DeepSeek-R1 fp8": "deepseek_v32_fp8",
    "deepseek-ai/DeepSeek-R1 fp4": "deepseek_v32_nvfp4",
    "MiniMaxAI/MiniMax-M2.5 fp8": "minimax_m25_fp8",
    "moonshotai/Kimi-K2.5 int4": "kimi_k25_int4",
}
R1 = (  # the shape of V3.2 without its indexer, and the flags of InferenceX's recipe that matter here
    "checkpoint.architecture.index_heads=0",
    "checkpoint.architecture.index_dim=0",
    "checkpoint.architecture.index_topk=0",
    "engine.extra_args=['--kv-cache-dtype','fp8_e4m3','--chunked-prefill-size','32768']",
)
WEIGHT = {
    "ttft": 0.25,
    "vLLM": 0.5,
    "other": 0.5,
}  # in the fit: TTFT has no stated statistic, and some settings of these runs are not known

# the first value of each fitted factor, and the standard deviation of its logarithm
SHARED = {
    "bandwidth": (0.8, 0.2),
    "compute": (0.5, 0.4),
    "prefill_compute": (0.45, 0.4),
    "indexer": (0.2, 0.7),
    "layer_s": (90e-6, 0.3),
    "index_s": (50e-6, 0.5),
    "prefill_token_s": (10e-6, 1.0),
    "token_s": (5e-6, 1.5),
    "request_s": (20e-6, 1.5),
}
TTFT = {"eager_layer_s": (1.6e-3, 0.5), "host_s": (0.08, 0.5), "expert_s": (1e-7, 1.5)}
FITTED = {
    "h200": {**SHARED, **TTFT, "passes.layer": (1.0, 0.2), "passes.eager": (0.3, 0.7)},
    "b200": {
        **SHARED,
        **TTFT,
        "quantise_s": (15e-6, 0.7),
        "index_quantise_s": (50e-6, 0.7),
        "narrow_fp4_expert_s": (4e-7, 1.5),
        "passes.sparse_prefill": (1.5, 0.7),
    },
    "mi355x": SHARED,
}
SHARES = {"bandwidth": 0.95, "compute": 0.85, "prefill_compute": 0.85, "indexer": 0.5}  # none is larger


@dataclasses.dataclass(frozen=True)
class Published:
    """One published row. `figures`: by name, in seconds, tokens/s/GPU (tput), tokens/s/user (inter) or tokens/s (output)."""

    source: str
    hardware: str
    checkpoint: str
    tp: int
    speculative: str
    isl: int
    osl: int
    concurrency: int
    figures: tuple[tuple[str, float], ...]
    engine: str = "simulated"
    overrides: tuple[str, ...] = ()

    @property
    def arm(self) -> str:
        mtp = "on" if self.speculative == "mtp" else "off"
        name = self.checkpoint.replace("deepseek_v32", "deepseek_r1") if self.overrides else self.checkpoint
        return f"{self.hardware} {name} TP{self.tp} MTP {mtp} {'vLLM' if self.engine == 'vllm' else 'SGLang'}"

    @property
    def model(self) -> str:
        return self.arm.split()[1].rpartition("_")[0]

    @property
    def place(self) -> tuple[str, ...]:
        """What distinguishes the row."""
        return self.source, self.arm, str(self.isl), str(self.osl), str(self.concurrency), f"{self.figures[0][1]:.6g}"


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@cache
def published() -> tuple[Published, ...]:
    """All rows, in the order of their files."""
    found = [
        Published(
            "May", r["hardware"], CHECKPOINTS[r["checkpoint"]], int(r["tp"]), r["speculative"], 8192, 1024, int(r["concurrency"]),
            (("tput", float(r["total_tput_per_gpu_tok_s"])), ("inter", float(r["interactivity_tok_s_user"]))),
        )
        for r in _rows(ROOT / "glm5bench" / "published" / "points.csv")
    ]  # fmt: skip
    found += _measured("March", "glm5_sglang_2026-03_ttft_tpot.csv")
    found += [
        Published(
            "vLLM", "b200", "glm5_fp8", 8, "off", 2048, 512, int(r["concurrency"]),
            (("tpot", float(r["tpot_ms"]) / 1e3), ("ttft", float(r["ttft_ms"]) / 1e3), ("output", float(r["output_tput_tok_s"]))),
            "vllm", ("workload.range_ratio=1.0",),
        )
        for r in _rows(ROOT / "glm5bench" / "published" / "vllm_b200_2048_512.csv")
    ]  # fmt: skip
    found += _measured("other", "deepseek_sglang_ttft_tpot.csv") + _measured("other", "minimax_kimi_vllm_ttft_tpot.csv")
    return tuple(found)


def _measured(source: str, name: str) -> list[Published]:
    """The rows of a file with TTFT and TPOT that the model follows. TTFT of R1 in FP4 is left out: seconds at 1k are not of a server."""
    found = []
    for r in sorted(_rows(ROOT / "benchmarks" / "published" / name), key=lambda r: int(r["concurrency"])):
        is_one_server = r["attention_dp"] == "1" and r["ep"] == "1" and int(r["gpus"]) <= 8
        if not is_one_server or (r["model"].endswith("R1") and r["precision"] == "fp8" and r["tp"] == "4"):  # its KV cache is not known
            continue
        figures = [("tpot", float(r["tpot_ms"]) / 1e3)]
        if not (r["model"].endswith("R1") and r["precision"] == "fp4"):
            figures.append(("ttft", float(r["ttft_ms"]) / 1e3))
        engine = "vllm" if r["engine"] == "vllm" else "simulated"
        shape = (int(r["tp"]), "off", int(r["isl"]), int(r["osl"]), int(r["concurrency"]))
        checkpoint, overrides = CHECKPOINTS[f"{r['model']} {r['precision']}"], R1 if r["model"].endswith("R1") else ()
        row = Published(source, r["hardware"], checkpoint, *shape, tuple(figures), engine, overrides)
        if not any(other.place[:5] == row.place[:5] and abs(other.figures[0][1] / row.figures[0][1] - 1) < 0.03 for other in found):
            found.append(row)  # the source has some rows twice
    return sorted(found, key=lambda p: (p.arm, p.isl, p.osl))


@cache
def _arm(
    hardware: str, checkpoint: str, tp: int, speculative: str, isl: int, osl: int, engine: str, overrides: tuple[str, ...] = ()
) -> Arm:
    words = [f"hardware={hardware}", f"checkpoint={checkpoint}", f"tp={tp}", f"speculative={speculative}", f"engine={engine}"]
    version = ["engine.version=0.22.0"] if engine == "vllm" and not checkpoint.startswith("glm5") else []
    return compose(*words, f"workload.isl_tokens={isl}", f"workload.osl_tokens={osl}", *version, *overrides).arm


def with_factors(arm: Arm, factors: Mapping[str, float]) -> Arm:
    """The arm with these factors of Efficiency, and (passes.NAME) of vLLM's Passes."""
    of_hardware = {name: value for name, value in factors.items() if not name.startswith("passes.")}
    of_engine = {name[7:]: value for name, value in factors.items() if name.startswith("passes.") and not arm.engine.simulated}
    efficiency = dataclasses.replace(arm.hardware.efficiency, **of_hardware)
    passes = dataclasses.replace(arm.engine.passes, **of_engine)
    return dataclasses.replace(
        arm, hardware=dataclasses.replace(arm.hardware, efficiency=efficiency), engine=dataclasses.replace(arm.engine, passes=passes)
    )


def errors(row: Published, factors: Mapping[str, float] | None = None, *, is_quick: bool = False) -> dict[str, float]:
    """Log of predicted / published for each figure of a row. `is_quick`: with fewer prompts where many are in flight."""
    arm = with_factors(
        _arm(row.hardware, row.checkpoint, row.tp, row.speculative, row.isl, row.osl, row.engine, row.overrides), factors or {}
    )
    server = serving(arm, recipe.bound(arm, row.concurrency))
    n = 4 if row.concurrency > 256 or (is_quick and (row.source == "other" or (row.concurrency > 64 and row.source != "March"))) else 10
    p = predict(server, dataclasses.replace(arm.workload, prompts_per_concurrency=n, prompts=None), row.concurrency)
    found = {
        "tput": p.total_tput_per_gpu_tok_s,
        "inter": p.interactivity_tok_s_user,
        "tpot": p.tpot_mean_s,
        "ttft": p.ttft_mean_s,
        "output": p.output_tput_tok_s,
    }
    return {name: math.log(found[name] / value) for name, value in row.figures}


def fit(hardware: str, rows: Sequence[Published], *, at_most: int = 20) -> dict[str, float]:
    """The factors with the least soft squares of weighted log errors, and a weak prior around plausible values.

    The search begins at the prior, which has seen no row. `at_most`: evaluations of all rows, apart from those for derivatives.
    """
    from scipy.optimize import least_squares

    names = list(FITTED[hardware])
    start = np.array([math.log(FITTED[hardware][name][0]) for name in names])
    spread = np.array([FITTED[hardware][name][1] for name in names])

    def factors(x: np.ndarray) -> dict[str, float]:
        return {name: min(float(v), SHARES.get(name, math.inf)) for name, v in zip(names, np.exp(x), strict=True)}

    def residuals(x: np.ndarray) -> np.ndarray:
        found = []
        for row in rows:
            weight = WEIGHT.get(row.source, 1.0)
            of_row = errors(row, factors(x), is_quick=True)
            found += [max(-1.0, min(1.0, e)) * weight * WEIGHT.get(name, 1.0) / 0.05 for name, e in of_row.items()]
        return np.concatenate([np.array(found), (x - start) / spread])

    return factors(least_squares(residuals, start, diff_step=0.02, loss="soft_l1", f_scale=3.0, max_nfev=at_most).x)


def left_out(hardware: str, name: str) -> list[tuple[Published, dict[str, float]]]:
    """The errors of an arm's or model's rows on this GPU, with factors that were fitted to its other rows."""
    own = [row for row in published() if row.hardware == hardware and name in (row.arm, row.model)]
    others = [row for row in published() if row.hardware == hardware and row not in own]
    factors = fit(hardware, others[::2], at_most=12)  # every second row, which takes half of the time
    return [(row, errors(row, factors)) for row in own]


def to_leave_out() -> list[tuple[str, str]]:
    """GPU and name of each arm of GLM-5, and of each other model: one fit without each."""
    return [*dict.fromkeys((row.hardware, row.arm if row.model == "glm5" else row.model) for row in published())]


def another_gpu(row: Published) -> dict[str, float] | None:
    """The errors with the factors of another fitted GPU of the same vendor; None if there is none."""
    other = {"h200": "b200", "b200": "h200"}.get(row.hardware)
    if other is None or row.source == "other":
        return None
    return errors(row, dataclasses.asdict(_arm(other, "glm5_fp8", 8, "off", 8192, 1024, "simulated").hardware.efficiency))


NAMES = {"tput": "tok/s/GPU", "inter": "tok/s/user", "tpot": "TPOT", "ttft": "TTFT", "output": "output tok/s"}


def summary(found: Iterable[dict[str, float]], names: Sequence[str]) -> str:
    """Median, 90th percentile and worst of the absolute relative errors."""
    values = [abs(math.expm1(e)) for each in found for name, e in each.items() if name in names]
    return f"{np.median(values):.1%}, {np.quantile(values, 0.9):.1%}, {max(values):.1%}" if values else ""


FIGURES = {"tput": ("tput", "inter", "output"), "tpot": ("tpot",), "ttft": ("ttft",)}  # as prediction.BANDS groups them


def bands(found: Sequence[dict[str, float]]) -> dict[str, tuple[float, float, float]]:
    """Median, 90th percentile and worst of the absolute relative errors, by group of figures."""
    errors_of = {group: [abs(math.expm1(row[name])) for row in found for name in names if name in row] for group, names in FIGURES.items()}
    errors_of["tput"] = errors_of["tput"] or errors_of["tpot"]  # rows of other models have no throughput; it follows from TPOT
    return {group: (float(np.median(v)), float(np.quantile(v, 0.9)), max(v)) for group, v in errors_of.items()}


def kept() -> dict[tuple[str, ...], dict[str, float]]:
    """The errors of left_out.csv, by the place of a row."""
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for r in _rows(LEFT_OUT):
        place = tuple(r[name] for name in ("source", "arm", "isl", "osl", "concurrency", "published"))
        found.setdefault(place, {})[r["figure"]] = float(r["log_error"])
    return found


def report() -> str:
    rows = published()
    with ProcessPoolExecutor() as pool:
        fitted, other = list(pool.map(errors, rows, chunksize=4)), list(pool.map(another_gpu, rows, chunksize=4))
    of_left_out = kept()
    away = [of_left_out.get(row.place, {}) for row in rows]
    markdown = {"headers": "keys", "tablefmt": "github", "disable_numparse": True}
    groups = [
        ("May", "tput"),
        ("May", "inter"),
        ("March", "tpot"),
        ("March", "ttft"),
        ("vLLM", "tpot"),
        ("vLLM", "ttft"),
        ("vLLM", "output"),
        ("other", "tpot"),
        ("other", "ttft"),
    ]

    def line(label: str, source: str, figure: str, among: Sequence[int]) -> dict[str, str]:
        return {
            "rows": label,
            "figure": NAMES[figure],
            "fitted": summary([fitted[i] for i in among], [figure]),
            "arm left out": summary([away[i] for i in among], [figure]),
            "another GPU's factors": summary([other[i] or {} for i in among], [figure]),
        }

    totals = [line(f"{s} ({sum(r.source == s for r in rows)})", s, f, [i for i, r in enumerate(rows) if r.source == s]) for s, f in groups]
    arms = [
        line(arm, "", figure, [i for i, r in enumerate(rows) if r.arm == arm])
        for arm in dict.fromkeys(r.arm for r in rows)
        for figure in dict(next(r for r in rows if r.arm == arm).figures)
    ]
    points = []
    for row, f, a in zip(rows, fitted, away, strict=True):
        values = {NAMES[n]: f"{v * 1e3:.4g} ms" if n in ("tpot", "ttft") else f"{v:.4g}" for n, v in row.figures}
        off = {name: ", ".join(f"{math.expm1(e):+.1%}" for e in d.values()) for name, d in (("fitted", f), ("arm left out", a))}
        points.append({"arm": row.arm, "ISL/OSL": f"{row.isl}/{row.osl}", "conc.": str(row.concurrency), **values, **off})
    tables = [tabulate(totals, **markdown), tabulate(arms, **markdown)]
    tables += [
        tabulate([p for p, r in zip(points, rows, strict=True) if r.source == s], **markdown) for s in ("May", "March", "vLLM", "other")
    ]
    return "\n\n".join(tables) + "\n"


MEANING = {
    "bandwidth": "share of the HBM bandwidth",
    "compute": "share of the matrix throughput, decode passes",
    "prefill_compute": "the same, prefill passes",
    "indexer": "share of the BF16 rate in an indexer",
    "layer_s": "µs per layer",
    "quantise_s": "µs more per layer with FP8 dense layers",
    "index_s": "µs more per layer with an indexer",
    "index_quantise_s": "and more with FP8 dense layers",
    "eager_layer_s": "µs per layer of a prefill pass, at least",
    "expert_s": "ns per expert touched in a layer",
    "narrow_fp4_expert_s": "ns per 4-bit expert of fewer than 512 columns",
    "prefill_token_s": "µs per token of a prefill pass",
    "token_s": "µs per token of a decode pass",
    "request_s": "µs per request of a decode pass",
    "host_s": "ms of a request outside passes",
}
SCALE = {"ns": 1e9, "µs": 1e6, "ms": 1e3}


def factors_table() -> str:
    """The factors of conf/hardware in the units of MEANING."""
    gpus = {h: dataclasses.asdict(_arm(h, "glm5_fp8", 8, "off", 8192, 1024, "simulated").hardware.efficiency) for h in FITTED}
    table = []
    for name, meaning in MEANING.items():
        unit = meaning.partition(" ")[0] if meaning.partition(" ")[0] in SCALE else "µs" if name == "index_quantise_s" else ""
        scaled = [factors[name] * SCALE.get(unit, 1) for factors in gpus.values()]
        values = ["" if not x else f"{x:,.0f}" if x >= 100 else f"{x:.3g}" for x in scaled]
        table.append([f"`{name}`", meaning, *values])
    return str(tabulate(table, headers=["factor", "meaning", *(h.upper() for h in gpus)], tablefmt="github", disable_numparse=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--fit")
    parser.add_argument("--left-out", action="store_true")
    asked = parser.parse_args()
    if asked.fit:
        rows = [row for row in published() if row.hardware == asked.fit]
        print(asked.fit, {name: float(f"{value:.3g}") for name, value in fit(asked.fit, rows).items()})
    elif asked.left_out:
        with ProcessPoolExecutor() as pool, LEFT_OUT.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["source", "arm", "isl", "osl", "concurrency", "published", "figure", "log_error"])
            for found in pool.map(left_out, *zip(*to_leave_out(), strict=True)):
                writer.writerows([*row.place, name, f"{e:.5f}"] for row, each in found for name, e in each.items())
    elif asked.write:
        before, _, rest = DOC.read_text().split(MARK)[0].partition("<!-- factors -->")
        after = rest.partition("<!-- end -->")[2]
        DOC.write_text(f"{before}<!-- factors -->\n\n{factors_table()}\n\n<!-- end -->{after}{MARK}\n\n{report()}")
    else:
        print(report())


if __name__ == "__main__":
    main()
