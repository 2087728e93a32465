"""Measures what telemetry costs the load client, at 25,000 chunks per second.

    python benchmarks/telemetry.py --rounds 5        # four minutes

The same load (`glm5bench load`, 256 streams, the truth server on the other core) runs alternately without and with an observer. Once per
second the observer reads eight GPUs through a fake NVML library and scrapes 600 lines of metrics. The output contains the observer's CPU
time, relative to the client's and to one core, and the change of the median ITL. The observer and the client share a core, as on a node
with few cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import client

from glm5bench.analysis.telemetry import OBSERVER
from glm5bench.client.endpoint import Endpoint
from glm5bench.node.telemetry.watching import Wanted, observing

GPU = {
    "name": "NVIDIA H200", "power_mw": 650_000, "energy_mj": 10**9, "sm_mhz": 1980, "memory_mhz": 3201, "temperature_c": 60,
    "utilisation_percent": 100, "memory_used_b": 130 * 2**30, "event_reasons": 0, "ecc_uncorrected": 0,
}  # fmt: skip
LABELS = 'engine_type="unified",model_name="zai-org/GLM-5-FP8",tp_rank="0"'
METRICS = "\n".join(
    [f"sglang:num_running_reqs{{{LABELS}}} 256.0", f"sglang:num_queue_reqs{{{LABELS}}} 3.0", f"sglang:token_usage{{{LABELS}}} 0.71"]
    + [f"sglang:gen_throughput{{{LABELS}}} 25000.0", "sglang:prompt_tokens_total 1.0e6", "sglang:generation_tokens_total 2.0e6"]
    + [f'sglang:time_to_first_token_seconds_bucket{{{LABELS},le="{i}"}} {i}.0' for i in range(600)]
)


class Page(BaseHTTPRequestHandler):
    """An HTTP server with the state of eight GPUs and a server's metrics."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        gpus = json.dumps([{**GPU, "uuid": f"GPU-{i}"} for i in range(8)])
        body = (METRICS if self.path == "/metrics" else gpus).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def observed(folder: Path) -> Iterator[None]:
    """Runs an observer during the block. Its use of CPU is added to `USED`."""
    command = ["taskset", "-c", str(client.SERVER_CORE), sys.executable, __file__, "--page"]
    page = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert page.stdout
        url = f"http://127.0.0.1:{page.stdout.readline().strip()}"
        before = set(client.NOT_THE_CLIENTS)
        client.NOT_THE_CLIENTS.add(page.pid)
        with observing(Endpoint(url, ""), folder, Wanted("simulated", 8, 0, 1.0)) as observer:
            client.NOT_THE_CLIENTS.add(observer.pid)
            began = time.monotonic_ns()
            yield
            t = observer.told(began, time.monotonic_ns())
            assert t is not None
            cpu = t.curves("cpu")[OBSERVER].value
            USED.append((float(cpu[-1] - cpu[0]), (time.monotonic_ns() - began) / 1e9, len(cpu)))
        client.NOT_THE_CLIENTS.intersection_update(before)
    finally:
        page.terminate()
        page.wait()


USED: list[tuple[float, float, int]] = []  # CPU s, wall s and readings of each observer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--page", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.page:
        with ThreadingHTTPServer(("127.0.0.1", 0), Page) as http:
            print(http.server_port, flush=True)
            http.serve_forever()
    os.sched_setaffinity(0, {client.CLIENT_CORE})
    s = client.SCENARIOS["x25k"]
    how = {"streams": s.streams, "n_requests": s.n_requests, "tokens": s.tokens, "rate": s.rate, "peers": Path()}
    found: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
    for round_ in range(asked.rounds):
        for is_observed in (round_ % 2 == 1, round_ % 2 == 0):
            with tempfile.TemporaryDirectory() as folder, observed(Path(folder)) if is_observed else contextlib.nullcontext():
                told, _ = client.one_run("ours", **how)
            found[is_observed].append((told.cpu_s, told.stated_ms["itl"][1], told.stated_ms["itl"][2]))
            print(
                f"{'with' if is_observed else 'without':8} CPU {told.cpu_s:.2f} s, ITL median {told.stated_ms['itl'][1]:.4f} ms", flush=True
            )
    without, with_ = ([statistics.median(column) for column in zip(*found[k], strict=True)] for k in (False, True))
    cpu, wall, n = (statistics.median(column) for column in zip(*USED, strict=True))
    print(
        f"observer: {n:.0f} readings, {1e3 * cpu / n:.2f} ms each, {cpu / wall:.2%} of a core, {cpu / without[0]:.2%} of the client's CPU"
    )
    print(f"client: CPU {without[0]:.2f} s without, {with_[0]:.2f} s with ({with_[0] / without[0] - 1:+.2%})")
    print(f"ITL: median {1e3 * (with_[1] - without[1]):+.1f} us, p99 {1e3 * (with_[2] - without[2]):+.1f} us with it")


if __name__ == "__main__":
    main()
