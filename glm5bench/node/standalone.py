"""The load client on its own, against a server that glm5bench did not start.

Enters: an address, a workload, a concurrency, and the user's facts about the server. Leaves: a Measurement like any other. Unknown facts
stay unstated: without the number of GPUs there are no figures per GPU, without the hardware no prices.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import httpx

from ..archive.measurement import Measurement, answers_of
from ..client.counters import Counted, counted, counted_since
from ..client.endpoint import Endpoint, model_name, redacted_deeply
from ..client.load import Progress
from ..client.protocol import Measured, Patience, Protocol
from ..client.vocabulary import Vocabulary, vocabulary
from ..client.workload import LAST_ID
from ..engines.known import engines, serving
from ..errors import ServerError, SettingsError, UsageError
from ..machine.provenance import provenance
from ..values.plain import digest_of, plain
from ..values.point import PROTOCOL_VERSION, Point
from ..values.workload import Workload
from .attempt import Watch

UNSTATED = "unstated"
NUMBERS = ("gpus", "gpus_per_node", "tp")
WORDS = ("hardware", "checkpoint", "precision", "speculative", "engine", "engine_version")


@dataclass(frozen=True)
class Asked:
    """What to send, and to which server. `about`: the user's facts about the server."""

    endpoint: Endpoint
    model: str
    workload: Workload
    concurrency: int
    seed: int
    about: Mapping[str, str]
    stall_s: float
    processes: int | None = None
    vocabulary: int | None = None  # number of token ids of its model, according to the user


@dataclass(frozen=True)
class Loaded:
    """The result of a load. `ended_by`: why it ended early, or None. The measurement contains what was measured until then."""

    measurement: Measurement
    ended_by: Exception | None


def answering(base_url: str, api_key: str, model: str | None) -> tuple[Endpoint, str]:
    """The server at this address and the name of its model.

    Raises UsageError for an invalid address, ServerError if the server does not answer or names no model.
    """
    try:
        told = httpx.URL(base_url)
        is_address = told.scheme in ("http", "https") and bool(told.host)
    except httpx.InvalidURL:
        is_address = False
    if not is_address:
        raise UsageError(f"{base_url} is not a valid server address.", next_step="use http://HOST:PORT")
    if told.userinfo:
        raise UsageError(
            "The address contains a name and password, which would be stored with the point.", next_step="use --api-key-env NAME"
        )
    if not api_key.isascii():
        raise UsageError("The server's key contains characters that an HTTP header cannot carry.", next_step="check --api-key-env NAME")
    endpoint = Endpoint(base_url.rstrip("/").removesuffix("/v1"), api_key)
    models = _models(endpoint)
    name = model or model_name(models.value)
    if name is None:
        raise ServerError(
            f"The server does not report a model: GET /v1/models {models.said}.",
            failure_class="server_crash",
            where=endpoint.base_url,
            next_step="pass --model NAME, and --api-key-env NAME if the server needs a key",
        )
    return endpoint, name


@dataclass(frozen=True)
class _Models:
    """The JSON of /v1/models, or None; and `said`: the answer in words."""

    value: Any
    said: str


def _models(endpoint: Endpoint) -> _Models:
    """The answer to GET /v1/models. Raises ServerError with the cause if the server cannot be reached."""
    try:
        said = endpoint.ask("GET", "/v1/models")
    except httpx.ConnectError as error:
        raise _unreachable(endpoint, error) from error
    except httpx.ConnectTimeout as error:
        raise _unreachable(endpoint, error) from error
    except httpx.HTTPError as error:
        return _Models(None, f"has no answer ({error})")
    if said.status != 200:
        return _Models(None, f"answers HTTP {said.status}")
    try:
        return _Models(said.json(), "names none")
    except ValueError as error:
        return _Models(None, f"cannot be read ({error})")


def _unreachable(endpoint: Endpoint, error: Exception) -> ServerError:
    class_, _, cause = str(error).partition(": ")
    words = {"dns": f"unknown host {cause}", "tls": f"TLS failed: {cause}", "hang": cause}.get(class_, cause)
    if class_ == "refused":
        words = f"connection refused at {cause.rpartition(': ')[0]}"
    return ServerError(
        f"Cannot reach the server: {words.rstrip('.')}.",
        failure_class="server_crash",
        where=endpoint.base_url,
        next_step="check the address and that the server has started; for a private certificate set SSL_CERT_FILE",
    )


Keep = Callable[[Measurement], None]


