"""Measures the speed of making archives, compared with `cat`, `cp` and simple scripts, and the size of archives.

    python benchmarks/archives.py make DIR --points 10000     # point files of 320 requests x 1,024 chunks.
    python benchmarks/archives.py merge DIR                   # merge 10,000, 1,000 and 100 of them, compared with cat.
    python benchmarks/archives.py add DIR                     # add 20 points to that archive, compared with cp.
    python benchmarks/archives.py peers DIR --points 100      # a loop of h5py copy; pandas concat and to_hdf (pip install tables).
    python benchmarks/archives.py tables DIR                  # `tables` of archives of 10,000 and 100,000 points.
    python benchmarks/archives.py encodings                   # bytes per chunk by encoding and filter; JSON as vLLM writes it.

Each figure is the median of five rounds (peers: three). The two commands that are compared alternate. Output is synced and removed between
runs. Peak memory covers the process and its readers. DIR needs about 20 GB; all files are on the same disk.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from glm5bench.analysis.metrics import Requests
from glm5bench.analysis.telemetry import Telemetry, Track
from glm5bench.archive.layout import encoded
from glm5bench.archive.measurement import Measurement
from glm5bench.archive.pointfile import write_point
from glm5bench.archive.raw import TABLES
from glm5bench.archive.sink import put
from glm5bench.archive.survey import survey
from glm5bench.archive.writer import writing
from glm5bench.exchange.vllm_json import vllm_result

USERS, REQUESTS, CHUNKS = 64, 320, 1024
STEP_NS, STEP_NOISE_NS, SPREAD_NS, SPREAD_NOISE_NS = 20e6, 4e5, 12e3, 3e3  # a decode step, and the time between the chunks of a batch
POINT = {
    "hardware": "b200", "model": "GLM-5", "engine": "sglang", "engine_version": "0.5.12", "checkpoint": "zai-org/GLM-5-FP8",
    "precision": "fp8", "speculative": "off", "isl_tokens": 8192, "osl_tokens": 1024, "range_ratio": 1.0, "endpoint": "completions",
    "tp": 8, "gpus": 8, "gpus_per_node": 8, "concurrency": USERS, "repeat": 0, "seed": 0, "server_scope": "arm", "binding": 64,
}  # fmt: skip
LOG = "".join(f"[2026-11-21 03:{i // 60:02d}:{i % 60:02d} TP0] Decode batch. #running-req: 64, #token: {i * 4096}\n" for i in range(400))


def requests(seed: int, n: int = REQUESTS, n_chunks: int = CHUNKS) -> Requests:
    """Five waves of 64 users who decode together."""
    rng = np.random.default_rng(seed)
    arrivals, begun = [], 0
    for _ in range(n // USERS):
        steps = begun + np.cumsum(rng.normal(STEP_NS, STEP_NOISE_NS, n_chunks))
        place = np.arange(USERS)[:, None] * SPREAD_NS + rng.normal(0, SPREAD_NOISE_NS, (USERS, n_chunks))
        arrivals.append(steps[None, :] + place)
        begun = int(steps[-1] + 3e8)
    at = np.concatenate(arrivals).astype(np.int64)
    sent = np.repeat(np.arange(n // USERS), USERS) * int(n_chunks * STEP_NS) + rng.integers(0, 10**6, n)
    sent = np.minimum(sent, at[:, 0] - 10**6)
    counts = np.full(n, n_chunks)
    return Requests(
        due_ns=np.full(n, -1), sent_ns=sent, first_byte_ns=at[:, 0] - 5000, first_token_ns=at[:, 0], last_token_ns=at[:, -1],
        end_ns=at[:, -1] + 20000, prompt_tokens=np.full(n, 8192), output_tokens=counts, asked_tokens=counts, status=np.full(n, 200),
        error=("",) * n, chunk_ns=at.ravel(), chunk_tokens=np.ones(at.size, np.int64), chunk_offsets=np.arange(n + 1) * n_chunks,
        asked_prompt_tokens=np.full(n, 8192),
    )  # fmt: skip


def telemetry(seed: int, seconds: int) -> Telemetry:
    """Eight GPUs and a server, read once a second."""
    rng = np.random.default_rng(seed)
    at = [round((s + 0.01 * rng.random()) * 1e9) for s in range(-1, seconds + 2)]
    levels = {"power": 650, "sm_clock": 1900, "memory_clock": 3201, "temperature": 60, "utilisation": 1, "memory_used": 130}
    curves = [
        (Track(f"GPU-{i}", name, ""), at, (level + rng.normal(0, level / 100, len(at))).round(3))
        for i in range(8)
        for name, level in levels.items()
    ]
    curves += [(Track(f"GPU-{i}", "energy", "J"), at, 1e6 + 650.0 * np.arange(len(at))) for i in range(8)]
    curves += [(Track("server", "running", ""), at, np.full(len(at), float(USERS)))]
    curves += [(Track("server", name, ""), at, rng.random(len(at))) for name in ("kv_usage", "generation_tput")]
    return Telemetry.of(curves)


def measurement(i: int) -> Measurement:
    arms = [f"{hardware} tp{tp}" for hardware in ("b200", "h200", "mi355x") for tp in (4, 8)]
    hardware, tp = arms[i % len(arms)].split(" tp")
    point = {**POINT, "hardware": hardware, "tp": int(tp), "repeat": i}
    r = requests(i)
    devices = [{"uuid": f"GPU-{gpu}", "name": "NVIDIA B200", "driver": "580.65.06"} for gpu in range(8)]
    provenance = {"host": f"gpu{i % 40:03d}", "job_id": str(i), "telemetry": {"devices": devices, "period_s": 1.0, "why_none": ""}}
    beside = telemetry(i, round(r.end_ns.max() / 1e9))
    return Measurement(f"{i:020x}", "measured", point, provenance, r, {"max_running": USERS}, LOG, telemetry=beside)


def _written(task: tuple[str, int]) -> None:
    path = Path(task[0]) / "points" / f"{task[1]:06d}.h5"
    if not path.exists():
        write_point(path, measurement(task[1]))


def make(folder: Path, n: int) -> None:
    with multiprocessing.get_context("spawn").Pool() as pool:
        for i, _ in enumerate(pool.imap_unordered(_written, ((str(folder), i) for i in range(n)), chunksize=20), 1):
            if i % 1000 == 0:
                print(f"{i} of {n}", flush=True)


def timed(command: list[str] | str, made: Path) -> tuple[float, float]:
    """Seconds until the output is on the disk, and the peak memory in MiB."""
    made.unlink(missing_ok=True)
    os.sync()
    before = time.perf_counter()
    process = subprocess.Popen(command, shell=isinstance(command, str), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if made.exists():
        descriptor = os.open(made, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    seconds = time.perf_counter() - before
    if status:
        raise SystemExit(f"{command} failed")
    return seconds, used.ru_maxrss / 1024


def beside(name: str, ours: list[str], theirs: str, made: Path, other: Path, rounds: int = 5) -> None:
    us, them, peaks = [], [], []
    for _ in range(rounds):
        made.unlink(missing_ok=True)  # the page cache is too small for both files
        seconds, _ = timed(theirs, other)
        them.append(seconds)
        other.unlink()
        seconds, peak = timed(ours, made)
        us.append(seconds)
        peaks.append(peak)
    size = made.stat().st_size
    u, t = statistics.median(us), statistics.median(them)
    print(f"| {name} | {size / 1e9:.2f} GB | {u:.2f} s | {t:.2f} s | {t / u:.2f} | {max(peaks):.0f} MiB |", flush=True)


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "glm5bench", *arguments]


def merge(folder: Path) -> None:
    files = sorted((folder / "points").glob("*.h5"))
    print("| point files | archive | merge --jobs 2 | cat | speed against cat | peak memory |\n|---|---|---|---|---|---|")
    for n in (100, 1000, 10000):
        if n <= len(files):
            part = folder / f"part{n}"
            part.mkdir(exist_ok=True)
            for file in files[:n]:
                (part / file.name).exists() or os.link(file, part / file.name)
            made, other = folder / f"all{n}.h5", folder / "cat.bin"
            cat = f"find {part} -name '*.h5' -print0 | sort -z | xargs -0 cat > {other}"
            beside(f"{n:,}", program("merge", str(part), "-o", str(made), "--jobs", "2"), cat, made, other)


def add(folder: Path) -> None:
    archive, more = folder / "all10000.h5", folder / "more"
    for i in range(20):
        if not (more / f"{i}.h5").exists():
            write_point(more / f"{i}.h5", measurement(100_000 + i))
    made, other = folder / "added.h5", folder / "cp.h5"
    print("| 20 points added to an archive of 10,000 | archive | merge --jobs 2 | cp | speed against cp | peak memory |")
    print("|---|---|---|---|---|---|")
    beside("", program("merge", str(archive), str(more), "-o", str(made), "--jobs", "2"), f"cp {archive} {other}", made, other)
    made.unlink()


def h5py_copy(sources: list[str], output: str) -> None:
    with h5py.File(output, "w") as out:
        for source in sources:
            with h5py.File(source) as file:
                group = out.create_group(Path(source).stem)
                for name in file:
                    file.copy(name, group)


def pandas_concat(sources: list[str], output: str) -> None:
    import pandas as pd

    frames = []
    for source in sources:
        with h5py.File(source) as file:
            chunks = file["chunks"][()]
        frames.append(pd.DataFrame(chunks).assign(point=Path(source).stem))
    pd.concat(frames).to_hdf(output, key="chunks", format="table", complevel=4)


PEERS: dict[str, Callable[[list[str], str], None]] = {"h5py copy": h5py_copy, "pandas concat, to_hdf": pandas_concat}


def peers(folder: Path, n: int, only: str = "") -> None:
    files = [str(f) for f in sorted((folder / "points").glob("*.h5"))[:n]]
    part = folder / f"part{n}"
    part.mkdir(exist_ok=True)
    for file in files:
        (part / Path(file).name).exists() or os.link(file, part / Path(file).name)
    made = folder / "peer.h5"
    print(f"| {n} point files with | time | peak memory | size |\n|---|---|---|---|")
    commands = {"merge --jobs 2": program("merge", str(part), "-o", str(made), "--jobs", "2")}
    commands |= {
        name: [sys.executable, __file__, "peer", str(folder), "--peer", name, "--points", str(n)] for name in PEERS if only in name
    }
    for name, command in commands.items():
        runs = [timed(command, made) for _ in range(3)]
        print(f"| {name} | {statistics.median(s for s, _ in runs):.2f} s | {max(p for _, p in runs):.0f} MiB | "
              f"{made.stat().st_size / 1e6:.0f} MB |", flush=True)  # fmt: skip
        made.unlink()


def tables(folder: Path) -> None:
    print("| `tables` of | archive | time | peak memory |\n|---|---|---|---|")
    small = folder / "small.h5"
    for n in (10_000, 100_000):
        archive = folder / f"small{n}.h5"
        if not archive.exists():
            _small_archive(small, archive, n)
        for form in ("md", "json"):
            runs = [timed(program("tables", str(archive), "--format", form), folder / "none") for _ in range(3)]
            print(f"| {n:,} points, {form} | {archive.stat().st_size / 1e6:.0f} MB | {statistics.median(s for s, _ in runs):.2f} s | "
                  f"{max(p for _, p in runs):.0f} MiB |", flush=True)  # fmt: skip


def _small_archive(small: Path, archive: Path, n: int) -> None:
    """Writes an archive of one stored point with many summaries. `tables` does not read the raw times."""
    m = dataclasses.replace(measurement(0), requests=requests(0, USERS, 16), log="")
    small.unlink(missing_ok=True)
    write_point(small, m)
    found = survey(small, scratch=small.parent)
    assert found.stored is not None
    rng = np.random.default_rng(1)
    content = small.read_bytes()
    with writing(archive) as writer, archive_in_the_making(archive).open("r+b") as file:
        for i in range(n):
            users = 2 ** int(rng.integers(2, 10))
            tpot, tput = 0.008 * users**0.3 * rng.normal(1, 0.02), 120 * users**0.6 * rng.normal(1, 0.02)
            values = found.values(0) | {
                "key": f"{i:020x}", "digest": f"{i:064x}", "hardware": ("b200", "h200", "mi355x")[i % 3], "tp": (4, 8)[i // 3 % 2],
                "precision": ("fp8", "nvfp4")[i // 6 % 2], "speculative": ("off", "mtp")[i // 12 % 2], "repeat": i // 24 % 5,
                "variant": f"site {i // 12000}", "concurrency": users, "tpot_median_s": tpot, "interactivity_tok_s_user": 1 / tpot,
                "total_tput_per_gpu_tok_s": tput, "total_tput_per_gpu_se_tok_s": tput / 200, "interactivity_se_tok_s_user": 1 / tpot / 200,
            }  # fmt: skip
            for begin, at, size in writer.add(found.stored, 0, values, is_whole=True)[1]:
                put(file.fileno(), content[begin : begin + size], at)


def archive_in_the_making(archive: Path) -> Path:
    (made,) = archive.parent.glob(f".{archive.name}.*.part")
    return made


def encodings() -> None:
    import hdf5plugin  # pip install hdf5plugin

    m = measurement(7)
    assert m.requests is not None
    r, n = m.requests, len(m.requests.chunk_ns)
    by_arrival = encoded(m)["chunks"]
    gaps = np.diff(r.chunk_ns, prepend=0)
    ways = {
        "arrival, request by request, int64": {"arrival_ns": r.chunk_ns},
        "gap, request by request, int64": {"gap_ns": gaps},
        "gap, request and tokens, by arrival, a dataset each": {name: by_arrival[name] for name in ("gap_ns", "request", "tokens")},
        "the same as one table (chosen)": {"chunks": by_arrival},
    }
    filters = {
        "gzip 1": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
        "gzip 4 (chosen)": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
        "gzip 9": {"compression": "gzip", "compression_opts": 9, "shuffle": True},
        "zstd 3": {**hdf5plugin.Zstd(3), "shuffle": True},
        "zstd 9": {**hdf5plugin.Zstd(9), "shuffle": True},
        "bitshuffle + zstd": dict(hdf5plugin.Bitshuffle(cname="zstd")),
        "scaleoffset + gzip 4": {"scaleoffset": 0, "compression": "gzip", "compression_opts": 4},
    }
    print("| bytes a chunk (writes, reads in million chunks a second) | " + " | ".join(filters) + " |")
    print("|" + "---|" * (len(filters) + 1))
    for name, columns in ways.items():
        print(f"| {name} | " + " | ".join(_packed(columns, how, n) for how in filters.values()) + " |")
    for rows in (4096, 16384, 65536, 262144):
        how = {**filters["gzip 4 (chosen)"], "chunks": (rows,)}
        print(f"| the chosen one, {rows:,} rows a chunk of HDF5 | {_packed(ways[list(ways)[-1]], how, n)} |")
    text = json.dumps(vllm_result(m, detailed=True))
    print(f"\nvllm bench serve --save-detailed: {len(text) / n:.2f} bytes a chunk, {len(text) / 1e6:.1f} MB")
    path = Path("/tmp/archives_size.h5")
    path.unlink(missing_ok=True)
    write_point(path, m)
    size = path.stat().st_size
    print(f"a point file of {n:,} chunks: {size / n:.2f} bytes a chunk with everything in it, {size / 1e6:.2f} MB ({len(TABLES)} tables)")
    path.unlink()


def _packed(columns: dict[str, np.ndarray], how: dict[str, object], n: int) -> str:
    if "scaleoffset" in how and any(values.dtype.names for values in columns.values()):
        return "not for tables"
    how = {"chunks": (65536,), **how}
    writes, reads, size = [], [], 0
    for _ in range(5):
        with h5py.File("x", "w", driver="core", backing_store=False) as file:
            begun = time.perf_counter()
            for name, values in columns.items():
                file.create_dataset(name, data=values, maxshape=(None,), **how)
            file.flush()
            writes.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            for name in columns:
                file[name][()]
            reads.append(time.perf_counter() - begun)
            size = sum(file[name].id.get_storage_size() for name in columns)
    return f"{size / n:.2f} ({n / min(writes) / 1e6:.0f}, {n / min(reads) / 1e6:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "merge", "add", "peers", "peer", "tables", "encodings"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--peer", default="")
    asked = parser.parse_args()
    if asked.folder:
        (asked.folder / "points").mkdir(parents=True, exist_ok=True)
    if asked.what == "peer":
        files = [str(f) for f in sorted((asked.folder / "points").glob("*.h5"))[: asked.points]]
        return PEERS[asked.peer](files, str(asked.folder / "peer.h5"))
    if asked.what == "peers":
        return peers(asked.folder, asked.points, asked.peer)
    if asked.what == "make":
        return make(asked.folder, asked.points)
    if asked.what == "encodings":
        return encodings()
    return {"merge": merge, "add": add, "tables": tables}[asked.what](asked.folder)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    main()
