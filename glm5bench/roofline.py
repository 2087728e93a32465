"""The limits of the hardware: memory fit, KV capacity and the time of one step. Pure arithmetic on the facts of conf/.

Input: Hardware, Checkpoint, TP, speculative setting. Output: bytes, tokens and seconds per GPU. The model: a step reads the weights and
the cache that it uses, multiplies, reduces over the TP group, and needs a fixed time per layer. Reading and multiplying run at the fitted
share of the spec sheet in `Efficiency`. There are no requests and no clock in this module.

Sizes are binary (GiB = 2**30 bytes): HBM "GB" on data sheets and the sizes in the recipes are binary within 0.6 % (docs/facts.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from .values.groups import Architecture, Checkpoint, Hardware, Speculative
from .values.point import Arm
from .values.workload import Workload

GIB = 2**30
INDEX_SCALE_BYTES = 4  # one FP32 scale for each key of the indexer
BYTES_PER_VALUE = {"bf16": 2.0, "fp8": 1.0, "nvfp4": 0.5 + 1 / 16, "mxfp4": 0.5 + 1 / 32}
GEMM_RATE = {"bf16": "bf16", "fp8": "fp8", "nvfp4": "fp4", "mxfp4": "fp4"}


@dataclass(frozen=True)
class LayerValues:
    """Numbers of weights in one layer, grouped by how tensor parallelism distributes them."""

    expert: int
    shared: int
    attention_sharded: int
    attention_replicated: int
    dense_mlp: int


def layer_values(a: Architecture) -> LayerValues:
    """Weights of one layer. Multi-head latent attention is sharded by head; down projections, indexer and router are replicated."""
    by_head = a.heads * (a.q_lora_rank * (a.qk_nope_dim + a.qk_rope_dim) + a.kv_lora_rank * (a.qk_nope_dim + a.v_dim) + a.v_dim * a.hidden)
    indexer = a.q_lora_rank * a.index_heads * a.index_dim + a.hidden * (a.index_dim + a.index_heads)
    down = a.hidden * (a.q_lora_rank + a.kv_lora_rank + a.qk_rope_dim)
    return LayerValues(
        expert=3 * a.hidden * a.moe_intermediate,
        shared=3 * a.hidden * a.moe_intermediate * a.shared_experts,
        attention_sharded=by_head,
        attention_replicated=down + indexer + a.hidden * a.routed_experts,
        dense_mlp=3 * a.hidden * a.dense_intermediate,
    )


def total_parameters(a: Architecture, *, draft: bool) -> int:
    """All weights of the model, including its draft layers if `draft`. GLM-5: 744e9 without, 754e9 with."""
    v = layer_values(a)
    attention = v.attention_sharded + v.attention_replicated
    moe = attention + v.expert * a.routed_experts + v.shared
    main = (a.layers - a.dense_layers) * moe + a.dense_layers * (attention + v.dense_mlp) + 2 * a.vocabulary * a.hidden
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
    replicated = a.layers * layer_values(a).attention_replicated * dense / GIB
    draft_gib = checkpoint.mtp_layers * draft_layer_parameters(a) * draft_bytes_per_value(checkpoint) / GIB
    loaded = checkpoint.weights_gib - (0.0 if draft else draft_gib)
    return (loaded - replicated) / tp + replicated


def kv_bytes_per_token(checkpoint: Checkpoint, kv_dtype: str, *, draft: bool) -> float:
    """Bytes that one token uses in the cache of every GPU of the TP group: the cache of latent attention is not sharded.

    Each layer stores the latent and rotary parts in `kv_dtype`, and the indexer's key in FP8 with its scale.
    """
    a = checkpoint.architecture
    layers = a.layers + (a.mtp_layers if draft else 0)
    latent = (a.kv_lora_rank + a.qk_rope_dim) * BYTES_PER_VALUE[kv_dtype]
    return layers * (latent + a.index_dim + INDEX_SCALE_BYTES)


def kv_capacity_tokens(checkpoint: Checkpoint, kv_gib: float, kv_dtype: str, *, draft: bool, page_tokens: int = 64) -> int:
    """Tokens that fit in `kv_gib` per GPU, in whole pages. vLLM's 64.49 GiB of BF16 cache for GLM-5 hold 691,392 (docs/memory.md)."""
    page = kv_bytes_per_token(checkpoint, kv_dtype, draft=draft) * page_tokens
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