def load(
    asked: Asked,
    check: Callable[[], None],
    progress: Progress,
    keep: Keep = lambda m: None,
    phase: Callable[[str], None] = lambda name: None,
) -> Loaded:
    """The measurement of a load, after a warm-up. `phase` gets the name of each part: `warm-up`, then `measuring`.

    `check` raises an error to end the run. `keep` gets the measurement as soon as the load is over, before any further request, so the
    server's facts are still missing in it. Raises ServerError if the server is gone before anything was measured.
    """
    w, info = asked.workload, _sound(asked.endpoint.info())
    scale = float(info.get("time_scale") or 1.0) if info.get("simulated") else 1.0
    is_text = w.endpoint == "chat" or w.content == "conversations"
    known = Vocabulary(LAST_ID, "text is sent") if is_text else vocabulary(asked.endpoint, asked.model, info, asked.vocabulary)
    owner = _owner(asked.endpoint)
    point = Point(key_of(asked, info, owner, known), "load", asked.concurrency, 0, asked.seed, asked.concurrency)
    patience = Patience(asked.stall_s, check)
    options = {"time_scale": scale, "processes": asked.processes, "vocabulary": known.n}
    client = Protocol(asked.endpoint, asked.model, w, point, patience, progress, **options)  # type: ignore[arg-type]  # by name
    client.encode()
    if client.has_warmups:
        before = counted(asked.endpoint)
        phase("warm-up")
        warm = client.warm_up()
        if warm.ended_by is not None:
            raise warm.ended_by
        counted_since(asked.endpoint, before, _tokens(warm))
    _flush(asked.endpoint)
    before = counted(asked.endpoint)
    watch = Watch()
    phase("measuring")
    done = client.measure()
    made = {
        **provenance("", None),
        "url": asked.endpoint.base_url,
        **watch.told(done),
        "vocabulary": asdict(known),
        "is_complete": done.ended_by is None,
    }
    engine = serving(info, owner)
    source, limit = (engine.source, engine.admitted(info, {}, ())) if engine is not None else ("measured", None)
    told = {
        "info": redacted_deeply(info, asked.endpoint),
        "answers": answers_of(done.requests),
        "max_running": limit,
    }
    unread = Measurement(
        point.key,
        source,
        _record(asked, info, owner, scale),
        {**made, "is_server_unread": True},
        done.requests,
        {**told, "counted_tokens": None},
    )
    since = None
    if done.ended_by is None and not done.n_failed and before is not None:
        keep(unread)
        since = counted_since(asked.endpoint, before, _tokens(done))
    counted_tokens = asdict(since) if since is not None else None
    return Loaded(replace(unread, provenance=made, server={**told, "counted_tokens": counted_tokens}), done.ended_by)


def _flush(endpoint: Endpoint) -> None:
    """Empties the prefix cache, if the server supports it. Otherwise only another seed avoids repeated prompts."""
    for path in {engine.flush_path for engine in engines().values() if engine.flush_path is not None}:
        with contextlib.suppress(httpx.HTTPError):
            endpoint.ask("POST", path, within_s=60)


def _sound(info: dict[str, Any]) -> dict[str, Any]:
    """The server's information, without fields of a wrong type."""

    def is_sound(name: str, value: Any) -> bool:
        if name in ("tp_size", "pp_size", "dp_size"):
            return type(value) is int and 0 < value < 2**31
        if name == "time_scale":
            return type(value) in (int, float) and 0 < value < 1e9
        return {"simulated": bool}.get(name, str) is type(value) if name in ("version", "model_path", "simulated") else True

    return {name: value for name, value in info.items() if is_sound(name, value)}


def _owner(endpoint: Endpoint) -> str:
    """The owner of the model in /v1/models: vllm, sglang, tensorrt_llm, simulated; empty if it is not stated."""
    models = endpoint.get_json("/v1/models")
    cards = models.get("data") if isinstance(models, dict) else None
    owners = [str(card.get("owned_by") or "") for card in cards if isinstance(card, dict)] if isinstance(cards, list) else []
    return next(filter(None, owners), "").lower()


def key_of(asked: Asked, info: Mapping[str, Any], owner: str, known: Vocabulary) -> str:
    """The key of such a point, from what was sent and the facts about the server."""
    said = {k: v for k, v in facts(asked, info, owner).items() if v is not None}
    physics = {"load": PROTOCOL_VERSION, "workload": asked.workload.physics(), "server": said}
    physics |= {"vocabulary": known.n} if known.n < LAST_ID else {}
    scale = info.get("time_scale") if info.get("simulated") else None
    return digest_of({**physics, "model": asked.model, "concurrency": asked.concurrency, "seed": asked.seed, "time_scale": scale})


def facts(asked: Asked, info: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Hardware, GPUs, checkpoint and engine, according to the user, else to the server, else unstated.

    A version alone does not identify the engine: trtllm-serve and others also answer /version.
    """
    engine = serving(info, owner)
    told = {
        "engine": engine.name if engine is not None else None,
        "engine_version": info.get("version") if engine is not None else None,
        "checkpoint": info.get("model_path") or asked.model,
        "tp": info.get("tp_size"),
        "gpus": engine.gpus(info) if engine is not None else None,
    }
    said: dict[str, Any] = {**told, **asked.about}
    for name in NUMBERS:
        if said.get(name) is not None:
            said[name] = _number(name, said[name])
    said["gpus_per_node"] = said.get("gpus_per_node") or said.get("gpus")
    words = {name: str(said.get(name) or UNSTATED) for name in WORDS}
    return {**words, "tp": said.get("tp") or said.get("gpus") or 1, "gpus": said.get("gpus"), "gpus_per_node": said["gpus_per_node"]}


def _number(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise SettingsError(f"--about {name}={value}: this is not a valid number of GPUs.")
    return number


def _record(asked: Asked, info: Mapping[str, Any], owner: str, scale: float) -> dict[str, Any]:
    w = asked.workload
    return {
        **facts(asked, info, owner),
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


def _tokens(done: Measured) -> Counted:
    return Counted(int(done.requests.prompt_tokens.sum()), int(done.requests.output_tokens.sum()))
