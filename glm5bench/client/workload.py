"""The requests of a point as they are sent: prompts of drawn or recorded lengths, encoded before the clock starts.

Enters: a workload, a point, the server's name for its model. Leaves: conversations, each a sequence of encoded requests. Endpoints that
accept token ids get token ids, so prompt lengths are exact with any tokenizer. Chat gets text, whose length is adjusted to the server's
own count. No prompt repeats, and the same point has the same prompts everywhere. The history of a further turn is also drawn, not taken
from the server's answers, so all requests are known before the clock starts.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ClientError
from ..values.point import Point
from ..values.workload import Workload, lengths
from .recorded import TRACE_BLOCK_TOKENS, Exchanged, Traced

FIRST_ID, LAST_ID = 1000, 100_000  # past the special tokens
SMALLEST = 64  # smallest vocabulary: with fewer ids prompts would repeat


def ids(vocabulary: int) -> tuple[int, int]:
    """The first id that is sent, and the one after the last. A small vocabulary has fewer special tokens at its beginning."""
    last = min(LAST_ID, vocabulary)
    return min(FIRST_ID, last // 8), last


WORDS = ("the", "of", "and", "to", "in", "is", "for", "that", "on", "with", "as", "are", "this", "by", "be", "at", "from", "or", "an", "it")
PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions", "generate": "/generate"}
MEASURED, WARM, SHARED, PAUSES, DUE = range(5)  # separate streams of random numbers
DRAWS = 100  # attempts to draw a new prompt


@dataclass(frozen=True)
class Prompt:
    """One request: its encoded body and the lengths asked for. `pause_s`: pause between the previous answer and this request."""

    body: bytes
    prompt_tokens: int
    output_tokens: int
    pause_s: float = 0.0


Session = tuple[Prompt, ...]


@dataclass(frozen=True)
class Counting:
    """How this server counts text: tokens of a prompt of n words = overhead + n x per_word. Not needed for token ids."""

    overhead: float = 0.0
    per_word: float = 1.0

    def words(self, tokens: int) -> int:
        """How many words make a prompt of that length."""
        return max(1, round((tokens - self.overhead) / self.per_word))

    def further_words(self, tokens: int) -> int:
        """How many words add that many tokens to a prompt."""
        return max(1, round(tokens / self.per_word))


class Encoder:
    """The prompts of one workload for one server, as they are sent.

    `attempt`: a later attempt at a point has other prompts, because the server's prefix cache may contain the first ones. `wants_steps`:
    request the verify steps of each answer from SGLang, whose own endpoint always reports them. `wants_places`: also whether cached tokens
    were in GPU memory, host memory or storage. Versions without these options ignore them.
    """

    def __init__(
        self,
        workload: Workload,
        point: Point,
        model: str,
        vocabulary: int = LAST_ID,
        counting: Counting = Counting(),
        attempt: int = 1,
        *,
        wants_steps: bool = False,
        wants_places: bool = False,
    ) -> None:
        self._wants_places = wants_places
        self._more = [attempt] if attempt > 1 else []
        self._wants_steps = wants_steps
        self.workload, self.point, self._model, self._counting = workload, point, model, counting
        self._is_text = workload.endpoint == "chat"
        self._forbids_end, self._counts_chunks = ("ignore_eos" not in workload.omit, "continuous_usage_stats" not in workload.omit)
        self._first_id, self._last_id = ids(LAST_ID if self._is_text else vocabulary)
        if self._last_id < SMALLEST:
            raise ClientError(
                f"The model's vocabulary has {vocabulary} tokens; at least {SMALLEST} are needed.",
                next_step="use workload.endpoint=chat, which sends text",
            )
        self._sent: set[int] = set()
        n_shared = counting.further_words(workload.prefix_tokens) if self._is_text and workload.prefix_tokens else workload.prefix_tokens
        self._prefix = self._rng(SHARED).integers(self._first_id, self._last_id, size=n_shared).tolist()

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.point.seed, self.point.repeat, self.point.concurrency, stream, *self._more])

    def warmups(self) -> Iterator[Session]:
        """The requests before the clock starts: separately drawn random prompts, for every kind of workload."""
        rng = self._rng(WARM)
        n_in, n_out = self._lengths(rng, self.workload.n_warmups(self.point.concurrency))
        for i, o in zip(n_in, n_out, strict=True):
            yield (self._prompt(self._text(rng, i), o, i),)

    def drawn(self) -> Iterator[Session]:
        """The measured conversations of random content."""
        w, rng, pauses = self.workload, self._rng(MEASURED), self._rng(PAUSES)
        n = w.n_prompts(self.point.concurrency)
        n_in, n_out = self._lengths(rng, n * w.turns)
        for s in range(n):
            said: list[Any] = []
            session: list[Prompt] = []
            for t in range(s * w.turns, (s + 1) * w.turns):
                said.append(self._text(rng, n_in[t], is_first=not said))
                asked = sum(n_in[s * w.turns : t + 1]) + sum(n_out[s * w.turns : t])
                session.append(self._prompt(_joined(said), n_out[t], asked, self._pause_s(pauses, bool(session))))
                said.append(self._text(rng, n_out[t], is_first=False) if w.turns > 1 else [])
            yield tuple(session)

    def conversations(self, recorded: Sequence[Sequence[Exchanged]], count: Callable[[str], int] | None = None) -> Iterator[Session]:
        """The measured conversations of a file. Each starts with a unique number, because they repeat within and between points.

        `count` returns the number of tokens of an answer; without it they are estimated.
        """
        w, pauses = self.workload, self._rng(PAUSES)
        order = self._rng(MEASURED).permutation(len(recorded)).tolist()
        for i in range(w.n_prompts(self.point.concurrency)):
            turns = recorded[order[i % len(order)]][: w.turns]
            own = f"[{'.'.join(map(str, [self.point.seed, self.point.concurrency, self.point.repeat, *self._more, i]))}] "
            messages: list[dict[str, str]] = []
            session: list[Prompt] = []
            for turn in turns:
                messages.append({"role": "user", "content": own + turn.asked if not messages else turn.asked})
                text = messages[-1]["content"] if w.endpoint != "chat" else list(messages)
                n_out = max(1, count(turn.answered)) if count is not None else turn.output_tokens
                session.append(self._prompt(text, n_out, 0, self._pause_s(pauses, bool(session))))
                messages.append({"role": "assistant", "content": turn.answered})
            yield tuple(session)

    def traced(self, trace: Sequence[Traced]) -> Iterator[Session]:
        """The requests of a trace, with the prefixes that they share in the trace."""
        rng = self._rng(MEASURED)
        for request in trace:
            n, whole = self._size(request.prompt_tokens), request.blocks[: request.prompt_tokens // TRACE_BLOCK_TOKENS]
            content = list(itertools.chain.from_iterable(self._block(b) for b in whole))[:n]
            content += rng.integers(self._first_id, self._last_id, size=n - len(content)).tolist()
            yield (self._prompt(self._as_text(content), request.output_tokens, request.prompt_tokens),)

    def _block(self, number: int) -> list[int]:
        at = self.point
        rng = np.random.default_rng([at.seed, at.repeat, at.concurrency, SHARED, number])
        return rng.integers(self._first_id, self._last_id, size=self._size(TRACE_BLOCK_TOKENS, is_first=False)).tolist()  # type: ignore[no-any-return]

    def due_s(self, trace: Sequence[Traced] | None) -> list[float] | None:
        """When each conversation is due, seconds since the start; None in a closed loop."""
        w = self.workload
        if trace is not None and w.arrivals == "trace":
            return [request.due_s for request in trace]
        if not w.is_open_loop or w.rate_rps is None:
            return None
        rng, n = self._rng(DUE), len(trace) if trace is not None else w.n_prompts(self.point.concurrency)
        shape = {"poisson": 1.0, "gamma": w.burstiness, "constant": np.inf}[w.arrivals]
        gaps = np.ones(n) if np.isinf(shape) else rng.gamma(shape, 1 / shape, size=n)
        return ramped(np.cumsum(gaps) / w.rate_rps, w.rate_rps, w.ramp_s).tolist()  # type: ignore[no-any-return]

    def _pause_s(self, rng: np.random.Generator, is_further: bool) -> float:
        return float(rng.exponential(self.workload.think_time_s)) if is_further and self.workload.think_time_s else 0.0

    def _lengths(self, rng: np.random.Generator, n: int) -> tuple[list[int], list[int]]:
        w = self.workload
        n_in, n_out = lengths(rng, w.isl_tokens, w.range_ratio, n), lengths(rng, w.osl_tokens, w.range_ratio, n)
        return [int(x) for x in n_in], [int(x) for x in n_out]

    def _size(self, n: int, *, is_first: bool = True) -> int:
        """How many ids, or words, n tokens are. At the beginning of a prompt (`is_first`) the chat template counts, too."""
        if not self._is_text:
            return n
        return self._counting.words(n) if is_first else self._counting.further_words(n)

    def _text(self, rng: np.random.Generator, n: int, *, is_first: bool = True) -> Any:
        """Random content of this length that was not sent before: ids, or words for chat. The first part of a prompt has the prefix."""
        size = self._size(n, is_first=is_first)
        prefix = self._prefix[: size - 1] if is_first else []
        first, last = (0, len(WORDS)) if self._is_text else (self._first_id, self._last_id)
        for _ in range(DRAWS):
            drawn = rng.integers(first, last, size=size - len(prefix))
            mark = hash(drawn.tobytes())
            if not is_first or mark not in self._sent:
                self._sent.add(mark)
                return self._as_text([*prefix, *drawn.tolist()])
        raise ClientError(
            f"There are not enough different prompts of {n} tokens.", next_step="use a larger workload.isl_tokens or fewer prompts"
        )

    def _as_text(self, content: list[int]) -> Any:
        return " ".join(WORDS[i % len(WORDS)] for i in content) if self._is_text else content

    def _prompt(self, text: Any, n_out: int, n_in: int, pause_s: float = 0.0) -> Prompt:
        return Prompt(json.dumps(self.body(text, n_out), separators=(",", ":")).encode(), n_in, n_out, pause_s)

    def body(self, text: Any, n_out: int) -> dict[str, Any]:
        """The JSON object of a request with this prompt: token ids, text, or messages."""
        if self.workload.endpoint == "generate":  # SGLang's own: counts come with every chunk
            sampling = {"max_new_tokens": n_out, "temperature": 0, **({"ignore_eos": True} if self._forbids_end else {})}
            return {"text" if isinstance(text, str) else "input_ids": text, "sampling_params": sampling, "stream": True}
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": n_out,
            "temperature": 0,
            **({"ignore_eos": True} if self._forbids_end else {}),
            "stream": True,
            "stream_options": {"include_usage": True, **({"continuous_usage_stats": True} if self._counts_chunks else {})},
        }
        if self._wants_steps:
            body["return_spec_tokens_details"] = True
        if self._wants_places:
            body["return_cached_tokens_details"] = True
        if self.workload.endpoint == "chat":
            body["messages"] = text if _is_messages(text) else _messages(text)
        else:
            body["prompt"] = text
        return body


def _joined(said: Sequence[Any]) -> Any:
    """A conversation so far as one prompt: concatenated ids, or a list of texts that alternate between user and assistant."""
    parts = [part for part in said if len(part)]
    return parts if parts and isinstance(parts[0], str) else list(itertools.chain.from_iterable(parts))


def _is_messages(text: Any) -> bool:
    return isinstance(text, list) and bool(text) and isinstance(text[0], dict)


def _messages(text: Any) -> list[dict[str, str]]:
    texts = [text] if isinstance(text, str) else text
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(texts)]


def ramped(due_s: np.ndarray, rate_rps: float, ramp_s: float) -> np.ndarray:
    """Due times of a rate that grows from zero over `ramp_s` and then stays constant. Shapes: (n,).

    At the end of the ramp half as many requests are due as at a constant rate.
    """
    if not ramp_s:
        return due_s
    count = due_s * rate_rps  # the full rate's clock, in requests
    grown = rate_rps * ramp_s / 2
    return np.where(count < grown, np.sqrt(2 * ramp_s * np.minimum(count, grown) / rate_rps), ramp_s + (count - grown) / rate_rps)


def prompts(workload: Workload, point: Point, model: str, vocabulary: int = LAST_ID) -> tuple[list[Prompt], list[Prompt]]:
    """The warm-ups and the measured requests of a workload of random content, in order."""
    encoder = Encoder(workload, point, model, vocabulary)
    return [p for session in encoder.warmups() for p in session], [p for session in encoder.drawn() for p in session]
