"""Which arms are impossible, and why: too few GPUs, an unsupported format, too little memory. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from .engines.known import adapter, engines
from .recipe import bound, memory
from .values.plain import number_of_version
from .values.point import Arm, Recipe

WEIGHT_ONLY = ("int4",)  # kernels widen these weights to BF16, which every GPU multiplies


def impossible(arm: Arm, concurrencies: Sequence[int] = (1,)) -> str | None:
    """Why one server cannot measure these concurrencies of the arm, in one sentence; None if it can."""
    return contradiction(arm) or unfit(arm, bound(arm, max(concurrencies), concurrencies))


def contradiction(arm: Arm) -> str | None:
    """Why this arm is impossible on any server, apart from memory; None if it is possible."""
    if arm.has_parts:
        wrong = next((f"{s.role}: {reason}" for s in arm.servers if (reason := contradiction(s.arm))), None)
        return _roles(arm) or wrong
    checks = (_gpus, _groups, _experts, _heads, _format, _vendor, _engine, _draft, _context, _endpoint)
    return next((reason for check in checks if (reason := check(arm))), None)


def _roles(arm: Arm) -> str | None:
    if len(arm.roles.parts) == 1 or arm.roles.router is None:
        return f"roles={arm.roles.id} needs prefill, decode and router, or none of them"
    if not adapter(arm.engine).has_roles:
        return f"roles={arm.roles.id} is not available for {arm.engine.id}"
    program = arm.roles.router.program
    if len(program) < 3 or program[1] != "-m":
        return f"roles.router.program={' '.join(program) or 'empty'} must be a Python module: [python3,-m,MODULE,...]"
    if arm.workload.endpoint != "generate":
        return f"roles={arm.roles.id} needs workload.endpoint=generate: SGLang's router passes token ids on to /generate only"
    return None


def _gpus(arm: Arm) -> str | None:
    h, engine = arm.hardware, arm.engine
    if arm.tp <= h.gpus_per_node:
        return None
    if not arm.roles.spans_nodes:
        return f"TP={arm.tp} is more than the {h.gpus_per_node} GPUs of one {h.id} node (roles=wide uses several nodes)"
    if arm.tp % h.gpus_per_node:
        return f"TP={arm.tp} is more than a {h.id} node, but no multiple of its {h.gpus_per_node} GPUs"
    return None if adapter(engine).spans_nodes else f"TP={arm.tp} needs several {h.id} nodes, which is not available for {engine.id}"


def _groups(arm: Arm) -> str | None:
    return f"dp={arm.dp} does not divide TP={arm.tp}: each data-parallel group has TP/dp GPUs" if arm.tp % arm.dp else None


def _experts(arm: Arm) -> str | None:
    experts = arm.checkpoint.architecture.routed_experts
    if arm.tp % arm.ep:
        return f"ep={arm.ep} does not divide TP={arm.tp}: each expert is on TP/ep GPUs"
    if experts % arm.ep:
        return f"ep={arm.ep} does not divide the {experts} experts of {arm.checkpoint.id}"
    if adapter(arm.engine).spreads_experts_over_all and arm.ep not in (1, arm.tp):
        return f"ep={arm.ep} is neither 1 nor TP={arm.tp}, and {arm.engine.id} distributes experts over all GPUs or none"
    return None


def _heads(arm: Arm) -> str | None:
    heads, group = arm.checkpoint.architecture.heads, arm.attention_tp
    of = f"TP={arm.tp}" if arm.dp == 1 else f"TP/dp={group}"
    return f"{of} does not divide the {heads} attention heads of {arm.checkpoint.id}" if heads % group else None


def _format(arm: Arm) -> str | None:
    h, c = arm.hardware, arm.checkpoint
    if c.precision in h.formats or c.precision in WEIGHT_ONLY:
        return None
    return f"{c.id} is {c.precision}, but {h.id} ({h.architecture}) has no tensor cores for it; it supports {', '.join(h.formats)}"


def _vendor(arm: Arm) -> str | None:
    e, h = arm.engine, arm.hardware
    if e.vendor in ("any", h.vendor):
        return None
    stack = {"nvidia": "CUDA", "amd": "ROCm"}
    return f"the image of engine={e.id} is for {stack[e.vendor]}, but {h.id} is a {stack[h.vendor]} GPU"


def _engine(arm: Arm) -> str | None:
    c, e = arm.checkpoint, arm.engine
    if e.flavor in c.engines or adapter(e).is_simulated:
        return None
    return f"{c.id} is served by {', '.join(c.engines)} only, not by {e.flavor}"


def _draft(arm: Arm) -> str | None:
    c, s = arm.checkpoint, arm.speculative
    if s.steps and not c.mtp_layers:
        return f"speculative={s.id} needs a next-token-prediction layer, but {c.repository} has none"
    return _pin(arm)


def _pin(arm: Arm) -> str | None:
    s, since = arm.speculative, adapter(arm.engine).pins_since
    if s.pinned is None:
        return None
    if not s.steps or s.pinned > s.steps + 1:
        return f"speculative.pinned={s.pinned:g} needs 1 to {s.steps + 1} tokens per verification of speculative={s.id}"
    if not adapter(arm.engine).is_simulated and (not since or number_of_version(arm.engine.version) < number_of_version(since)):
        return f"speculative.pinned needs {arm.engine.flavor} {since} or later, not {arm.engine.version} (engine.version and engine.image)"
    return None


def _context(arm: Arm) -> str | None:
    w, positions = arm.workload, arm.checkpoint.architecture.positions
    if w.longest_tokens <= positions:
        return None
    turns = f"{w.turns} x " if w.turns > 1 else ""
    return f"{turns}{w.isl_tokens} + {w.osl_tokens} tokens are more than the {positions} positions of {arm.checkpoint.id}"


def _endpoint(arm: Arm) -> str | None:
    w, e = arm.workload, arm.engine
    if w.endpoint in adapter(e).endpoints:
        return None
    having = ", ".join(name for name, engine in engines().items() if w.endpoint in engine.endpoints)
    return f"workload.endpoint={w.endpoint} is not available in {e.id}; it is available in {having}"


def unfit(arm: Arm, recipe: Recipe) -> str | None:
    """Why no server can run with this bound recipe, in one sentence; None if it fits into memory and every rank knows its number."""
    if recipe.roles:
        each = zip(arm.servers, recipe.roles, strict=True)
        return next((f"{s.role}: {reason}" for s, part in each if (reason := unfit(s.arm, part.recipe))), None)
    if arm.nodes > 1 and "$RANK" not in recipe.argv:
        return f"no rule of {arm.engine.id} sets the rank of each node of a server over {arm.nodes} nodes (when: {{spans_nodes: true}})"
    fit = memory(arm, recipe)
    if fit.fits:
        return None
    need = fit.weights_gib + fit.workspace_gib
    return (
        f"{arm.checkpoint.id} at TP={arm.tp} does not fit: each GPU needs {need:.0f} GiB ({fit.weights_gib:.0f} GiB of weights and "
        f"{fit.workspace_gib:.0f} GiB of workspace), but {fit.fraction:g} of {arm.hardware.id}'s {fit.memory_gib:g} GiB is "
        f"{fit.fraction * fit.memory_gib:.0f} GiB"
    )
