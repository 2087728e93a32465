"""What a server holds in the memory of its GPUs: weights, KV cache and states. Pure arithmetic on the facts of conf/.

Sizes are binary (GiB = 2**30 bytes): HBM "GB" on data sheets and the sizes in the recipes are binary within 0.6 % (docs/facts.md).
Source: docs/memory.md.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from .values.groups import Architecture, Checkpoint
from .values.point import Arm

GIB = 2**30
INDEX_SCALE_BYTES = 4  # one FP32 scale for each key of the indexer
BYTES_PER_VALUE = {"bf16": 2.0, "fp8": 1.0, "nvfp4": 0.5 + 1 / 16, "mxfp4": 0.5 + 1 / 32, "int4": 0.5 + 2 / 32}  # with their scales


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


def weights_per_gpu_gib(checkpoint: Checkpoint, tp: int, *, draft: bool, dp: int = 1) -> float:
    """Weights that one GPU loads: its shard, and a full copy of what tensor parallelism replicates.

    With data-parallel attention, each of `dp` groups has its own attention weights, embeddings and output projection.
    The size on disk is the published one. It includes the draft layers if the checkpoint has any; these are loaded only with speculation.
    """
    a = checkpoint.architecture
    dense = BYTES_PER_VALUE[checkpoint.dense_precision]
    sharded, copied = attention_values(a)
    replicated = copied * dense / GIB
    grouped = (sharded * dense + 2 * a.vocabulary * a.hidden * BYTES_PER_VALUE["bf16"]) / GIB if dp > 1 else 0.0
    draft_gib = checkpoint.mtp_layers * draft_layer_parameters(a) * draft_bytes_per_value(checkpoint) / GIB
    loaded = checkpoint.weights_gib - (0.0 if draft else draft_gib)
    return (loaded - replicated - grouped) / tp + grouped * dp / tp + replicated


def cache_values(a: Architecture, tp: int) -> float:
    """Values that one token needs in the cache of one layer on one GPU. Grouped heads are sharded; the latent vector is not."""
    return 2 * a.kv_heads * a.head_dim / min(tp, a.kv_heads) if a.kv_heads else a.kv_lora_rank + a.qk_rope_dim


def kv_bytes_per_token(checkpoint: Checkpoint, kv_dtype: str, *, draft: bool, tp: int = 1, shares_index: bool = False) -> float:
    """Bytes that one token uses in the cache of every GPU of the TP group.

    Each layer stores keys and values (or their latent vector) in `kv_dtype`, and the key of an indexer in FP8 with its scale. Layers with
    linear attention store nothing. Layers with a window are counted like the others, because engines allocate one pool.
    `shares_index`: the engine stores no key for layers that use the index of another layer.
    """
    a = checkpoint.architecture
    drafting = a.mtp_layers if draft else 0
    layers = a.layers - a.linear_layers + drafting
    keyed = a.index_layers + drafting if shares_index and a.index_layers else layers
    key = a.index_dim + INDEX_SCALE_BYTES if a.index_topk else 0
    return layers * cache_values(a, tp) * BYTES_PER_VALUE[kv_dtype] + keyed * key


def kv_capacity_tokens(
    checkpoint: Checkpoint, kv_gib: float, kv_dtype: str, *, draft: bool, tp: int = 1, page_tokens: int = 64, shares_index: bool = False
) -> int:
    """Tokens that fit in `kv_gib` per GPU, in whole pages. vLLM's 64.49 GiB of BF16 cache for GLM-5 hold 691,392 (docs/memory.md)."""
    page = kv_bytes_per_token(checkpoint, kv_dtype, draft=draft, tp=tp, shares_index=shares_index) * page_tokens
    return max(0, int(kv_gib * GIB // page)) * page_tokens


@dataclass(frozen=True)
class MemoryFit:
    """The use of one GPU's memory in GiB, and the capacity of the KV cache in tokens, of all data-parallel groups together."""

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


def memory_fit(arm: Arm, *, fraction: float, kv_dtype: str, running: int = 1, shares_index: bool = False) -> MemoryFit:
    """Weights as loaded, workspace and KV cache within the memory fraction of one GPU's HBM.

    `running`: requests that the server admits at once. Linear attention keeps a state for each, which the KV cache has to leave room for.
    `shares_index`: as in `kv_bytes_per_token`.
    """
    draft = arm.speculative.steps > 0
    weights = weights_per_gpu_gib(arm.checkpoint, arm.tp, draft=draft, dp=arm.dp)
    states = running * state_bytes(arm.checkpoint.architecture) / arm.tp / GIB
    kv = arm.hardware.memory_gib * fraction - weights - arm.engine.workspace_gib - states
    capacity = arm.dp * kv_capacity_tokens(arm.checkpoint, kv, kv_dtype, draft=draft, tp=arm.attention_tp, shares_index=shares_index)
    return MemoryFit(arm.hardware.memory_gib, fraction, weights, arm.engine.workspace_gib, max(0.0, kv), kv_dtype, capacity)
