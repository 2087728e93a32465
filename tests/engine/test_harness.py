"""The accuracy gate through EleutherAI's harness itself, against servers that answer right, half right and not. Run by hand:

pip install -e '.[accuracy]'; pytest -m engine tests/engine/test_harness.py

With GLM5BENCH_ENGINES (tests/engine/install.sh) also on SGLang's own server, with a small language model that knows nothing and with
one that has learned the answers by heart.
"""

import dataclasses
import json
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from program import bench
from test_engine import HERE, asked, points

from glm5bench.archive.pointfile import read_point
from glm5bench.node import accuracy
from glm5bench.values.groups import Accuracy

pytestmark = [pytest.mark.engine, pytest.mark.skipif(accuracy.harness() is None, reason="pip install 'glm5bench[accuracy]'")]
DATA = Path(__file__).parent.parent / "data" / "accuracy"
ANSWERS = {d["question"]: d["answer"] for d in map(json.loads, (DATA / "test.jsonl").read_text().splitlines())}
ASKED = Accuracy("gsm8k", "gsm8k", str(DATA), 5, {"other": 0.9}, {"temperature": 0, "max_gen_toks": 256}, 1200, 30)


def question_of(messages):
    """The question that a chat ends with, behind the answered ones."""
    return messages[-1]["content"].rsplit("Question: ", 1)[1].split("\nAnswer:")[0]


@pytest.fixture
def oracle():
    """A server that knows the answers. `mode`: right, half, plain (without ####), silent, broken; `seen`: what it was asked."""
    told = SimpleNamespace(mode="right", seen=[])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_): ...

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.seen.append((dict(self.headers), body))
            question = question_of(body["messages"])
            right = ANSWERS[question]
            is_odd = list(ANSWERS).index(question) % 2
            text = {"right": right, "half": right if is_odd else "no idea", "plain": f"It is {right.split()[-1]}.", "silent": None}.get(
                told.mode
            )
            answer = json.dumps(
                {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}]}
            ).encode()
            self.send_response(500 if told.mode == "broken" else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        told.url = f"http://127.0.0.1:{http.server_port}"
        yield told
        http.shutdown()


def gate(oracle, tmp_path, asked=ASKED):
    arm = SimpleNamespace(checkpoint=SimpleNamespace(model="GLM-5"))
    knows_nothing = {"get_json": lambda path: None, "info": dict, "options": {}}
    server = SimpleNamespace(
        **knows_nothing,
        base_url=oracle.url, api_key="sekret", arm=arm, place=SimpleNamespace(folder=tmp_path), alive_or_raise=lambda: None,
        answers_or_raise=lambda: None, redacted=lambda text: text.replace("sekret", "<redacted>"),
    )  # fmt: skip
    return accuracy.gate(server, "zai-org/GLM-5-FP8", asked, [2, 8], lambda doing: None)


@pytest.mark.parametrize(
    ("mode", "strict", "flexible", "n_empty"), [("right", 1, 1, 0), ("half", 0.5, 0.5, 0), ("plain", 0, 1, 0), ("silent", 0, 0, 8)]
)
def test_the_harness_scores_what_the_server_says(oracle, tmp_path, mode, strict, flexible, n_empty):
    oracle.mode = mode
    told = gate(oracle, tmp_path)

    assert told.get("error") is None
    assert [(r["concurrency"], r["strict"], r["flexible"], r["n_questions"], r["n_empty"]) for r in told["runs"]] == [
        (c, strict, flexible, 8, n_empty) for c in (2, 8)
    ]
    headers, body = oracle.seen[0]
    assert (headers["Authorization"], body["temperature"], body["max_tokens"]) == ("Bearer sekret", 0, 256)
    assert sum(m["role"] == "assistant" for m in body["messages"]) == 5 or body["messages"][-1]["content"].count("Question: ") == 6
    assert "sekret" not in "".join(
        f.read_text() for f in tmp_path.rglob("*") if f.is_file() and f.suffix in (".json", ".jsonl", ".log", ".yaml")
    )


def test_a_server_that_fails_gives_no_score(oracle, tmp_path):
    oracle.mode = "broken"
    told = gate(oracle, tmp_path, dataclasses.replace(ASKED, timeout_s=5))

    assert told["runs"] == []
    assert told["error"].startswith("lm-evaluation-harness ended with exit code 1")


def test_a_campaign_with_the_gate_marks_its_points(tmp_path):
    asked = [
        "engine=simulated",
        "engine.time_scale=20",
        "hardware=b200",
        "concurrency=2,4",
        "workload.isl_tokens=512",
        "workload.osl_tokens=64",
    ]
    done = bench(tmp_path, "sweep", *asked, "accuracy=gsm8k", f"accuracy.data={DATA}", "wait=true", "name=c", timeout=300)
    points = [read_point(f)[0] for f in tmp_path.glob("outputs/c/points/*.h5")]

    assert done.returncode == 0, done.stderr
    assert len(points) == 2
    for m in points:
        assert [r["concurrency"] for r in m.server["accuracy"]["runs"]] == [2, 4]
        assert "accuracy_failed" in m.verdict().codes
    assert "at TP 8 failed its accuracy gate: 0.000 of the answers are right" in done.stdout


def taught(engines, oracle, tmp_path):
    """A directory with a checkpoint that has learned by heart what the harness asks and what is right."""
    (tmp_path / "lessons").mkdir()
    gate(oracle, tmp_path / "lessons")
    prompts = {json.dumps(body["messages"]): body["messages"] for _, body in oracle.seen}
    lessons = [{"messages": m, "answer": ANSWERS[question_of(m)]} for m in prompts.values()]
    (tmp_path / "lessons.json").write_text(json.dumps(lessons))
    named = (f"{engines}/models/test/tiny", tmp_path / "lessons.json", tmp_path / "models/test/tiny")
    subprocess.run([f"{engines}/sglang/bin/python", str(HERE / "teach_model.py"), *map(str, named)], check=True, timeout=900)
    return tmp_path / "models"


@pytest.mark.parametrize(("who", "score"), [("random", 0), ("taught", 1)])
def test_on_a_real_server_a_model_fails_the_gate_and_one_that_has_learned_passes_it(engines, oracle, tmp_path, who, score):
    folder = taught(engines, oracle, tmp_path) if who == "taught" else engines / "models"
    wanted = ("concurrency=2,4", "accuracy=gsm8k", f"accuracy.data={DATA}", "accuracy.generation.max_gen_toks=32", "wait=true")
    overrides, env = asked(engines, *wanted, f"cluster.checkpoint_dir={folder}")

    done = bench(tmp_path, *overrides, timeout=600, **env)

    assert done.returncode == 0, done.stderr
    assert len(points(tmp_path)) == 2
    for m in points(tmp_path):
        runs = [(r["concurrency"], r["strict"], r["n_questions"]) for r in m.server["accuracy"]["runs"]]
        assert runs == [(2, score, 8), (4, score, 8)]
        assert m.verdict().codes == ("power_gpu_missing", *(["accuracy_failed"] if who == "random" else []))
