"""SGLang's HTTP surface over a simulated engine, as a Starlette application.

Enters: HTTP. Leaves: the bodies, streams and status codes of SGLang 0.5 (its shapes were recorded from a real server). Pages that
a reader could mistake for those of a real server contain `simulated`, and /server_info the time scale.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .answers import Asked, answer_body, asked_of
from .engine import Counters, Engine
from .gpus import readings
from .options import PAGE_TOKENS, START_S, Options
from .streaming import EventStream, cached_of
from .transfer import Rooms, TransferError, fetched

OPEN_PATHS = ("/health", "/health_generate", "/metrics")  # SGLang leaves these open with an API key set


def application(options: Options) -> Starlette:
    """The simulated server with these options."""
    state = State(options)
    routes = [
        Route("/health", state.health),
        Route("/health_generate", state.health),
        Route("/v1/models", state.models),
        Route("/server_info", state.server_info),
        Route("/get_server_info", state.server_info),
        Route("/model_info", state.model_info),
        Route("/get_model_info", state.model_info),
        Route("/metrics", state.metrics),
        Route("/simulated_gpus", state.gpus),
        Route("/flush_cache", state.flush_cache, methods=["GET", "POST"]),
        Route("/generate", state.generate, methods=["POST"]),
        Route("/v1/completions", state.completions, methods=["POST"]),
        Route("/v1/chat/completions", state.chat, methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=state.lifespan, middleware=[Middleware(_Authorised, api_key=options.api_key)])


class _Authorised:
    """401 for a missing or wrong key, as SGLang answers."""

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self._app, self._key = app, api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._key is None or scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            return await self._app(scope, receive, send)
        sent = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        if sent == f"Bearer {self._key}":
            return await self._app(scope, receive, send)
        return await JSONResponse({"error": "Unauthorized"}, status_code=401)(scope, receive, send)


class State:
    """The handlers, and the engine that they share."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.is_ready = False
        self.rooms = Rooms()

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Starts the engine, and logs that it is ready as SGLang does."""
        self.engine = Engine(self.options)
        tasks = [asyncio.create_task(self.engine.run()), asyncio.create_task(self._become_ready())]
        if self.options.mode == "prefill":
            listening = await self.rooms.listen(self.options.host, self.options.bootstrap_port)
            tasks.append(asyncio.create_task(listening.serve_forever()))
        yield
        for task in tasks:
            task.cancel()

    async def _become_ready(self) -> None:
        """Logs the phases of the start as SGLang does."""
        o, m = self.options, self.options.memory
        extra = o.fault.number if o.fault and o.fault.kind == "slow_start" else 0
        left_gib = m.memory_gib - m.weights_gib
        limits = (
            f"chunked_prefill_size={o.limits.chunk_tokens}, max_running_requests={o.limits.max_running}, context_len={o.context_length}"
        )
        weights = f"type={o.arm.checkpoint.architecture.name}, avail mem={left_gib:.2f} GB, mem usage={m.weights_gib:.2f} GB"
        graphs_s, after_gib = 0.2 * START_S / o.time_scale, left_gib - m.kv_gib
        for seconds, line in (
            (0.6 * START_S + extra, f"Load weight end. elapsed={(0.6 * START_S + extra) / o.time_scale:.2f} s, {weights}."),
            (0.1 * START_S, f"KV Cache is allocated. dtype: {m.kv_dtype}, #tokens: {m.capacity_tokens}, KV size: {m.kv_gib:.2f} GB"),
            (0.0, "Capture cuda graph begin. This can take up to several minutes."),
            (0.2 * START_S, f"Capture cuda graph end. Time elapsed: {graphs_s:.2f} s. mem usage=0.00 GB. avail mem={after_gib:.2f} GB."),
            (0.1 * START_S, f"max_total_num_tokens={m.capacity_tokens}, {limits}"),
        ):
            await asyncio.sleep(seconds / o.time_scale)
            print(f"[{time.strftime('%Y-%m-%d %H:%M:%S')} TP0] {line}", flush=True)
        print("The server is fired up and ready to roll!", flush=True)
        self.is_ready = True

    async def health(self, request: HttpRequest) -> Response:
        """503 until ready. `/health` generates a token, as SGLang's does."""
        if not self.is_ready:
            return Response(status_code=503)
        await self._whole(Asked("generate", 1, 1, False, False, False, ""))
        return Response(status_code=200)

    async def models(self, request: HttpRequest) -> Response:
        """The one model that is served."""
        o = self.options
        card = {"id": o.served_model_name, "object": "model", "created": int(time.time()), "owned_by": "simulated"}
        return JSONResponse({"object": "list", "data": [{**card, "root": o.model_path, "parent": None, "max_model_len": o.context_length}]})

    async def model_info(self, request: HttpRequest) -> Response:
        """What a router asks of a worker."""
        return JSONResponse({"model_path": self.options.model_path, "is_generation": True, "simulated": True})

    async def server_info(self, request: HttpRequest) -> Response:
        """Resolved settings, flat, and the scheduler's own state. Not in SGLang: `simulated`, `time_scale`, `lag`."""
        o, m, c, dp = self.options, self.options.memory, self.engine.counters, self.options.model.dp
        memory = {"weight": m.weights_gib, "kvcache": m.kv_gib, "token_capacity": m.capacity_tokens // dp, "graph": 0.0}
        return JSONResponse(
            {
                "simulated": True,
                "time_scale": o.time_scale,
                "model_path": o.model_path,
                "served_model_name": o.served_model_name,
                "tp_size": o.arm.tp // 2 if o.fault and o.fault.kind == "settings" else o.arm.tp,
                "dp_size": dp,
                "enable_dp_attention": dp > 1,
                "disaggregation_mode": o.mode or "null",
                "page_size": PAGE_TOKENS,
                "ep_size": o.arm.ep,
                "quantization": o.arm.checkpoint.precision,
                "kv_cache_dtype": m.kv_dtype,
                "mem_fraction_static": m.fraction,
                "chunked_prefill_size": o.limits.chunk_tokens // dp,
                "max_running_requests": o.limits.max_running,
                "stream_interval": o.stream_interval,
                "speculative_num_steps": o.arm.speculative.steps or None,
                "speculative_num_draft_tokens": o.arm.speculative.draft_tokens or None,
                "launch_command": " ".join(o.argv),
                "status": "ready" if self.is_ready else "starting",
                "max_total_num_tokens": m.capacity_tokens // dp,
                "max_req_input_len": o.context_length - 6,
                "version": f"simulated-{o.arm.engine.version}",
                "lag": {"worst_s": c.worst_lag_s, "late_steps": c.late_steps, "steps": c.steps},
                "internal_states": [
                    {
                        "effective_max_running_requests_per_dp": o.limits.max_running // dp,
                        "last_gen_throughput": self.engine.last_throughput / dp,
                        "memory_usage": memory,
                        "avg_spec_accept_length": _acceptance(c),
                        "peak_running_requests": c.peaks.get(rank, 0),
                    }
                    for rank in range(dp)
                ],
            }
        )

    async def metrics(self, request: HttpRequest) -> Response:
        """Prometheus text with SGLang's names."""
        c, s = self.engine.total, self.engine.scheduler
        values = {
            "num_running_reqs": s.n_running,
            "num_queue_reqs": s.n_waiting,
            "token_usage": s.used_tokens / max(1, self.options.memory.capacity_tokens),
            "gen_throughput": self.engine.last_throughput if self.engine.is_busy else 0.0,
            "max_total_num_tokens": self.options.memory.capacity_tokens,
            "spec_accept_length": _acceptance(c) or 0.0,
            "prompt_tokens_total": c.prompt_tokens,
            **self._cached(c),
            "generation_tokens_total": c.generation_tokens,
            "num_requests_total": c.requests,
            "spec_verify_calls_total": c.verify_steps,
        }
        label = f'{{model_name="{self.options.served_model_name}",simulated="true"}}'
        lines, fault = [], self.options.fault
        prefix = "sglang_" if fault is not None and fault.kind == "renamed" else "sglang:"
        for name, value in values.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# TYPE {prefix}{name} {kind}", f"{prefix}{name}{label} {float(value)}"]
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")

    def _cached(self, c: Counters) -> dict[str, float]:
        """The metrics of the prefix cache, if there is one."""
        if self.options.limits.cache is None:
            return {}
        if self.options.fault is not None and self.options.fault.kind == "gauge":
            return {"cache_hit_rate": 0.97}
        return {"cached_tokens_total": c.device_tokens + c.host_tokens}

    async def gpus(self, request: HttpRequest) -> Response:
        """The readings of the simulated GPUs. SGLang has no such route."""
        return JSONResponse(readings(self.options, self.engine.meter))

    async def flush_cache(self, request: HttpRequest) -> Response:
        """400 while requests run, as SGLang answers."""
        if self.engine.is_busy:
            return PlainTextResponse("Failed to flush cache: requests are running.\n", status_code=400)
        self.engine.flush()
        return PlainTextResponse("Cache flushed.\n")

    async def generate(self, request: HttpRequest) -> Response:
        """SGLang's own endpoint: text is cumulative."""
        return await self._answer(request, "generate")

    async def completions(self, request: HttpRequest) -> Response:
        """OpenAI's completions."""
        return await self._answer(request, "completions")

    async def chat(self, request: HttpRequest) -> Response:
        """OpenAI's chat completions."""
        return await self._answer(request, "chat")

    async def _answer(self, request: HttpRequest, endpoint: str) -> Response:
        fault = self.options.fault
        if fault and fault.kind == "refuse" and self.engine.streams >= fault.number:
            return JSONResponse({"error": {"message": "The server is overloaded.", "code": 503}}, status_code=503)
        try:
            asked = asked_of(endpoint, json.loads(await request.body()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return JSONResponse({"error": {"message": f"bad request: {error}", "code": 400}}, status_code=400)
        if asked.prompt_tokens + asked.output_tokens > self.options.context_length:
            return self._too_long(asked)
        try:
            is_computed = await self._has_come(asked)
        except TransferError as error:
            return JSONResponse({"error": {"message": f"KVTransferError: {error}", "code": 500}}, status_code=500)
        if self.options.mode == "prefill" and asked.room is not None:
            asked = replace(asked, output_tokens=1)
        if not asked.stream:
            return JSONResponse(await self._whole(asked, is_computed=is_computed))
        return EventStream(self.engine, asked, self.options, self._computed, is_computed=is_computed)

    async def _has_come(self, asked: Asked) -> bool:
        """Whether the cache of the prompt has come from a prefill worker. Waits for it, and for its transfer."""
        if self.options.mode != "decode" or asked.room is None:
            return False
        await fetched(*asked.bootstrap, asked.room)
        await asyncio.sleep(asked.prompt_tokens * self.options.transfer_s / self.options.time_scale)
        return True

    def _computed(self, asked: Asked) -> None:
        """Lets the decode worker have the cache of this prompt."""
        if self.options.mode == "prefill" and asked.room is not None:
            self.rooms.computed(asked.room)

    def _too_long(self, asked: Asked) -> Response:
        message = (
            f"The input ({asked.prompt_tokens} tokens) is longer than the model's context length ({self.options.context_length} tokens)."
        )
        if asked.endpoint == "generate" and asked.stream:  # SGLang reports it inside a 200
            body = "data: " + json.dumps({"error": {"message": message, "code": 400}}) + "\n\ndata: [DONE]\n\n"
            return Response(body, media_type="text/event-stream")
        return JSONResponse({"object": "error", "message": message, "type": "BadRequestError", "code": 400}, status_code=400)

    async def _whole(self, asked: Asked, *, is_computed: bool = False) -> dict[str, Any]:
        done = asyncio.get_running_loop().create_future()

        def deliver(n: int, is_last: bool) -> None:
            if is_last:
                done.set_result(None)

        request = self.engine.submit(asked.prompt_tokens, asked.output_tokens, deliver, is_computed=is_computed, prompt=asked.prompt)
        await done
        self._computed(asked)
        cached = cached_of(request, self.options)
        return answer_body(asked, uuid.uuid4().hex, request.emitted, 0, request.verify_steps, finished=True, whole=True, cached=cached)


def _acceptance(c: Counters) -> float | None:
    return c.verified_tokens / c.verify_steps if c.verify_steps else None
