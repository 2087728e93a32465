"""`glm5bench load` as a user types it, against a running server that records what it sent and when."""

import contextlib
import io
import json
import re
import signal
import socket
import subprocess
import sys

import httpx
import numpy as np
import pytest
from program import ROOT, bench, environment, until
from scripted import MODELS, End, Scripted

from glm5bench.archive.pointfile import read_point
from glm5bench.archive.summary import row_of
from glm5bench.node.server import free_port


def truth_server(*options):
    return subprocess.Popen([sys.executable, str(ROOT / "benchmarks" / "truth.py"), *options], cwd=ROOT, stdout=subprocess.PIPE, text=True)


@contextlib.contextmanager
def ended(process):
    """Kills the process at the end of the block, so that a failing test does not wait for it."""
    try:
        yield process
    finally:
        process.kill()


def measured(line):
    """The number of answers in a progress line of the measurement; 0 for another line."""
    found = re.match(r"measuring: (\d+) of", line)
    return int(found[1]) if found else 0


@pytest.fixture(scope="module")
def url():
    with truth_server("--rate", "1000", "--ttft-s", "0.05", "--phase-jitter") as server:
        yield f"http://127.0.0.1:{server.stdout.readline().split()[1]}"
        server.terminate()


SMALL = ("-c", "4", "--prompts", "12", "--warmups", "1", "--input-tokens", "64", "--output-tokens", "40")


def loaded(tmp_path, url, *options):
    """A measurement in p.h5, once more if this machine was too busy to keep four requests in flight."""
    for _ in range(3):
        done = bench(tmp_path, "load", url, *SMALL, "-o", "p.h5", *options)
        if "p.h5: simulated, invalid." not in done.stderr:
            break
        (tmp_path / "p.h5").unlink()
        httpx.post(url + "/truth/reset")
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def once(tmp_path_factory, url):
    """One run for all tests that read its results: the directory, and the output."""
    folder = tmp_path_factory.mktemp("once")
    options = ("--save-json", "r.json", "--save-detailed", "--goodput", "ttft<=10s", "--about", "hardware=h200 gpus=8 precision=fp8")
    return folder, loaded(folder, url, *options)


def truth(url):
    return np.load(io.BytesIO(httpx.get(url + "/truth").content))


@pytest.mark.parametrize(("endpoint", "processes"), [("completions", "1"), ("chat", "2")])
def test_what_the_client_says_is_what_the_server_did(tmp_path, url, endpoint, processes):
    httpx.post(url + "/truth/reset")
    loaded(tmp_path, url, "--warmups", "0", "--endpoint", endpoint, "--processes", processes)
    m, _ = read_point(tmp_path / "p.h5")
    r, held = m.requests, truth(url)
    asked = held["tokens"] == 40  # without the two one-token requests that count the words of a chat
    n = np.diff(held["offsets"])[asked]
    written = np.concatenate([held["chunk_ns"][a:b] for a, b in zip(held["offsets"], held["offsets"][1:], strict=False) if b - a == 40])

    assert (r.output_tokens.tolist(), r.prompt_tokens.tolist()) == ([40] * 12, [64] * 12)
    assert n.tolist() == np.diff(r.chunk_offsets).tolist() == [40] * 12
    late = np.sort(r.chunk_ns + m.provenance["start_monotonic_ns"]) - np.sort(written)
    assert (late > 0).all()
    assert np.median(late) < 50e6
    sent = np.sort(r.sent_ns + m.provenance["start_monotonic_ns"])
    assert (np.sort(held["received_ns"][asked]) >= sent).all()


def test_the_block_has_vllm_s_names_and_says_that_it_was_simulated(once):
    lines = once[1].stdout.splitlines()

    assert lines[0] == "============ Serving Benchmark Result ============"
    assert "simulated" in lines[1]
    names = [line.partition(":")[0] for line in lines if ":" in line]
    assert names[:4] == ["Successful requests", "Failed requests", "Maximum request concurrency", "Benchmark duration (s)"]
    assert {"Mean TTFT (ms)", "Median TPOT (ms)", "P99 ITL (ms)", "P99 E2EL (ms)", "Interactivity (tok/s/user)"} <= set(names)


