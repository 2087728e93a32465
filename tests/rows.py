"""Rows of a curve, shared by the tests of comparisons."""

import dataclasses
import math

from glm5bench.analysis.cost import Economy
from glm5bench.analysis.rows import Row, Series

SERIES = Series("measured", "h200", "sglang", "zai-org/GLM-5-FP8", "fp8", "mtp", 8192, 1024)
FAST = dataclasses.replace(SERIES, hardware="b200")
ECONOMY = Economy({"h200": 1.8, "b200": 3.6}, {"h200": 1.0, "b200": 2.0})
CURVE = ((20.0, 1000.0, 64), (40.0, 700.0, 16), (60.0, 400.0, 4))


def row(interactivity, throughput, concurrency=4, repeat=0, *, series=SERIES, validity="valid", **more):
    told = Row(
        series, f"{concurrency:019d}{repeat}", f"{repeat}", 8, 8, 8, concurrency, repeat, 0, "arm", 4, throughput, math.nan, math.nan,
        interactivity, 1 / interactivity, 0.5, math.nan, 10, validity, (), "o",
    )  # fmt: skip
    return dataclasses.replace(told, **{"server_start": f"start {repeat}"} | more)
