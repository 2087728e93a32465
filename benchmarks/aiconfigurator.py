"""Compares predictions of glm5bench with those of aiconfigurator (PyPI) on the same published rows.

    python3 -m venv /tmp/aic && /tmp/aic/bin/pip install aiconfigurator==0.12.0
    python benchmarks/aiconfigurator.py /tmp/aic/bin/aiconfigurator      # ten minutes

Each row is one `aiconfigurator cli estimate` at the row's lengths, TP and batch size. Rows that it refuses are counted. The errors of
glm5bench are those of left_out.csv: the row's arm, or its model, was left out of the fit.
"""

from __future__ import annotations

import argparse
import functools
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from roofline_fit import Published, kept, published
from tabulate import tabulate

MODELS = {
    "glm5_fp8": "zai-org/GLM-5-FP8",
    "glm5_nvfp4": "nvidia/GLM-5-NVFP4",
    "minimax_m25_fp8": "MiniMaxAI/MiniMax-M2.5",
    "kimi_k25_int4": "moonshotai/Kimi-K2.5",
}


def estimate(program: str, row: Published) -> dict[str, float] | str:
    """Seconds of TTFT and TPOT, or why it refuses."""
    command = [program, "cli", "estimate", "--no-color", "--model-path", MODELS[row.checkpoint], "--system", f"{row.hardware}_sxm"]
    command += ["--backend", "vllm" if row.engine == "vllm" else "sglang", "--isl", str(row.isl), "--osl", str(row.osl)]
    command += ["--batch-size", str(row.concurrency), "--tp-size", str(row.tp), "--moe-tp-size", str(row.tp), "--moe-ep-size", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = {name.lower(): float(ms) / 1e3 for name, ms in re.findall(r"(TTFT|TPOT):\s+([\d.]+) ms", done.stdout)}
    return found or (done.stderr.strip().splitlines() or done.stdout.strip().splitlines() or ["no answer"])[-1]


def _summary(errors: list[float]) -> str:
    size = np.abs(errors)
    return f"{np.median(size):.0%}, {np.quantile(size, 0.9):.0%}, {size.max():.0%}" if errors else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    program = parser.parse_args().program
    rows = [row for row in published() if row.checkpoint in MODELS and row.source in ("March", "other")]
    with ThreadPoolExecutor(2) as pool:
        theirs = list(pool.map(functools.partial(estimate, program), rows))
    ours, table, refused = kept(), [], {}
    for arm in dict.fromkeys(row.arm for row in rows):
        own = [(row, answer) for row, answer in zip(rows, theirs, strict=True) if row.arm == arm]
        both = [(row, answer) for row, answer in own if isinstance(answer, dict)]
        refused.update((arm, answer) for _, answer in own if isinstance(answer, str))
        line: dict[str, str] = {"rows": arm, "n": f"{len(both)} of {len(own)}"}
        for figure in ("tpot", "ttft"):
            line[f"{figure.upper()} aiconfigurator"] = _summary([a[figure] / dict(row.figures)[figure] - 1 for row, a in both])
            line[f"{figure.upper()} glm5bench"] = _summary([float(np.expm1(ours[row.place][figure])) for row, _ in both])
        table.append(line)
    print(tabulate(table, headers="keys", tablefmt="github"))
    print("Each cell: median, 90th percentile and worst of |predicted / published - 1|.")
    for arm, why in refused.items():
        print(f"refused: {arm}: {why}")


if __name__ == "__main__":
    main()