def test_the_json_has_vllm_s_names_and_the_figures_of_the_point(once):
    told, (m, _) = json.loads((once[0] / "r.json").read_text()), read_point(once[0] / "p.h5")
    f = m.figures()

    assert (told["completed"], told["failed"], told["total_output_tokens"], told["label"]) == (12, 0, 480, "simulated")
    assert told["mean_ttft_ms"] == pytest.approx(f.ttft.mean * 1e3)
    assert told["median_tpot_ms"] == pytest.approx(f.tpot.median * 1e3)
    assert told["request_goodput"] == pytest.approx(told["request_throughput"])
    assert [len(gaps) for gaps in told["itls"]] == [39] * 12
    assert np.mean(told["ttfts"]) * 1e3 == pytest.approx(told["mean_ttft_ms"])


def test_the_point_is_one_like_any_other(once):
    (row,) = json.loads(bench(once[0], "tables", "p.h5", "--format", "json").stdout)["points"]

    assert (row["source"], row["hardware"], row["gpus"], row["variant"]) == ("simulated", "h200", 8, "load")
    assert "few_waves" in row["reasons"]
    assert row["total_tput_per_gpu_tok_s"] > 0
    assert row["cost_usd_per_mtok"] > 0
    assert bench(once[0], "check", "p.h5").returncode == 0


def test_without_a_number_of_gpus_there_is_no_figure_per_gpu_and_json_is_one_object(tmp_path, url):
    told = json.loads(loaded(tmp_path, url, "--json").stdout)
    m, digest = read_point(tmp_path / "p.h5")
    row = row_of(m, digest, "p.h5")

    assert (told["validity"], told["source"], told["file"], told["completed"]) == ("flagged", "simulated", "p.h5", 12)
    assert (row.gpus, row.series.hardware) == (0, "unstated")
    assert np.isnan(row.total_tput_per_gpu_tok_s)


def test_a_measurement_is_never_overwritten(once, url):
    again = bench(once[0], "load", url, *SMALL, "-o", "p.h5")

    assert again.returncode == 2
    assert "p.h5 exists already" in again.stderr


def test_an_open_loop_of_conversations_is_measured(tmp_path, url):
    talk = {"conversations": [{"from": "human", "value": "why"}, {"from": "gpt", "value": "because of all this"}]}
    (tmp_path / "talks.jsonl").write_text(json.dumps(talk) + "\n")
    options = ("--content", "conversations", "--file", "talks.jsonl", "--endpoint", "chat", "--arrivals", "constant", "--rate", "50")
    loaded(tmp_path, url, *options)
    m, _ = read_point(tmp_path / "p.h5")

    assert m.requests.output_tokens.tolist() == [5] * 12
    assert np.diff(m.requests.due_ns).tolist() == [20_000_000] * 11
    assert m.provenance["client"]["late_sends"] <= 12


@pytest.mark.parametrize("processes", ["1", "2"])
def test_ctrl_c_keeps_what_was_answered_and_marks_the_point_incomplete(tmp_path, url, processes):
    command = [sys.executable, "-m", "glm5bench", "load", url, "-c", "4", "--prompts", "600", "--warmups", "0", "--output-tokens", "40"]
    process = subprocess.Popen(
        [*command, "-o", "p.h5", "--processes", processes], cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True
    )
    with ended(process):
        until(lambda: measured(process.stderr.readline()) > 8, "some answers", 60)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    m, _ = read_point(tmp_path / "p.h5")

    assert process.returncode == 130
    assert m.verdict().validity == "invalid"
    assert m.verdict().codes[0] == "incomplete"
    assert 8 < m.requests.is_whole.sum() < 600
    assert {e.partition(":")[0] for e in m.requests.error} <= {"", "stopped"}


