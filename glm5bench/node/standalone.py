"""The load client by itself, against a server that somebody else has started.

Enters: an address, a workload, a concurrency, and what the user says of the server. Leaves: a Measurement like any other. What nobody says
stays unstated: without a number of GPUs there is no figure per GPU, without hardware no price.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from ..client.counters import Counted, counted, counted_since
from ..client.endpoint import Endpoint, redacted_deeply
from ..client.load import Progress
from ..client.protocol import Measured, Patience, Protocol
from ..errors import ServerError, SettingsError, UsageError
from ..point import PROTOCOL_VERSION, Point, digest_of, plain
from ..store.measurement import Measurement
from ..workload import Workload
from .attempt import Watch
from .provenance import provenance

UNSTATED = "unstated"
NUMBERS = ("gpus", "gpus_per_node", "tp")
WORDS = ("hardware", "checkpoint", "precision", "speculative", "engine", "engine_version")


@dataclass(frozen=True)
class Asked:
    """What is to be sent to whom. `about`: what the user says of the server."""

    endpoint: Endpoint
    model: str
    workload: Workload
    concurrency: int
    seed: int
    about: Mapping[str, str]
    stall_s: float
    processes: int | None = None


@dataclass(frozen=True)
class Loaded:
    """What came of it. `ended_by`: why it ended before all was answered; what was measured until then is in the measurement."""

    measurement: Measurement
    ended_by: Exception | None


def answering(base_url: str, api_key: str, model: str | None) -> tuple[Endpoint, str]:
    """The server at this address and the name of its model.

    Raises UsageError for what is no address, ServerError where the server does not answer or names no model.
    """
    try:
        told = httpx.URL(base_url)
        is_address = told.scheme in ("http", "https") and bool(told.host)
    except httpx.InvalidURL:
        is_address = False
    if not is_address:
        raise UsageError(f"{base_url} is no address of a server.", next_step="http://HOST:PORT")
    if told.userinfo:
        raise UsageError("A name and password in the address would be kept with the point.", next_step="--api-key-env NAME")
    if not api_key.isascii():
        raise UsageError("The server's key is no text that a header can carry.", next_step="--api-key-env NAME")
    endpoint = Endpoint(base_url.rstrip("/").removesuffix("/v1"), api_key)
    name = model or endpoint.model()
    if name is None:
        raise ServerError(
            "The server does not answer GET /v1/models with a model.",
            failure_class="server_crash",
            where=endpoint.base_url,
            next_step="look whether it runs there and takes this key; --model NAME says what it does not",
        )
    return endpoint, name


def load(asked: Asked, check: Callable[[], None], progress: Progress) -> Loaded:
    """Warms up and measures.

    `check` raises what is to end the run. Raises ServerError where the server is gone before anything was measured.
    """
    w, info = asked.workload, asked.endpoint.info()
    scale = float(info.get("time_scale") or 1.0) if info.get("simulated") else 1.0
    point = Point(key_of(asked, info), "load", asked.concurrency, 0, asked.seed, asked.concurrency)
    patience = Patience(asked.stall_s, check)
    client = Protocol(asked.endpoint, asked.model, w, point, patience, progress, time_scale=scale, processes=asked.processes)
    client.encode()
    if client.has_warmups:
        before = counted(asked.endpoint)
        warm = client.warm_up()
        if warm.ended_by is not None:
            raise warm.ended_by
        counted_since(asked.endpoint, before, _tokens(warm))
    _flush(asked.endpoint)
    before = counted(asked.endpoint)
    watch = Watch()
    done = client.measure()
    times = watch.told(done)
    since = counted_since(asked.endpoint, before, _tokens(done)) if done.ended_by is None and not done.n_failed else None
    made = {
        **provenance("", None),
        "url": asked.endpoint.base_url,
        **times,
        "is_complete": done.ended_by is None,
    }
    observed = {"info": redacted_deeply(info, asked.endpoint), "counted_tokens": asdict(since) if since is not None else None}
    source = "simulated" if _is_simulated(info, asked.endpoint) else "measured"
    return Loaded(Measurement(point.key, source, _record(asked, info, scale), made, done.requests, observed), done.ended_by)


def _flush(endpoint: Endpoint) -> None:
    """An empty prefix cache, where the server can be asked for one (SGLang); elsewhere no prompt comes twice under another seed."""
    with contextlib.suppress(httpx.HTTPError):
        endpoint.ask("POST", "/flush_cache", within_s=60)


def key_of(asked: Asked, info: Mapping[str, Any]) -> str:
    """The key of such a point: what was sent, and what is said of the server."""
    said = {k: v for k, v in facts(asked, info).items() if v is not None}
    physics = {"load": PROTOCOL_VERSION, "workload": asked.workload.physics(), "server": said}
    scale = info.get("time_scale") if info.get("simulated") else None
    return digest_of({**physics, "model": asked.model, "concurrency": asked.concurrency, "seed": asked.seed, "time_scale": scale})


def facts(asked: Asked, info: Mapping[str, Any]) -> dict[str, Any]:
    """Hardware, GPUs, checkpoint and engine: the user's word, else the server's, else unstated."""
    is_sglang = isinstance(info.get("tp_size"), int)
    told = {
        "engine": "simulated" if info.get("simulated") else "sglang" if is_sglang else "vllm" if info.get("version") else None,
        "engine_version": info.get("version"),
        "checkpoint": info.get("model_path") or asked.model,
        "tp": info.get("tp_size"),
        "gpus": _gpus(info) if is_sglang else None,
    }
    said: dict[str, Any] = {**told, **asked.about}
    for name in NUMBERS:
        if said.get(name) is not None:
            said[name] = _number(name, said[name])
    said["gpus_per_node"] = said.get("gpus_per_node") or said.get("gpus")
    words = {name: str(said.get(name) or UNSTATED) for name in WORDS}
    return {**words, "tp": said.get("tp") or said.get("gpus") or 1, "gpus": said.get("gpus"), "gpus_per_node": said["gpus_per_node"]}


def _gpus(info: Mapping[str, Any]) -> int:
    """Of an SGLang server: replicas have GPUs of their own unless only attention is data-parallel."""
    sizes = [info.get(name) for name in ("tp_size", "pp_size", *(() if info.get("enable_dp_attention") else ("dp_size",)))]
    return math.prod(size for size in sizes if isinstance(size, int) and size > 0)


def _number(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise SettingsError(f"--about {name}={value}: this is no number of GPUs.")
    return number


def _record(asked: Asked, info: Mapping[str, Any], scale: float) -> dict[str, Any]:
    w = asked.workload
    return {
        **facts(asked, info),
        "image": "",
        "model": asked.model,
        "isl_tokens": w.isl_tokens,
        "osl_tokens": w.osl_tokens,
        "range_ratio": w.range_ratio,
        "endpoint": w.endpoint,
        "concurrency": asked.concurrency,
        "repeat": 0,
        "seed": asked.seed,
        "server_scope": "arm",
        "binding": None,
        "time_scale": scale if info.get("simulated") else None,
        "variant": " ".join(["load", *w.departures()]),
        "arm": {"workload": plain(w)},
    }


def _is_simulated(info: Mapping[str, Any], endpoint: Endpoint) -> bool:
    """Whether the server says so, anywhere: a simulated measurement is never taken for another."""
    models = endpoint.get_json("/v1/models")
    owners = [str(card.get("owned_by")) for card in models.get("data", []) if isinstance(card, dict)] if isinstance(models, dict) else []
    return bool(info.get("simulated")) or "simulated" in owners or "simulated" in str(info.get("version", ""))


def _tokens(done: Measured) -> Counted:
    return Counted(int(done.requests.prompt_tokens.sum()), int(done.requests.output_tokens.sum()))
