"""The accuracy gate: runs EleutherAI's lm-evaluation-harness, offline, against the server that is measured next.

Enters: a ready server, the directory of questions, concurrencies. Leaves: scores with their confidence intervals, and the threshold.
The harness is a separate program. If it is missing or fails, the points record the error and are measured anyway. A server that dies
fails with a ServerError. Source of the definition: the harness's own task; only the path of its questions is changed.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..client.counters import counted
from ..values.groups import Accuracy
from .server import Server

EXTRA = "lm_eval"
FILES = ("train.jsonl", "test.jsonl")
POLL_S, LOOK_S = 0.5, 5.0
PROMPT_TOKENS = 2048  # five examples of GSM8K, a question and a chat template, with room to spare
LEAST_ANSWER_TOKENS = 256
Z = 1.959964
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
FILTERS = {"strict": "strict-match", "flexible": "flexible-extract"}


@dataclass(frozen=True)
class Score:
    """The score of one run of the questions: shares with 95 % intervals (Wilson). `n_empty`: answers without text, which count as wrong."""

    concurrency: int
    n_questions: int
    n_empty: int
    strict: float
    strict_low: float
    strict_high: float
    flexible: float
    flexible_low: float
    flexible_high: float


def gate(server: Server, model: str, asked: Accuracy, concurrencies: Sequence[int], doing: Callable[[str], None]) -> dict[str, Any]:
    """The accuracy record that is stored with every point of this server start: task, threshold, scores, and `error` if a run failed.

    Raises ServerError if the server dies, Stopped if the job must stop.
    """
    threshold = asked.thresholds.get(server.arm.checkpoint.model, asked.thresholds.get("other", 0.0))
    told: dict[str, Any] = {"task": asked.task, "n_shots": asked.n_shots, "threshold": threshold, "runs": []}
    if asked.thinking != "default":
        told["thinking"] = asked.thinking
    folder = server.place.folder / "accuracy"
    try:
        asked = within(asked, context_tokens(server))
        name = task_named(folder, asked)
        for concurrency in concurrencies:
            doing(f"{asked.task} at concurrency {concurrency}")
            told["runs"].append(asdict(_run(server, model, asked, name, folder, concurrency)))
    except (OSError, ValueError, KeyError) as error:
        told["error"] = " ".join(str(error).split())
    return told


def context_tokens(server: Server) -> int | None:
    """The server's limit on prompt plus answer tokens; None if it does not report one."""
    cards = (server.get_json("/v1/models") or {}).get("data") or [{}]
    told = server.info().get("max_req_input_len") or cards[0].get("max_model_len")
    return told if isinstance(told, int) else None


def within(asked: Accuracy, context: int | None) -> Accuracy:
    """The same settings, with answers shortened to fit the server's context. Raises OSError if the questions leave too little room."""
    room = None if context is None else context - PROMPT_TOKENS
    if room is None or room >= asked.generation.get("max_gen_toks", 0):
        return asked
    if room < LEAST_ANSWER_TOKENS:
        raise OSError(f"the server's context of {context:,} tokens has no room for {asked.n_shots} examples, a question and an answer")
    return replace(asked, generation={**asked.generation, "max_gen_toks": room})


def harness() -> Path | None:
    """The directory of the installed harness; None if it is not installed."""
    found = importlib.util.find_spec(EXTRA)
    return Path(found.origin).parent if found is not None and found.origin else None


def task_named(folder: Path, asked: Accuracy) -> str:
    """Writes a task that reads the questions from the directory, and returns its name. Raises OSError if anything is missing."""
    package = harness()
    if package is None:
        raise OSError("lm-evaluation-harness is not installed: pip install 'glm5bench[accuracy]'")
    directory = Path(asked.data or "")
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        raise OSError(f"{directory} does not contain {' and '.join(missing)}")
    definition = package / "tasks" / asked.task / f"{asked.task}.yaml"
    if not definition.is_file():
        raise OSError(f"lm-evaluation-harness has no task {asked.task} at {definition}")
    folder.mkdir(parents=True, exist_ok=True)
    own = {
        "include": str(definition),
        "task": f"{asked.task}_local",
        "tag": None,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {Path(name).stem: str((directory / name).absolute()) for name in FILES}},
    }
    (folder / "task.yaml").write_text(json.dumps(own), encoding="utf-8")  # JSON is YAML
    return str(own["task"])


