"""Measures the errors and the CPU cost of load clients, each against a server that records the true times (benchmarks/truth.py).

python benchmarks/client.py --peers DIR [--before CHECKOUT] [--scenario c256|x25k|c1024|x50k|x100k|all] [--rounds 3]
    [--clients vllm,sglang,...] [--json FILE]

DIR is the folder that benchmarks/client_peers.sh made. The server runs on core 1, a client and all its children on core 0. A round runs
every client once. Two waves of requests are sent at a fixed number of streams. In the first wave all requests start at once; the second
wave is the steady state.

CPU per chunk: the user and system time of the client's process and all its descendants, minus the time of a baseline, divided by the
additional chunks. The baseline is the same command with 2 tokens per request and as many requests and streams; the median of one baseline
per round is used. The time is from getrusage for waited-for children; this process is the subreaper of orphans. Imports, start-up,
prompts, connections and all costs per request are therefore excluded. All costs that grow with chunks or time are included: reading,
parsing, storing, statistics, tokenizing the answers, writing the result, and idle processes that wake up.

Errors:

- TTFT: the client's value for a request, minus (write of the first chunk - kernel's timestamp of the request's arrival).
- Gap: the client's value for a gap between chunks, minus the gap between their writes.
- "Stated" figures: the client's own summary, compared with the same statistic of the truth over the same requests.

A table's figure is the median of the rounds. "Others" is the number of cores kept busy by neither the client nor the server. If it is not
near 0, the run is not meaningful.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import hashlib
import io
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from chunks import as_json

from glm5bench.archive.pointfile import read_point
from glm5bench.client.workload import LAST_ID, Encoder
from glm5bench.values.plain import from_plain
from glm5bench.values.point import Point
from glm5bench.values.workload import Workload

ROOT = Path(__file__).resolve().parent.parent
CLIENT_CORE, SERVER_CORE = 0, 1
TTFT_S, STREAM_S, WAVES, PROMPT_TOKENS = 0.3, 8, 2, 32
BASELINE_TOKENS = 2
LIMIT_S = 300
PR_SET_CHILD_SUBREAPER = 36
VLLM_MAIN = (
    "from vllm.benchmarks.serve import add_cli_args, main; from vllm.utils.argparse_utils import FlexibleArgumentParser as P; "
    "p = P(); add_cli_args(p); main(p.parse_args())"  # what `vllm bench serve` calls, without importing the server
)
FIGURES = ("mean", "p50", "p99")
Stated = dict[str, tuple[float, float, float]]  # "ttft" | "tpot" | "itl" -> mean, median and p99 in ms
Truth = dict[str, np.ndarray]  # the content of GET /truth
Baselines = dict[str, list[tuple[float, int]]]  # client, streams and requests -> CPU seconds and chunks of each baseline


@dataclass(frozen=True)
class Scenario:
    """A number of concurrent streams (`streams`), each with `rate` chunks per second."""

    name: str
    streams: int
    rate: float

    @property
    def tokens(self) -> int:
        return int(self.rate * STREAM_S)

    @property
    def n_requests(self) -> int:
        return self.streams * WAVES


SCENARIOS = {s.name: s for s in (Scenario("c256", 256, 15), Scenario("x25k", 256, 100), Scenario("c1024", 1024, 40))}
LIMITS = {s.name: s for s in (Scenario("x50k", 256, 200), Scenario("x100k", 512, 200))}  # the limits of one core


@dataclass(frozen=True)
class Load:
    """The load of one run."""

    url: str
    streams: int
    n_requests: int
    tokens: int
    folder: Path  # for the client's files
    peers: Path

    @property
    def tokenizer(self) -> str:
        return str(self.peers / "models" / "test" / "tiny")


@dataclass(frozen=True)
class Answer:
    """One request as a client reports it; None for values that it does not report."""

    number: int
    ttft_s: float
    gaps_s: np.ndarray | None
    arrival_ns: np.ndarray | None = None  # of each chunk, CLOCK_MONOTONIC


@dataclass(frozen=True)
class Told:
    """A client's result of a run: its requests, and its own figures in ms: {"ttft": (mean, p50, p99), ...}."""

    answers: list[Answer]
    stated_ms: Stated
    cpu_s: float


