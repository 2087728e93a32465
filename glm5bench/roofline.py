"""The limits of the hardware: memory fit, KV capacity and the time of one step. Pure arithmetic on the facts of conf/.

Input: Hardware, Checkpoint, TP, speculative setting. Output: bytes, tokens and seconds per GPU. The model: a step reads the weights and
the cache that it uses, multiplies, reduces over the TP group, and needs a fixed time per layer. Reading and multiplying run at the fitted
share of the spec sheet in `Efficiency`. There are no requests and no clock in this module.

Sizes are binary (GiB = 2**30 bytes): HBM "GB" on data sheets and the sizes in the recipes are binary within 0.6 % (docs/facts.md).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from .values.groups import Architecture, Checkpoint, Hardware, Passes, Speculative
from .values.point import Arm
from .values.workload import Workload

GIB = 2**30
INDEX_SCALE_BYTES = 4  # one FP32 scale for each key of the indexer
BYTES_PER_VALUE = {"bf16": 2.0, "fp8": 1.0, "nvfp4": 0.5 + 1 / 16, "mxfp4": 0.5 + 1 / 32, "int4": 0.5 + 2 / 32}  # with their scales
NARROW = 512  # columns of an expert's matrices on one GPU; GEMMs of 4-bit experts with fewer were seen to be slower
GEMM_RATE = {"bf16": "bf16", "fp8": "fp8", "nvfp4": "fp4", "mxfp4": "fp4", "int4": "bf16"}  # INT4 weights are widened to BF16


@dataclass(frozen=True)
class LayerValues:
    """Numbers of weights in one layer, grouped by how tensor parallelism distributes them."""

    expert: int
    shared: int
    attention_sharded: int
    attention_replicated: int
    dense_mlp: int
    linear_attention: int
    router: int  # part of attention_replicated


@functools.cache
def layer_values(a: Architecture) -> LayerValues:
    """Weights of one layer. Attention is sharded by head; the down projections of latent attention, indexer and router are replicated."""
    query = a.q_lora_rank or a.hidden
    latent = a.heads * (query * (a.qk_nope_dim + a.qk_rope_dim) + a.kv_lora_rank * (a.qk_nope_dim + a.v_dim) + a.v_dim * a.hidden)
    grouped = a.hidden * a.head_dim * (2 * a.heads + 2 * a.kv_heads)
    indexer = query * a.index_heads * a.index_dim + a.hidden * (a.index_dim + a.index_heads)
    down = a.hidden * (a.q_lora_rank + a.kv_lora_rank + a.qk_rope_dim)
    keys, values = a.linear_key_heads * a.linear_dim, a.linear_value_heads * a.linear_dim
    router = a.hidden * a.routed_experts
    return LayerValues(
        expert=3 * a.hidden * a.moe_intermediate,
        shared=3 * a.hidden * a.moe_intermediate * a.shared_experts,
        attention_sharded=grouped if a.kv_heads else latent,
        attention_replicated=router if a.kv_heads else down + indexer + router,
        dense_mlp=3 * a.hidden * a.dense_intermediate,
        linear_attention=a.hidden * (2 * keys + 2 * values + 2 * a.linear_value_heads) + values * a.hidden,
        router=router,
    )


@functools.cache
def attention_values(a: Architecture) -> tuple[int, int]:
    """Weights of the attention of all layers: those that tensor parallelism divides, and those of which every GPU has a copy."""
    v, full = layer_values(a), a.layers - a.linear_layers
    return full * v.attention_sharded + a.linear_layers * v.linear_attention, full * v.attention_replicated + a.linear_layers * v.router


def state_bytes(a: Architecture, kv_dtype: str = "bf16") -> float:
    """Bytes of the state that linear attention keeps for one sequence, on all GPUs together."""
    keys, values = a.linear_key_heads * a.linear_dim, a.linear_value_heads * a.linear_dim
    convolved = max(0, a.linear_conv - 1) * (2 * keys + values)
    return a.linear_layers * (values * a.linear_dim + convolved) * BYTES_PER_VALUE[kv_dtype]


def attended(a: Architecture, context_tokens: float) -> float:
    """How many of the earlier tokens attention reads in a layer without a window: the best top-k, or all without an indexer."""
    return min(context_tokens, a.index_topk) if a.index_topk else context_tokens


def total_parameters(a: Architecture, *, draft: bool) -> int:
    """All weights of the model, including its draft layers if `draft`. GLM-5: 744e9 without, 754e9 with."""
    v = layer_values(a)
    experts = (a.layers - a.dense_layers) * (v.expert * a.routed_experts + v.shared)
    main = sum(attention_values(a)) + experts + a.dense_layers * v.dense_mlp + 2 * a.vocabulary * a.hidden
    return main + (a.mtp_layers * draft_layer_parameters(a) if draft else 0)


def draft_layer_parameters(a: Architecture) -> int:
    """Weights of one next-token-prediction layer: a MoE layer, and the projection that combines state and token."""
    v = layer_values(a)
    return v.attention_sharded + v.attention_replicated + v.expert * a.routed_experts + v.shared + 2 * a.hidden * a.hidden


def draft_bytes_per_value(checkpoint: Checkpoint) -> float:
    """Bytes per weight of the draft layer: FP8 in FP8 checkpoints, BF16 in 4-bit ones (layer 78 of the public 4-bit checkpoints)."""
    return BYTES_PER_VALUE[checkpoint.dense_precision]


def weights_per_gpu_gib(checkpoint: Checkpoint, tp: int, *, draft: bool) -> float:
    """Weights that one GPU loads: its shard, and a full copy of what tensor parallelism replicates.

    The size on disk is the published one. It includes the draft layers if the checkpoint has any; these are loaded only with speculation.
    """
    a = checkpoint.architecture
    dense = BYTES_PER_VALUE[checkpoint.dense_precision]
    replicated = attention_values(a)[1] * dense / GIB
    draft_gib = checkpoint.mtp_layers * draft_layer_parameters(a) * draft_bytes_per_value(checkpoint) / GIB
    loaded = checkpoint.weights_gib - (0.0 if draft else draft_gib)
    return (loaded - replicated) / tp + replicated


def cache_values(a: Architecture, tp: int) -> float:
    """Values that one token needs in the cache of one layer on one GPU. Grouped heads are sharded; the latent vector is not."""
    return 2 * a.kv_heads * a.head_dim / min(tp, a.kv_heads) if a.kv_heads else a.kv_lora_rank + a.qk_rope_dim


def kv_bytes_per_token(checkpoint: Checkpoint, kv_dtype: str, *, draft: bool, tp: int = 1) -> float:
    """Bytes that one token uses in the cache of every GPU of the TP group.

    Each layer stores keys and values (or their latent vector) in `kv_dtype`, and the key of an indexer in FP8 with its scale. Layers with
    linear attention store nothing. Layers with a window are counted like the others, because engines allocate one pool.
    """
    a = checkpoint.architecture
    layers = a.layers - a.linear_layers + (a.mtp_layers if draft else 0)
    key = a.index_dim + INDEX_SCALE_BYTES if a.index_topk else 0
    return layers * (cache_values(a, tp) * BYTES_PER_VALUE[kv_dtype] + key)


def kv_capacity_tokens(checkpoint: Checkpoint, kv_gib: float, kv_dtype: str, *, draft: bool, tp: int = 1, page_tokens: int = 64) -> int:
    """Tokens that fit in `kv_gib` per GPU, in whole pages. vLLM's 64.49 GiB of BF16 cache for GLM-5 hold 691,392 (docs/memory.md)."""
    page = kv_bytes_per_token(checkpoint, kv_dtype, draft=draft, tp=tp) * page_tokens
    return max(0, int(kv_gib * GIB // page)) * page_tokens


@dataclass(frozen=True)
class MemoryFit:
    """The use of one GPU's memory in GiB, and the capacity of its KV cache in tokens."""

    memory_gib: float
    fraction: float
    weights_gib: float
    workspace_gib: float
    kv_gib: float
    kv_dtype: str
    capacity_tokens: int

    @property
    def fits(self) -> bool:
        """Whether weights and workspace leave room for a KV cache."""
        return self.capacity_tokens > 0


def memory_fit(arm: Arm, *, fraction: float, kv_dtype: str, running: int = 1) -> MemoryFit:
    """Weights as loaded, workspace and KV cache within the memory fraction of one GPU's HBM.

    `running`: requests that the server admits at once. Linear attention keeps a state for each, which the KV cache has to leave room for.
    """
    draft = arm.speculative.steps > 0
    weights = weights_per_gpu_gib(arm.checkpoint, arm.tp, draft=draft)
    states = running * state_bytes(arm.checkpoint.architecture) / arm.tp / GIB
    kv = arm.hardware.memory_gib * fraction - weights - arm.engine.workspace_gib - states
    capacity = kv_capacity_tokens(arm.checkpoint, kv, kv_dtype, draft=draft, tp=arm.tp)
    return MemoryFit(arm.hardware.memory_gib, fraction, weights, arm.engine.workspace_gib, max(0.0, kv), kv_dtype, capacity)


@dataclass(frozen=True)
class StepModel:
    """Seconds of prefill and decode steps of one server. Bytes, FLOPs and rates are per GPU."""

    hardware: Hardware
    checkpoint: Checkpoint
    tp: int
    speculative: Speculative
    kv_dtype: str
    passes: Passes = field(default_factory=Passes)
    decode_factor: float = 1.0  # on decode passes, from measurements of one's own
    prefill_factor: float = 1.0  # on prefill passes and the host's time

    @functools.cached_property
    def _layer(self) -> LayerValues:
        return layer_values(self.checkpoint.architecture)

    @functools.cached_property
    def _attention(self) -> tuple[int, int]:
        return attention_values(self.checkpoint.architecture)

    def decode_s(self, batch: int, context_tokens: float, sparse_tokens: float) -> float:
        """Seconds of one decode step of `batch` requests: drafts, and one pass that yields (or verifies) their next tokens.

        context_tokens: sum of their contexts; sparse_tokens: sum of what `attended` gives for each, the tokens that attention reads.
        """
        a, eff = self.checkpoint.architecture, self.hardware.efficiency
        queries = self.speculative.draft_tokens if self.speculative.steps else 1
        tokens = batch * queries
        read = self._weights_s(tokens) + self._cache_s(batch, context_tokens, sparse_tokens)
        compute = self._gemm_s(tokens, eff.compute) + self._attention_s(tokens, context_tokens * queries, eff.compute)
        step = max(read, compute) + self._reduce_s(tokens) + a.layers * self._layer_s() + tokens * eff.token_s
        drafts = self.speculative.steps * self._draft_pass_s(batch)
        return self.decode_factor * (step + drafts + batch * eff.request_s)

    def prefill_s(self, tokens: int, attended_tokens: float) -> float:
        """Seconds of one prefill step over `tokens` prompt tokens; attended_tokens: the sum of the number of tokens before each."""
        a, eff = self.checkpoint.architecture, self.hardware.efficiency
        factor = self.passes.sparse_prefill if a.index_topk else 1.0
        gemm = max(self._weights_s(tokens), self._gemm_s(tokens, eff.prefill_compute) * factor)
        attention = self._attention_s(tokens, attended_tokens, eff.prefill_compute, is_prefill=True) * factor
        on_gpu = gemm + attention + tokens * eff.prefill_token_s * factor + self._reduce_s(tokens) + a.layers * self._layer_s()
        return self.prefill_factor * max(on_gpu, a.layers * eff.eager_layer_s * self.passes.eager)

    def mixed_s(self, tokens: int, attended_tokens: float, batch: int, context_tokens: float, sparse_tokens: float) -> float:
        """Seconds of one pass over a prefill chunk and the next tokens of `batch` decoding requests: kernels are launched once."""
        launches_s = self.checkpoint.architecture.layers * self._layer_s()
        return self.prefill_s(tokens, attended_tokens) + self.decode_s(batch, context_tokens, sparse_tokens) - launches_s

    @property
    def host_s(self) -> float:
        """Seconds of a request outside forward passes."""
        return self.prefill_factor * self.hardware.efficiency.host_s

    def _draft_pass_s(self, batch: int) -> float:
        a = self.checkpoint.architecture
        v = self._layer
        touched = self.experts_touched(batch) * v.expert + v.shared + v.attention_sharded + 2 * a.hidden * a.hidden
        sharded = touched * draft_bytes_per_value(self.checkpoint) + a.vocabulary * a.hidden * 2
        return sharded / self.tp / self._bandwidth() + self._layer_s()

    def experts_touched(self, tokens: int) -> float:
        """Expected number of distinct experts that `tokens` tokens are routed to, if routing is uniform."""
        a = self.checkpoint.architecture
        return a.routed_experts * (1.0 - (1.0 - a.active_experts / a.routed_experts) ** tokens)

    def _weights_s(self, tokens: int) -> float:
        a = self.checkpoint.architecture
        v = self._layer
        expert_bytes, dense_bytes = BYTES_PER_VALUE[self.checkpoint.precision], BYTES_PER_VALUE[self.checkpoint.dense_precision]
        moe_layers = a.layers - a.dense_layers
        sharded = moe_layers * self.experts_touched(tokens) * v.expert * expert_bytes
        attention, replicated = self._attention
        sharded += (moe_layers * v.shared + a.dense_layers * v.dense_mlp + attention) * dense_bytes
        sharded += a.vocabulary * a.hidden * 2
        read_s = (sharded / self.tp + replicated * dense_bytes) / self._bandwidth()
        return read_s + moe_layers * self.experts_touched(tokens) * self._expert_s()

    def _expert_s(self) -> float:
        eff, columns = self.hardware.efficiency, self.checkpoint.architecture.moe_intermediate / self.tp
        is_narrow = columns < NARROW and GEMM_RATE[self.checkpoint.precision] == "fp4"
        return eff.narrow_fp4_expert_s if is_narrow else eff.expert_s

    def _cache_s(self, batch: int, context_tokens: float, sparse_tokens: float) -> float:
        """Seconds of reading the cache of `batch` requests, and of reading and writing the states of linear attention."""
        a = self.checkpoint.architecture
        full = a.layers - a.linear_layers - a.window_layers
        entries = full * sparse_tokens + a.window_layers * min(context_tokens, batch * a.window)
        cached = entries * cache_values(a, self.tp) * BYTES_PER_VALUE[self.kv_dtype]
        keys = a.layers * context_tokens * (a.index_dim + INDEX_SCALE_BYTES) / self.checkpoint.index_period if a.index_topk else 0.0
        states = 2 * batch * state_bytes(a) / self.tp if a.linear_layers else 0.0
        return (cached + keys + states) / self._bandwidth()

    def _gemm_s(self, tokens: int, share: float) -> float:
        """Seconds of the GEMMs over `tokens` tokens, at this share of the dense rate."""
        a = self.checkpoint.architecture
        v = self._layer
        moe_layers = a.layers - a.dense_layers
        routed = moe_layers * a.active_experts * v.expert
        attention, replicated = self._attention
        dense = moe_layers * v.shared + a.dense_layers * v.dense_mlp + attention
        expert_rate = GEMM_RATE[self.checkpoint.precision]
        expert_s = routed / (self.hardware.tflop_s[expert_rate] * 1e12 * share)
        dense_rate = self.hardware.tflop_s[GEMM_RATE[self.checkpoint.dense_precision]] * 1e12 * share
        return 2.0 * tokens * ((expert_s + dense / dense_rate) / self.tp + replicated / dense_rate)

    def _attention_s(self, tokens: int, attended_tokens: float, share: float, *, is_prefill: bool = False) -> float:
        """Seconds of the indexer over all earlier tokens (replicated), and of attention over those that it reads (sharded by head).

        `share`: of the BF16 rate, in attention. Decode passes, and prefill with an indexer, compute with the latent vector itself.
        """
        a, eff = self.checkpoint.architecture, self.hardware.efficiency
        bf16 = self.hardware.tflop_s["bf16"] * 1e12
        index_flops = 2.0 * attended_tokens * a.index_heads * a.index_dim / self.checkpoint.index_period
        mean = attended_tokens / max(1, tokens)
        latent = a.qk_nope_dim + a.qk_rope_dim + a.v_dim if is_prefill and not a.index_topk else 2 * a.kv_lora_rank + a.qk_rope_dim
        per_pair = 2.0 * a.heads * (2 * a.head_dim if a.kv_heads else latent)
        full = a.layers - a.linear_layers - a.window_layers
        pairs = tokens * (full * attended(a, mean) + a.window_layers * min(mean, a.window))
        linear = tokens * a.linear_layers * 6.0 * a.linear_value_heads * a.linear_dim**2  # decay, update and read of a state
        return a.layers * index_flops / (bf16 * eff.indexer) + (pairs * per_pair + linear) / self.tp / (bf16 * share)

    def _reduce_s(self, tokens: int) -> float:
        """Seconds of two ring all-reduces per layer, each of one BF16 hidden state per token."""
        a = self.checkpoint.architecture
        moved = 2 * a.layers * tokens * a.hidden * 2 * 2 * (self.tp - 1) / self.tp
        return moved / (self.hardware.scale_up_gb_s * 1e9)

    def _layer_s(self) -> float:
        eff, is_fp8 = self.hardware.efficiency, self.checkpoint.dense_precision == "fp8"
        index_s = eff.index_s + (eff.index_quantise_s if is_fp8 else 0.0) if self.checkpoint.architecture.index_topk else 0.0
        return self.passes.layer * (eff.layer_s + (eff.quantise_s if is_fp8 else 0.0) + index_s)

    def _bandwidth(self) -> float:
        return self.hardware.bandwidth_tb_s * 1e12 * self.hardware.efficiency.bandwidth


def closed_loop_s(model: StepModel, workload: Workload, concurrency: int, max_running: int, capacity_tokens: int) -> float:
    """Estimated seconds that the workload takes in a steady state at `concurrency`, including warm-ups and the last wave.

    Every running request waits for the prefills of the others, so one cycle is R prefills and the decode steps of one output.
    """
    isl, osl = workload.mean_isl_tokens, workload.mean_osl_tokens
    running = max(1, min(concurrency, max_running, int(capacity_tokens / (isl + osl / 2))))
    context = running * (isl + osl / 2)
    sparse = running * attended(model.checkpoint.architecture, isl + osl / 2)
    steps = osl / acceptance_length(model)
    decode_s = model.decode_s(running, context, sparse)
    away_s = model.host_s + (model.passes.wait * decode_s if running > 1 else 0.0)
    cycle = running * model.prefill_s(int(isl), isl * isl / 2) + steps * decode_s + away_s
    requests = workload.n_prompts(concurrency) + workload.n_warmups(concurrency)
    return cycle * (requests / running + 0.5)


def acceptance_length(model: StepModel) -> float:
    """Expected tokens per step: one, plus each draft whose predecessors were all accepted."""
    return sum(model.checkpoint.mtp_accept**k for k in range(model.speculative.steps + 1)) if model.speculative.steps else 1.0