def command(server: Server, model: str, asked: Accuracy, name: str, folder: Path, concurrency: int) -> list[str]:
    """The harness's command line, without the server's key, which is passed in the environment."""
    told = {
        "model": model,
        "base_url": f"{server.base_url}/v1/chat/completions",
        "num_concurrent": concurrency,
        "max_retries": 3,
        "timeout": round(asked.timeout_s),
        "tokenizer_backend": "None",
        "tokenized_requests": "False",
    }
    return [
        sys.executable, "-m", "lm_eval", "run", "--model", "local-chat-completions",
        "--model_args", ",".join(f"{key}={value}" for key, value in told.items()),
        "--tasks", name, "--include_path", str(folder), "--num_fewshot", str(asked.n_shots), "--apply_chat_template",
        "--gen_kwargs", json.dumps({**asked.generation, **asked.template}),
        "--output_path", str(folder / f"c{concurrency}"), "--log_samples",
    ]  # fmt: skip


def _run(server: Server, model: str, asked: Accuracy, name: str, folder: Path, concurrency: int) -> Score:
    """The score of one run. Raises OSError with the last line of the harness's log if it fails."""
    log = folder / f"c{concurrency}.log"
    env = {**os.environ, **OFFLINE, "HF_HOME": str(folder / "hf"), "OPENAI_API_KEY": server.api_key}
    with log.open("wb") as file:
        process = subprocess.Popen(
            command(server, model, asked, name, folder, concurrency),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=env,
        )
    progress = _Progress(server)
    try:
        while process.poll() is None:
            server.alive_or_raise()
            progress.look()
            time.sleep(POLL_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode:
        server.answers_or_raise()
        last = next((line for line in reversed(log.read_text("utf-8", "replace").splitlines()) if line.strip()), "no output")
        raise OSError(f"lm-evaluation-harness ended with exit code {process.returncode}: {server.redacted(last.strip())[:300]} ({log})")
    results, samples = (max((folder / f"c{concurrency}").rglob(name), default=None) for name in ("results_*.json", "samples_*.jsonl"))
    if results is None or samples is None:
        raise OSError(f"lm-evaluation-harness wrote no results ({log})")
    return score(json.loads(results.read_text(encoding="utf-8")), name, concurrency, empty_answers(samples))


class _Progress:
    """Checks that the server still generates tokens, according to its own counters if it has them."""

    def __init__(self, server: Server) -> None:
        self._server, self._tokens = server, -1
        self._since = self._looked = time.monotonic()

    def look(self) -> None:
        """Raises ServerError if the server generated no token for the engine's stall timeout."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        told = counted(self._server)
        if told is None or told.generation_tokens != self._tokens:
            self._since, self._tokens = now, told.generation_tokens if told is not None else -1
        elif now - self._since > self._server.arm.engine.stall_timeout_s:
            raise self._server.error(f"generated no token for {now - self._since:.0f} s during the accuracy check", "server_hung")


def empty_answers(samples: Path) -> int:
    """The number of questions answered without text, for example because the model ran out of tokens. The harness scores them as wrong."""
    empty = set()
    with samples.open(encoding="utf-8") as file:
        for line in file:
            told = json.loads(line)
            if not any(text for each in told.get("resps", []) for text in each):
                empty.add(told.get("doc_id"))
    return len(empty)


def score(results: Mapping[str, Any], name: str, concurrency: int, n_empty: int = 0) -> Score:
    """The score from the harness's own results. Raises KeyError if a score is missing."""
    of, n = results["results"][name], int(results["n-samples"][name]["effective"])
    shares = {ours: float(of[f"exact_match,{theirs}"]) for ours, theirs in FILTERS.items()}
    between = {ours: interval(share, n) for ours, share in shares.items()}
    return Score(concurrency, n, n_empty, shares["strict"], *between["strict"], shares["flexible"], *between["flexible"])


def interval(share: float, n: int) -> tuple[float, float]:
    """The 95 % confidence interval (low, high) of a share of n answers; NaN if n is 0. Source: E. B. Wilson, 1927."""
    if n < 1:
        return math.nan, math.nan
    middle, half = share + Z * Z / (2 * n), Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return (middle - half) / (1 + Z * Z / n), (middle + half) / (1 + Z * Z / n)
