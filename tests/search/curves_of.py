"""A small step-model-like curve for tests: throughput that rises and interactivity that falls with concurrency, up to a knee."""

import math

import numpy as np

from glm5bench.search.curves import Seen
from glm5bench.search.decision import ArmState
from glm5bench.search.prior import candidates
from glm5bench.values.search import Prior, Question

TOKENS = 9000.0  # of one request with its prompt
REQUESTS = 12  # per user


def interactivity(c, pass_s=0.008, growth_s=0.0004):
    return 1 / (pass_s + growth_s * c)


def prior(scale=1.0, knee=64.0, high=256, latency=None):
    c = np.array(candidates(1, high), dtype=float)
    x = interactivity(c)
    tput = scale * c * x
    share = 0.008 * x
    slopes = np.array([-share, -(1 - share), np.full(len(c), -0.1)])
    return Prior(
        tuple(int(v) for v in c),
        tuple(np.log(tput).tolist()),
        tuple(np.log(x).tolist()),
        tuple(tuple(row) for row in slopes.tolist()),
        tuple(tuple(row) for row in slopes.tolist()),
        tuple((REQUESTS * c * TOKENS / 8).tolist()),
        knee,
        900.0,
        latency or {},
    )


def true_point(c, start, p=None, factor=1.0, knee=64.0, effect=0.0):
    """A point on the predicted curve times `factor`, on a start with this effect."""
    p = p or prior()
    at = math.log(min(c, knee))
    known = np.log(p.concurrency)
    tput, x = (math.exp(float(np.interp(at, known, figure)) + effect) for figure in (p.log_tput, p.log_x))
    return Seen(c, factor * tput, x, start)


def question(**changed):
    asked = {"low": 30.0, "high": 90.0, "tolerance": 0.08, "confidence": 0.95, "spread": 0.01, "most_points": 12}
    return Question(**{**asked, **changed})


def arm(name="a", seen=(), **changed):
    values = {"id": name, "series": name, "prior": prior(), "planned": (3, 10, 25, 60), "largest": 91, "seen": tuple(seen)}
    return ArmState(**{**values, **changed})
