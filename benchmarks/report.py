"""Measures how long a report takes to make, and to be ready in a browser: `python benchmarks/report.py` (needs tests/browser/install.sh).

The runs are twelve arms at nine concurrencies, five times each, over as many workloads as needed. A page is ready when it has drawn
everything and has set `data-ready`.
"""

from __future__ import annotations

import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS / "browser"), str(TESTS)]

from archives import measurement, requests  # noqa: E402  needs the path above
from chromium import CHROMIUM, DRIVER, OPTIONS  # noqa: E402
from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.options import Options  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402

from glm5bench.archive.measurement import TIMES  # noqa: E402
from glm5bench.archive.pointfile import write_point  # noqa: E402
from glm5bench.archive.union import merge  # noqa: E402

REPEATS, ROUNDS = 5, 3
HARDWARE = ("b200", "h200", "mi355x")


def archive(folder: Path, n: int) -> Path:
    """An archive of n small runs: twelve arms at nine concurrencies, five times each, over as many workloads as needed."""
    points, rng = folder / str(n), np.random.default_rng(1)
    points.mkdir()
    whole, plain = measurement(0), requests(0, 64, 8)
    for i in range(n):
        arm, users, site = i // REPEATS % 12, 2 ** (i // REPEATS // 12 % 9), i // (REPEATS * 12 * 9)
        slow = 0.4 * users**0.3 * (1 + arm / 20) * rng.normal(1, 0.02)
        scaled = {name: (getattr(plain, name) * slow).astype(np.int64) for name in TIMES if name != "due_ns"}
        run = dataclasses.replace(plain, **scaled, chunk_ns=(plain.chunk_ns * slow).astype(np.int64))
        arm_of = {"hardware": HARDWARE[arm % 3], "precision": ("fp8", "nvfp4")[arm // 3 % 2], "speculative": ("off", "mtp")[arm // 6]}
        point = {**whole.point, **arm_of, "repeat": i % REPEATS, "isl_tokens": 1024 * (1 + site), "concurrency": users}
        write_point(points / f"{i}.h5", dataclasses.replace(whole, key=f"{i:020x}", point=point, requests=run, log=""))
    merge([str(points)], folder / f"{n}.h5")
    return folder / f"{n}.h5"


def ready_s(page: Path) -> float:
    """Seconds from opening the file in a new browser until the page is ready."""
    options = Options()
    options.binary_location = str(CHROMIUM)
    for option in OPTIONS:
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        before = time.perf_counter()
        driver.get(page.as_uri())
        while not driver.execute_script("return document.documentElement.dataset.ready"):
            time.sleep(0.02)
        return time.perf_counter() - before
    finally:
        driver.quit()


def main() -> None:
    print("| points | made in | page | ready in |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for n in (1000, 10_000):
            made, page = archive(Path(name), n), Path(name) / "r.html"
            took, ready = [], []
            for _ in range(ROUNDS):
                before = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-m", "glm5bench", "report", str(made), "-o", str(page)], check=True, stdout=subprocess.DEVNULL
                )
                took.append(time.perf_counter() - before)
                ready.append(ready_s(page))
            size = page.stat().st_size / 1e6
            print(f"| {n:,} | {statistics.median(took):.1f} s | {size:.1f} MB | {statistics.median(ready):.2f} s |", flush=True)


if __name__ == "__main__":
    main()