def memory_fit(arm: Arm, *, fraction: float, kv_dtype: str) -> MemoryFit:
    """Weights as loaded, workspace and KV cache within the memory fraction of one GPU's HBM."""
    draft = arm.speculative.steps > 0
    weights = weights_per_gpu_gib(arm.checkpoint, arm.tp, draft=draft)
    kv = arm.hardware.memory_gib * fraction - weights - arm.engine.workspace_gib
    capacity = kv_capacity_tokens(arm.checkpoint, kv, kv_dtype, draft=draft)
    return MemoryFit(arm.hardware.memory_gib, fraction, weights, arm.engine.workspace_gib, max(0.0, kv), kv_dtype, capacity)


@dataclass(frozen=True)
class StepModel:
    """Seconds of prefill and decode steps of one server. Bytes, FLOPs and rates are per GPU."""

    hardware: Hardware
    checkpoint: Checkpoint
    tp: int
    speculative: Speculative
    kv_dtype: str

    def decode_s(self, batch: int, context_tokens: float, sparse_tokens: float) -> float:
        """Seconds of one decode step of `batch` requests: drafts, and one pass that yields (or verifies) their next tokens.

        context_tokens: sum of their contexts; sparse_tokens: sum of min(context, top-k), the tokens that attention reads.
        """
        queries = self.speculative.draft_tokens if self.speculative.steps else 1
        step = self._pass_s(batch * queries, context_tokens, sparse_tokens, queries)
        return step + self.speculative.steps * self._draft_pass_s(batch)

    def prefill_s(self, tokens: int, attended_tokens: float) -> float:
        """Seconds of one prefill step over `tokens` prompt tokens; attended_tokens: the sum of the number of tokens before each."""
        a = self.checkpoint.architecture
        weights = self._weights_s(tokens)
        gemm = max(weights, self._gemm_s(tokens))
        return gemm + self._attention_s(tokens, attended_tokens) + self._reduce_s(tokens) + a.layers * self._layer_s()

    def _pass_s(self, tokens: int, context_tokens: float, sparse_tokens: float, queries: int) -> float:
        a = self.checkpoint.architecture
        read = self._weights_s(tokens) + self._cache_s(context_tokens, sparse_tokens)
        compute = self._gemm_s(tokens) + self._attention_s(tokens, context_tokens * queries)
        return max(read, compute) + self._reduce_s(tokens) + a.layers * self._layer_s()

    def _draft_pass_s(self, batch: int) -> float:
        a = self.checkpoint.architecture
        v = layer_values(a)
        touched = self.experts_touched(batch) * v.expert + v.shared + v.attention_sharded + 2 * a.hidden * a.hidden
        sharded = touched * draft_bytes_per_value(self.checkpoint) + a.vocabulary * a.hidden * 2
        return sharded / self.tp / self._bandwidth() + self._layer_s()

    def experts_touched(self, tokens: int) -> float:
        """Expected number of distinct experts that `tokens` tokens are routed to, if routing is uniform."""
        a = self.checkpoint.architecture
        return a.routed_experts * (1.0 - (1.0 - a.active_experts / a.routed_experts) ** tokens)

    def _weights_s(self, tokens: int) -> float:
        a = self.checkpoint.architecture
        v = layer_values(a)
        expert_bytes, dense_bytes = BYTES_PER_VALUE[self.checkpoint.precision], BYTES_PER_VALUE[self.checkpoint.dense_precision]
        moe_layers = a.layers - a.dense_layers
        sharded = moe_layers * self.experts_touched(tokens) * v.expert * expert_bytes
        sharded += (moe_layers * v.shared + a.dense_layers * v.dense_mlp + a.layers * v.attention_sharded) * dense_bytes
        sharded += a.vocabulary * a.hidden * 2
        return (sharded / self.tp + a.layers * v.attention_replicated * dense_bytes) / self._bandwidth()

    def _cache_s(self, context_tokens: float, sparse_tokens: float) -> float:
        a = self.checkpoint.architecture
        latent = sparse_tokens * (a.kv_lora_rank + a.qk_rope_dim) * BYTES_PER_VALUE[self.kv_dtype]
        keys = context_tokens * (a.index_dim + INDEX_SCALE_BYTES) / self.checkpoint.index_period
        return a.layers * (latent + keys) / self._bandwidth()

    def _gemm_s(self, tokens: int) -> float:
        a, eff = self.checkpoint.architecture, self.hardware.efficiency
        v = layer_values(a)
        moe_layers = a.layers - a.dense_layers
        routed = moe_layers * a.active_experts * v.expert
        dense = moe_layers * v.shared + a.dense_layers * v.dense_mlp + a.layers * v.attention_sharded
        expert_rate = GEMM_RATE[self.checkpoint.precision]
        expert_s = routed / (self.hardware.tflop_s[expert_rate] * 1e12 * eff.compute)
        dense_rate = self.hardware.tflop_s[GEMM_RATE[self.checkpoint.dense_precision]] * 1e12 * eff.compute
        return 2.0 * tokens * ((expert_s + dense / dense_rate) / self.tp + a.layers * v.attention_replicated / dense_rate)

    def _attention_s(self, tokens: int, attended_tokens: float) -> float:
        """Seconds of the indexer over all earlier tokens (replicated), and of attention over at most top-k of them (sharded by head)."""
        a, eff = self.checkpoint.architecture, self.hardware.efficiency
        bf16 = self.hardware.tflop_s["bf16"] * 1e12
        index_flops = 2.0 * attended_tokens * a.index_heads * a.index_dim / self.checkpoint.index_period
        mean = attended_tokens / max(1, tokens)
        sparse = tokens * min(mean, a.index_topk)
        attend_flops = 2.0 * sparse * a.heads * (2 * a.kv_lora_rank + a.qk_rope_dim) / self.tp
        return a.layers * (index_flops / (bf16 * eff.indexer) + attend_flops / (bf16 * eff.compute))

    def _reduce_s(self, tokens: int) -> float:
        """Seconds of two ring all-reduces per layer, each of one BF16 hidden state per token."""
        a = self.checkpoint.architecture
        moved = 2 * a.layers * tokens * a.hidden * 2 * 2 * (self.tp - 1) / self.tp
        return moved / (self.hardware.scale_up_gb_s * 1e9)

    def _layer_s(self) -> float:
        eff = self.hardware.efficiency
        return eff.layer_s + (eff.quantise_s if self.checkpoint.dense_precision == "fp8" else 0.0)

    def _bandwidth(self) -> float:
        return self.hardware.bandwidth_tb_s * 1e12 * self.hardware.efficiency.bandwidth


def closed_loop_s(model: StepModel, workload: Workload, concurrency: int, max_running: int, capacity_tokens: int) -> float:
    """Estimated seconds that the workload takes in a steady state at `concurrency`, including warm-ups and the last wave.

    Every running request waits for the prefills of the others, so one cycle is R prefills and the decode steps of one output.
    """
    isl, osl = workload.mean_isl_tokens, workload.mean_osl_tokens
    running = max(1, min(concurrency, max_running, int(capacity_tokens / (isl + osl / 2))))
    context = running * (isl + osl / 2)
    sparse = running * min(isl + osl / 2, model.checkpoint.architecture.index_topk)
    steps = osl / acceptance_length(model)
    cycle = running * model.prefill_s(int(isl), isl * isl / 2) + steps * model.decode_s(running, context, sparse)
    requests = workload.n_prompts(concurrency) + workload.n_warmups(concurrency)
    return cycle * (requests / running + 0.5)


def acceptance_length(model: StepModel) -> float:
    """Expected tokens per step: one, plus each draft whose predecessors were all accepted."""
    return sum(model.checkpoint.mtp_accept**k for k in range(model.speculative.steps + 1)) if model.speculative.steps else 1.0
