"""Points of agent sessions, small enough to check by hand."""

import dataclasses

import numpy as np
from conftest import measured, raw

from glm5bench.analysis.metrics import Plays


def plays_of(cached, ideal, prompt, *, sent, late=0.0, session=None, device=None, warm=()):
    """The table of these requests, then of a warm-up."""
    n, all_cached, all_ideal = len(cached), [*cached, *(w[0] for w in warm)], [*ideal, *(w[1] for w in warm)]
    k = n + len(warm)
    at = np.array([round(s * 1e9) for s in [*sent, *([-1.0] * len(warm))]])
    ones = np.ones(k, dtype=np.int64)
    return Plays(
        phase=np.array([1] * n + [0] * len(warm)),
        play=np.arange(k),
        session=np.array([*(session or [0] * n), *([0] * len(warm))]),
        request=np.arange(k),
        thread=0 * ones,
        ready_ns=at,
        due_ns=at - round(late * 1e9),
        sent_ns=at,
        prompt_tokens=np.array([*prompt, *([100] * len(warm))]),
        cached_tokens=np.array(all_cached),
        device_tokens=np.array(device or [-1] * k),
        host_tokens=-ones,
        storage_tokens=-ones,
        ideal_tokens=np.array(all_ideal),
    )


def point(cached=(0, 90, 180), ideal=(0, 96, 192), *, prompt=(100, 200, 300), window_s=10.0, server=None, telemetry=None, **more):
    """Three requests of E2EL 2, 4 and 10 s with 100 output tokens each; the last ends 2 s after the window of 10 s."""
    sent, last = [0, 1, 2], [2, 5, 12]
    r = raw(
        sent, [1, 2, 4], last, prompt=list(prompt), out=[100] * 3, chunks=[[(a, 1), (b, 99)] for a, b in zip([1, 2, 4], last, strict=True)]
    )
    r = dataclasses.replace(r, plays=plays_of(cached, ideal, prompt, sent=sent, **more))
    return measured(
        requests=r,
        server=server,
        telemetry=telemetry,
        variant="content=sessions",
        arm={"workload": {"content": "sessions", "duration_s": window_s}},
        provenance={
            "host": "gpu001",
            "sessions": {"lengths": [4, 2]},
            **({"telemetry": {"devices": [{"uuid": "GPU-a"}]}} if telemetry else {}),
        },
    )
