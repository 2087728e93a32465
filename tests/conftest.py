"""Shared by several test modules: settings that are composed once each, and raw times that are small enough to check by hand."""

import functools
import hashlib
import json
import os
import sys
from pathlib import Path

import h5py
import hypothesis
import numpy as np
import pytest
import xxhash

from glm5bench import plan as planning
from glm5bench.analysis.metrics import Requests
from glm5bench.analysis.reasons import judged
from glm5bench.analysis.telemetry import Telemetry, Track
from glm5bench.archive.measurement import Measurement
from glm5bench.archive.sealed import BLOCK, MAGIC
from glm5bench.settings import overrides
from glm5bench.values.settings import together

sys.path[:0] = [str(Path(__file__).resolve().parent / name) for name in ("slurm", "apptainer", "browser")]
pytest_plugins = ("login", "contained", "chromium")  # a real Slurm with a login node; real images; a real browser

hypothesis.settings.register_profile("here", deadline=None)  # the time of an example depends on the machine
hypothesis.settings.load_profile("here")
compose = functools.cache(overrides.compose)  # each composition takes 0.1 s


def plan(composed, max_s=None):
    """The plan of these arms."""
    return planning.plan(together(composed), max_s)


def raw(sent, first, last, *, prompt, out, asked=None, error=None, chunks=None):
    """Requests from seconds; `chunks`: for each request a list of (arrival in seconds, tokens)."""

    def ns(seconds):
        return np.array([-1 if s is None else round(s * 1e9) for s in seconds], dtype=np.int64)

    def n(counts):
        return np.array(counts, dtype=np.int64)

    chunks = chunks if chunks is not None else [[] for _ in sent]
    flat = [chunk for of_one in chunks for chunk in of_one]
    return Requests(
        due_ns=ns(sent),
        sent_ns=ns(sent),
        first_byte_ns=ns(first),
        first_token_ns=ns(first),
        last_token_ns=ns(last),
        end_ns=ns(last),
        prompt_tokens=n(prompt),
        output_tokens=n(out),
        asked_tokens=n(out if asked is None else asked),
        status=n([200] * len(sent)),
        error=tuple(error or [""] * len(sent)),
        chunk_ns=ns([at for at, _ in flat]),
        chunk_tokens=n([tokens for _, tokens in flat]),
        chunk_offsets=np.concatenate([[0], np.cumsum([len(c) for c in chunks])]).astype(np.int64),
    )


def three_requests(**changes):
    """Concurrency 2 over six seconds: TTFT 1, 2, 1 s; E2EL 3, 5, 3 s; TPOT 0.5, 1.0, 0.2 s; 60 prompt and 20 output tokens."""
    asked = {
        "prompt": [10, 20, 30],
        "out": [5, 4, 11],
        "chunks": [[(1, 1), (2, 2), (3, 2)], [(2, 1), (5, 3)], [(4, 1), (6, 10)]],
    }
    return raw([0, 0, 3], [1, 2, 4], [3, 5, 6], **{**asked, **changes})


def besides_waves(v):
    """The verdict without `few_waves`, because examples that are checked by hand have few requests."""
    return judged(reason for reason in v.reasons if reason.code != "few_waves")


def waves(**changes):
    """Two users and six requests in three waves. Steady from 3 to 5 s: two thirds of the third and of the fourth request."""
    asked = {"prompt": [10, 20, 30, 60, 50, 40], "out": [3, 4, 6, 3, 5, 2]}
    return raw([0, 0, 2, 3, 5, 6], [1, 1, 3, 4, 6, 7], [2, 3, 5, 6, 8, 9], **{**asked, **changes})


POINT = {
    "hardware": "b200",
    "model": "GLM-5",
    "engine": "sglang",
    "checkpoint": "zai-org/GLM-5-FP8",
    "precision": "fp8",
    "speculative": "mtp",
    "isl_tokens": 8192,
    "osl_tokens": 1024,
    "range_ratio": 0.8,
    "endpoint": "completions",
    "tp": 8,
    "gpus": 8,
    "gpus_per_node": 8,
    "concurrency": 2,
    "repeat": 0,
    "seed": 0,
    "server_scope": "arm",
    "binding": 4,
}


def change_column(file, table, column, values):
    """Replaces the values in a column of a raw table."""
    rows = file[table][()]
    rows[column] = values
    file[table][...] = rows


def reseal(path):
    """Gives a changed file a matching seal, as if another person had written it on purpose."""
    body = path.read_bytes()[BLOCK:]
    path.write_bytes((MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n").ljust(BLOCK, b"\0") + body)


def reseal_quickly(path, change):
    """A point file whose /summary (JSON) was changed on purpose, with a seal that gives its position, so that HDF5 is not used."""
    with h5py.File(path, "r") as file:
        told = json.loads(file["summary"][()].tobytes())
        place, size = file["summary"].id.get_offset(), file["summary"].size
    change(told)
    text = json.dumps(told).encode()
    body = bytearray(path.read_bytes()[BLOCK:])
    if len(text) > size:  # after the end, where HDF5 does not look
        place, size = BLOCK + len(body), len(text)
        body += text
    body[place - BLOCK : place - BLOCK + size] = text.ljust(size)
    line = f"{hashlib.sha256(body).hexdigest()} {place} {size} {xxhash.xxh3_128_hexdigest(body)}\n"
    path.write_bytes((MAGIC + line.encode()).ljust(BLOCK, b"\0") + body)
    return path


def measured(key="a" * 20, *, requests=None, server=None, provenance=None, log="", telemetry=None, **point):
    """A measurement of `three_requests` on eight B200."""
    made = requests or three_requests()
    return Measurement(key, "measured", {**POINT, **point}, provenance or {"host": "gpu001"}, made, server or {}, log, telemetry=telemetry)


def power_of(watts, *, devices=("GPU-a",), start=-1, stop=12, **server):
    """Telemetry of GPUs that draw `watts`, read once a second from `start` to `stop` s, and of a server with constant values."""
    at = [t * 10**9 for t in range(start, stop + 1)]
    gpus = [(Track(d, "power", "W"), at, [watts] * len(at)) for d in devices]
    return Telemetry.of([*gpus, *((Track("server", name, ""), at, [value] * len(at)) for name, value in server.items())])


@pytest.fixture(scope="session")
def engines():
    """The directory of tests/engine/install.sh, for the tests that run real engines by hand."""
    named = os.environ.get("GLM5BENCH_ENGINES")
    if not named:
        pytest.skip("GLM5BENCH_ENGINES names no directory of tests/engine/install.sh")
    return Path(named)