def test_a_server_that_dies_ends_the_run_and_what_was_measured_is_kept(tmp_path):
    with truth_server("--rate", "1000", "--ttft-s", "0.05") as server:
        url = f"http://127.0.0.1:{server.stdout.readline().split()[1]}"
        command = [sys.executable, "-m", "glm5bench", "load", url, "-c", "4", "--prompts", "600", "--output-tokens", "40", "-o", "p.h5"]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True)
        with ended(server), ended(process):
            until(lambda: measured(process.stderr.readline()) >= 60, "the first tenth", 60)
            server.kill()
            said = process.communicate(timeout=60)[1]
    m, _ = read_point(tmp_path / "p.h5")

    assert process.returncode == 1
    assert "ServerError: The server is gone" in said
    assert m.requests.is_whole.sum() >= 40
    assert "incomplete" in m.verdict().codes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rate", "3"], "--rate has no effect with --arrivals=closed"),
        (["--about", "gpu=8"], "--about gpu=8: tables have no such fact"),
        (["--about", "gpus=many"], "--about gpus=many: this is not a number of GPUs"),
        (["--endpoint", "embeddings"], "--endpoint='embeddings': it must be 'completions', 'chat' or 'generate'"),
        (["--content", "trace", "--file", "none.jsonl"], "--file cannot be read"),
        (["--goodput", "ttft"], "'ttft' is not a limit like"),
    ],
)
def test_what_cannot_be_sent_is_refused_in_a_sentence(tmp_path, url, options, said):
    done = bench(tmp_path, "load", url, *options)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_not_there_is_said_so(tmp_path):
    done = bench(tmp_path, "load", f"http://127.0.0.1:{free_port()}")

    assert done.returncode == 1
    assert "Cannot reach the server: connection refused at 127.0.0.1:" in done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "http://h:abc", "http://u:secret@127.0.0.1:8000", "ftp://h"])
def test_what_is_no_address_is_refused(tmp_path, address):
    done = bench(tmp_path, "load", address)

    assert done.returncode == 2
    assert "UsageError" in done.stderr
    assert "secret" not in done.stderr


def test_a_directory_that_cannot_be_written_is_known_before_anything_is_sent(tmp_path, url):
    (tmp_path / "file").write_text("")
    done = bench(tmp_path, "load", url, "-o", "file/p.h5")

    assert done.returncode == 3
    assert "file" in done.stderr
    assert "requests" not in done.stderr


def test_a_client_that_has_read_nothing_says_so_and_keeps_the_point(tmp_path):
    with Scripted(lambda request: [End.RESET], models=[MODELS, End.RESET]) as server:
        done = bench(tmp_path, "load", server.url, *SMALL, "--warmups", "0", "-o", "p.h5")
    m, _ = read_point(tmp_path / "p.h5")

    assert done.returncode == 1
    assert {e.partition(":")[0] for e in m.requests.error} == {"reset"}
    assert bench(tmp_path, "check", "p.h5").returncode == 1


def test_progress_says_which_part_of_the_run_it_shows(tmp_path, url):
    done = bench(tmp_path, "load", url, "-c", "2", "--prompts", "12", "--warmups", "2", "--output-tokens", "40", "-o", "p.h5")

    assert done.stderr.index("warm-up: started") < done.stderr.index("measuring: started") < done.stderr.rindex("measuring: ")


def test_load_waits_for_a_server_that_is_still_starting(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ("--wait", "120", "-c", "2", "--prompts", "4", "--warmups", "0", "--output-tokens", "10", "-o", "p.h5")
    command = [sys.executable, "-m", "glm5bench", "load", f"http://127.0.0.1:{port}", *options]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True)
    with ended(process):
        said = process.stderr.readline()
        with truth_server("--rate", "1000", "--ttft-s", "0.05", "--port", str(port)) as server, ended(server):
            process.communicate(timeout=120)

    assert "Waiting up to 120 s for the server." in said
    assert f"connection refused at 127.0.0.1:{port}" in said
    assert process.returncode == 0


def test_a_server_that_does_not_come_is_a_refused_connection(tmp_path):
    done = bench(tmp_path, "load", "http://127.0.0.1:9", "--wait", "0.2", "-o", "p.h5")

    assert done.returncode == 1
    assert "ServerError: Cannot reach the server: connection refused at 127.0.0.1:9." in done.stderr