@dataclass(frozen=True)
class Peer:
    """A released client: its command line, and a function that reads its result."""

    folder: str
    command: Callable[[Load], list[str]]
    read: Callable[[Load, Truth], tuple[list[Answer], Stated]]
    env: dict[str, str]

    def run(self, load: Load) -> Callable[[Truth], Told]:
        """Runs the client, and returns a function that reads its result, given the truth."""
        program, *arguments = self.command(load)
        log = load.folder / "log"
        cpu_s = _cpu_of([str(load.peers / self.folder / "bin" / program), *arguments], log, {**os.environ, **self.env})
        return lambda truth: Told(*self.read(load, truth), cpu_s)


# -- the clients ------------------------------------------------------------------------------------------------------------------------


def vllm_command(load: Load) -> list[str]:
    return [
        "python", "-c", VLLM_MAIN, "--backend", "openai", "--base-url", load.url, "--model", "truth", "--tokenizer", load.tokenizer,
        "--dataset-name", "random", "--random-input-len", str(PROMPT_TOKENS), "--random-output-len", str(load.tokens),
        "--num-prompts", str(load.n_requests), "--max-concurrency", str(load.streams), "--ignore-eos", "--disable-tqdm",
        "--ready-check-timeout-sec", "0", "--save-result", "--save-detailed",
        "--result-dir", str(load.folder), "--result-filename", "told.json",
    ]  # fmt: skip


def sglang_arguments(load: Load) -> list[str]:
    return [
        "--backend", "sglang-oai", "--base-url", load.url, "--model", "truth", "--tokenizer", load.tokenizer,
        "--dataset-name", "random-ids", "--random-input-len", str(PROMPT_TOKENS), "--random-output-len", str(load.tokens),
        "--random-range-ratio", "1", "--num-prompts", str(load.n_requests), "--max-concurrency", str(load.streams),
        "--warmup-requests", "0", "--disable-tqdm", "--output-details", "--output-file", str(load.folder / "told.json"),
    ]  # fmt: skip


def sglang_command(load: Load) -> list[str]:
    return ["python", "-m", "sglang.benchmark.serving", *sglang_arguments(load)]


def sglang_rust_command(load: Load) -> list[str]:
    return ["python", "-m", "sglang.benchmark.rust_client", *sglang_arguments(load), "--worker-threads", "1"]


def read_serving(load: Load, _truth: Truth) -> tuple[list[Answer], Stated]:
    """Results of vLLM and SGLang: the names are the same."""
    told = json.loads((load.folder / "told.json").read_text())
    texts, ttfts, itls = told["generated_texts"], told["ttfts"], told["itls"]
    answers = [Answer(_number(text), ttft, np.array(gaps)) for text, ttft, gaps in zip(texts, ttfts, itls, strict=True) if text]
    return answers, {k: (told[f"mean_{k}_ms"], told[f"median_{k}_ms"], told[f"p99_{k}_ms"]) for k in ("ttft", "tpot", "itl")}


def guidellm_command(load: Load) -> list[str]:
    return [
        "guidellm", "run", "--backend", f"kind=openai_http,target={load.url},model=truth,request_format=/v1/completions",
        "--profile", f"kind=concurrent,streams={load.streams}", "--constraint", f"kind=max_requests,count={load.n_requests}",
        "--tokenizer", f"kind=hf_auto,model={load.tokenizer}",
        "--data", f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={load.tokens}",
        "--output", f"kind=json,path={load.folder / 'told.json'}", "--disable-console",
    ]  # fmt: skip


def read_guidellm(load: Load, _truth: Truth) -> tuple[list[Answer], Stated]:
    """GuideLLM's inter-token latency is the mean of a request, so TPOT here. It stores no gaps. Its "time per output token" counts TTFT."""
    told = json.loads((load.folder / "told.json").read_text())["benchmarks"][0]
    answers = [Answer(_number(r["output"]), r["time_to_first_token_ms"] / 1e3, None) for r in told["requests"]["successful"]]
    stated = {}
    for ours_, theirs in (("ttft", "time_to_first_token_ms"), ("tpot", "inter_token_latency_ms")):
        figures = told["metrics"][theirs]["successful"]
        stated[ours_] = (figures["mean"], figures["percentiles"]["p50"], figures["percentiles"]["p99"])
    return answers, stated


def aiperf_command(load: Load) -> list[str]:
    return [
        "aiperf", "profile", "-m", "truth", "--tokenizer", load.tokenizer, "--endpoint-type", "completions", "--streaming", "-u", load.url,
        "--concurrency", str(load.streams), "--request-count", str(load.n_requests), "--num-dataset-entries", str(load.n_requests),
        "--isl", str(PROMPT_TOKENS), "--osl", str(load.tokens), "--extra-inputs", "ignore_eos:true", "--use-server-token-count",
        "--export-level", "records", "--artifact-dir", str(load.folder), "--ui", "none", "--random-seed", "1",
    ]  # fmt: skip


def read_aiperf(load: Load, truth: Truth) -> tuple[list[Answer], Stated]:
    """AIPerf's records have no text, so requests are identified by the header x-request-id. Its inter-token latency is TPOT here."""
    numbers = dict(zip(truth["request_id"].tolist(), truth["number"].tolist(), strict=True))
    answers = []
    for line in (load.folder / "profile_export.jsonl").read_text().splitlines():
        record = json.loads(line)
        metrics = record["metrics"]
        gaps = np.array(metrics["inter_chunk_latency"]["value"]) / 1e3
        answers.append(Answer(numbers[record["metadata"]["x_request_id"]], metrics["time_to_first_token"]["value"] / 1e3, gaps))
    told = json.loads((load.folder / "profile_export_aiperf.json").read_text())
    names = {"ttft": "time_to_first_token", "tpot": "inter_token_latency", "itl": "inter_chunk_latency"}
    return answers, {k: (told[name]["avg"], told[name]["p50"], told[name]["p99"]) for k, name in names.items()}


def run_ours(load: Load, processes: int = 1, root: Path = ROOT) -> Callable[[Truth], Told]:
    """Runs `glm5bench load` as a user would. Its CPU time includes sending, parsing, judging, printing and writing the point file.

    `root`: the checkout from which it is run.
    """
    point = load.folder / "point.h5"
    command = [sys.executable, "-m", "glm5bench", "load", load.url, "-c", str(load.streams), "--prompts", str(load.n_requests)]
    command += ["--input-tokens", str(PROMPT_TOKENS), "--output-tokens", str(load.tokens), "--warmups", "0", "--processes", str(processes)]
    cpu_s = _cpu_of([*command, "-o", str(point)], load.folder / "log", {**os.environ, "PYTHONPATH": str(root)})
    return lambda truth: _read_ours(point, truth, cpu_s)


def _read_ours(path: Path, truth: Truth, cpu_s: float) -> Told:
    """The point file has no text, so requests are identified by their prompts, which are generated again."""
    m, _ = read_point(path)
    r, start_ns = m.requests, m.provenance["start_monotonic_ns"]
    assert r is not None
    workload = from_plain(Workload, m.workload)
    known = m.provenance.get("vocabulary", {}).get("n", LAST_ID)
    encoder = Encoder(workload, Point("k", "load", m.point["concurrency"], 0, m.point["seed"], 0), "truth", known)
    number = dict(zip(truth["prompt_sha"].tolist(), truth["number"].tolist(), strict=True))
    shas = [hashlib.sha256(as_json(json.loads(session[0].body)["prompt"])).hexdigest() for session in encoder.drawn()]
    answers = []
    for i, sha in enumerate(shas):
        arrival = r.chunk_ns[r.chunk_offsets[i] : r.chunk_offsets[i + 1]]
        ttft_s = (r.first_token_ns[i] - r.sent_ns[i]) / 1e9
        answers.append(Answer(number[sha], ttft_s, np.diff(arrival) / 1e9, arrival + start_ns))
    f = m.figures()
    assert f is not None
    stated = {k: (1e3 * s.mean, 1e3 * s.median, 1e3 * s.p99) for k, s in (("ttft", f.ttft), ("tpot", f.tpot), ("itl", f.itl))}
    return Told(answers, stated, cpu_s)


OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
STUBS = {"PYTHONPATH": str(ROOT / "tests" / "engine" / "stubs")}
CLIENTS: dict[str, Callable[[Load], Callable[[Truth], Told]]] = {
    "ours": run_ours,
    "ours-2-processes": lambda load: run_ours(load, processes=2),
    "vllm": Peer("vllm", vllm_command, read_serving, {**OFFLINE, "VLLM_LOGGING_LEVEL": "ERROR"}).run,
    "sglang": Peer("sglang", sglang_command, read_serving, {**OFFLINE, **STUBS}).run,
    "sglang-rust": Peer("sglang", sglang_rust_command, read_serving, {**OFFLINE, **STUBS}).run,
    "guidellm": Peer("guidellm", guidellm_command, read_guidellm, {**OFFLINE, "GUIDELLM__MAX_WORKER_PROCESSES": "1"}).run,
    "aiperf": Peer("aiperf", aiperf_command, read_aiperf, {"TOKENIZERS_PARALLELISM": "false"}).run,  # reads no local folder when offline
}


# -- one run ----------------------------------------------------------------------------------------------------------------------------


@contextmanager
def truth_server(rate: float):
    """Runs the server on its core. Yields its process id and its URL."""
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, str(Path(__file__).with_name("truth.py"))]
    command += ["--rate", str(rate), "--ttft-s", str(TTFT_S), "--phase-jitter"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield process.pid, f"http://127.0.0.1:{process.stdout.readline().split()[1]}"
    finally:
        process.terminate()
        process.wait()


def _busy_s() -> float:
    """Seconds that all cores were busy, including the time that the hypervisor took."""
    ticks = [int(v) for v in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def one_run(client: str, *, streams: int, n_requests: int, tokens: int, rate: float, peers: Path) -> tuple[Told, Truth]:
    with truth_server(rate) as (pid, url), tempfile.TemporaryDirectory() as folder:
        NOT_THE_CLIENTS.add(pid)
        began, busy_s = time.monotonic(), _busy_s()
        read = CLIENTS[client](Load(url, streams, n_requests, tokens, Path(folder), peers))
        with urllib.request.urlopen(f"{url}/truth", timeout=60) as answer:
            truth = dict(np.load(io.BytesIO(answer.read())))
        wall_s, busy_s = time.monotonic() - began, _busy_s() - busy_s
        server_s = sum(int(v) for v in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]) / os.sysconf("SC_CLK_TCK")
        told = read(truth)
        truth["others_share"] = np.array((busy_s - told.cpu_s - server_s) / wall_s)
        return told, truth


NOT_THE_CLIENTS: set[int] = set()  # children of this process that are servers


def _cpu_of(command: list[str], log: Path, env: dict[str, str]) -> float:
    """User and system seconds of a command and all its descendants. Raises RuntimeError if it fails or takes longer than LIMIT_S."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=log.parent, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = f"still running after {LIMIT_S} s"
    _reap_orphans()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code != 0:
        raise RuntimeError(f"{Path(command[0]).name} ended with {code}: " + log.read_text(errors="replace")[-600:])
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _reap_orphans() -> None:
    """Waits for processes that the client left, which are now children of this process. Kills them after 5 s."""
    began = time.monotonic()
    while left := {int(pid) for pid in Path("/proc/thread-self/children").read_text().split()} - NOT_THE_CLIENTS:
        for pid in left:
            if time.monotonic() - began > 5:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)


def _number(text: str) -> int:
    return int(text.split(maxsplit=1)[0].removeprefix("r"))


def _figures(ttfts: list[float], tpots: list[float], gaps: list[np.ndarray | None]) -> Stated:
    """Mean, median and p99 in ms from seconds."""
    columns = {"ttft": np.array(ttfts), "tpot": np.array(tpots), "itl": np.concatenate([g for g in gaps if g is not None])}
    return {k: (1e3 * v.mean(), *(1e3 * np.percentile(v, (50, 99)))) for k, v in columns.items()}


# -- results ----------------------------------------------------------------------------------------------------------------------------


def compared(told: Told, truth: Truth) -> dict[str, Any]:
    """The figures of one run. Its CPU time still includes the start-up."""
    row = {number: i for i, number in enumerate(truth["number"].tolist())}
    offsets, chunk_ns = truth["offsets"], truth["chunk_ns"]
    ttft_errors, gap_errors, arrival_errors, ttfts, tpots, gaps = [], [], [], [], [], []
    n_odd = 0
    for answer in told.answers:
        i = row[answer.number]
        written = chunk_ns[offsets[i] : offsets[i + 1]]
        ttfts.append((written[0] - truth["received_ns"][i]) / 1e9)
        tpots.append((written[-1] - written[0]) / (len(written) - 1) / 1e9)
        gaps.append(np.diff(written) / 1e9)
        ttft_errors.append(answer.ttft_s - ttfts[-1])
        if answer.gaps_s is not None and len(answer.gaps_s) == len(gaps[-1]):
            gap_errors.append(np.abs(answer.gaps_s - gaps[-1]))
            if answer.arrival_ns is not None:
                arrival_errors.append((answer.arrival_ns - written) / 1e3)
        elif answer.gaps_s is not None:
            n_odd += 1
    actual = _figures(ttfts, tpots, gaps)
    late = 1e3 * np.array([e for a, e in zip(told.answers, ttft_errors, strict=True) if a.number >= len(row) // WAVES])
    span_s = (chunk_ns.max() - chunk_ns.min()) / 1e9
    return {
        "n_answers": len(told.answers),
        "n_other_gaps": n_odd,
        "cpu_s": told.cpu_s,
        "n_chunks": len(chunk_ns),
        "chunks_per_s": len(chunk_ns) / span_s,
        "held_back": int(truth["held_back"]),
        "unstamped": int(truth["unstamped"]),
        "others_share": float(truth["others_share"]),
        "ttft_error_ms": [float(v) for v in 1e3 * np.percentile(ttft_errors, (50, 99))],
        "ttft_error_second_wave_ms": [float(v) for v in np.percentile(late, (50, 99))] if len(late) else None,
        "itl_error_p99_ms": float(1e3 * np.percentile(np.concatenate(gap_errors), 99)) if gap_errors else None,
        "arrival_error_us": [float(v) for v in np.percentile(np.concatenate(arrival_errors), (50, 99))] if arrival_errors else None,
        "stated_error_percent": {
            k: [100 * (stated / true - 1) for stated, true in zip(told.stated_ms[k], actual[k], strict=True)] for k in told.stated_ms
        },
    }


def table(scenario: Scenario, rounds: dict[str, list[dict[str, Any]]], failed: dict[str, str]) -> str:
    """A Markdown table. Each figure is the median of the rounds."""
    head = ["client", "CPU us/chunk", "TTFT error p50 / p99 ms", "second wave", "ITL error p99 ms"]
    head += ["arrival error p50 / p99 us"]
    head += [f"stated {k} {', '.join(FIGURES)} %" for k in ("TTFT", "TPOT", "ITL")] + [
        "streamed at",
        "held back",
        "answers",
        "others' load, cores",
    ]
    asked = f"{scenario.streams} streams x {scenario.rate:g} chunks/s, {scenario.n_requests} requests of {scenario.tokens} tokens"
    lines = [f"\n### {scenario.name}: {asked}\n"]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for client, runs in rounds.items():
        if not runs:
            lines.append(f"| {client} | {failed.get(client, 'not run')} |" + " |" * (len(head) - 2))
            continue
        cells = [client, f"{_median(runs, 'cpu_us_per_chunk'):.1f}", _pair(runs, "ttft_error_ms"), _pair(runs, "ttft_error_second_wave_ms")]
        cells.append("keeps no gaps" if runs[0]["itl_error_p99_ms"] is None else f"{_median(runs, 'itl_error_p99_ms'):.3g}")
        cells.append("-" if runs[0]["arrival_error_us"] is None else _pair(runs, "arrival_error_us"))
        for key in ("ttft", "tpot", "itl"):
            stated = [r["stated_error_percent"].get(key) for r in runs]
            cells.append("-" if stated[0] is None else ", ".join(f"{statistics.median(v):+.2g}" for v in zip(*stated, strict=True)))
        cells += [f"{_median(runs, 'chunks_per_s') / 1e3:.1f}k/s", f"{_median(runs, 'held_back'):.0f}", f"{_median(runs, 'n_answers'):.0f}"]
        cells.append(f"{_median(runs, 'others_share'):.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _median(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def _pair(runs: list[dict[str, Any]], key: str) -> str:
    return " / ".join(f"{statistics.median(values):.3g}" for values in zip(*(run[key] for run in runs), strict=True))


def measure(scenario: Scenario, clients: list[str], n_rounds: int, peers: Path, baselines: Baselines) -> dict[str, Any]:
    rounds: dict[str, list[dict[str, Any]]] = {client: [] for client in clients}
    failed: dict[str, str] = {}
    shape = {"streams": scenario.streams, "n_requests": scenario.n_requests, "peers": peers}
    for _ in range(n_rounds):
        for client in clients:
            if client in failed:
                continue
            key = f"{client} {scenario.streams} {scenario.n_requests}"
            began = time.monotonic()
            try:
                if len(baselines.setdefault(key, [])) < n_rounds:
                    told, truth = one_run(client, tokens=BASELINE_TOKENS, rate=100, **shape)
                    baselines[key].append((told.cpu_s, len(truth["chunk_ns"])))
                told, truth = one_run(client, tokens=scenario.tokens, rate=scenario.rate, **shape)
                rounds[client].append(compared(told, truth))
                said = f"{told.cpu_s:.1f} s of CPU, {baselines[key][-1][0]:.1f} s for the baseline"
            except (NotImplementedError, RuntimeError, OSError, KeyError, ValueError) as error:
                said = failed[client] = f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"
            print(f"{scenario.name} {client}: {said}; took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    for client, runs in rounds.items():
        for run in runs:
            start = [statistics.median(v) for v in zip(*baselines[f"{client} {scenario.streams} {scenario.n_requests}"], strict=True)]
            run["cpu_us_per_chunk"] = 1e6 * (run["cpu_s"] - start[0]) / (run["n_chunks"] - start[1])
    return {"rounds": rounds, "failed": failed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="the folder of client_peers.sh; without it only glm5bench's client runs")
    parser.add_argument("--scenario", choices=[*SCENARIOS, *LIMITS, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", help="some of: " + ",".join(CLIENTS))
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit, which alternates with this one as `before`")
    parser.add_argument("--json", type=Path)
    o = parser.parse_args()
    if o.before:
        CLIENTS["before"] = functools.partial(run_ours, root=o.before.resolve())
    peers = (o.peers or Path(".")).resolve()
    clients = (
        o.clients.split(",")
        if o.clients
        else [
            "ours",
            *(["before"] if o.before else []),
            *(c for c in CLIENTS if o.peers and "ours" not in c and (peers / c.split("-")[0]).is_dir()),
        ]
    )
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    os.sched_setaffinity(0, {CLIENT_CORE})
    baselines: Baselines = {}
    results = {}
    for name in SCENARIOS if o.scenario == "all" else [o.scenario]:
        scenario = (SCENARIOS | LIMITS)[name]
        results[name] = measure(scenario, clients, o.rounds, peers, baselines)
        print(table(scenario, **results[name]), flush=True)
        if o.json:
            o.json.write_text(json.dumps({"baselines": baselines, "scenarios": results}, indent=1))


if __name__ == "__main__":
    main()
