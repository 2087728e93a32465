"""The limits of the hardware: the time of one step. Pure arithmetic on the facts of conf/.

Input: Hardware, Checkpoint, TP, speculative setting. Output: seconds. The model: a step reads the weights and the cache that it uses,
multiplies, reduces over the TP group, and needs a fixed time per layer. Reading and multiplying run at the fitted share of the spec sheet
in `Efficiency`. There are no requests and no clock in this module.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from .memory import (
    BYTES_PER_VALUE,
    INDEX_SCALE_BYTES,
    LayerValues,
    attended,
    attention_values,
    cache_values,
    draft_bytes_per_value,
    layer_values,
    state_bytes,
)
from .values.groups import Checkpoint, Hardware, Passes, Speculative
from .values.point import Arm
from .values.workload import Workload

NARROW = 512  # columns of an expert's matrices on one GPU; GEMMs of 4-bit experts with fewer were seen to be slower
GEMM_RATE = {"bf16": "bf16", "fp8": "fp8", "nvfp4": "fp4", "mxfp4": "fp4", "int4": "bf16"}  # INT4 weights are widened to BF16


@dataclass(frozen=True)
class StepModel:
    """Seconds of prefill and decode steps of one server. Bytes, FLOPs and rates are per GPU.

    With data-parallel attention, `dp` groups of `tp` / `dp` GPUs each compute attention for their own requests. Experts and dense layers
    are distributed over all `tp` GPUs.
    """

    hardware: Hardware
    checkpoint: Checkpoint
    tp: int
    speculative: Speculative
    kv_dtype: str
    passes: Passes = field(default_factory=Passes)
    decode_factor: float = 1.0  # on decode passes, from measurements of one's own
    prefill_factor: float = 1.0  # on prefill passes and the host's time
    dp: int = 1
    ep: int = 1

    @functools.cached_property
    def _layer(self) -> LayerValues:
        return layer_values(self.checkpoint.architecture)

    @functools.cached_property
    def _attention(self) -> tuple[int, int]:
        return attention_values(self.checkpoint.architecture)

    def decode_s(self, batch: int, context_tokens: float, sparse_tokens: float) -> float:
        """Seconds of one decode step of `batch` requests: drafts, and one pass that yields (or verifies) their next tokens.

        context_tokens: sum of their contexts; sparse_tokens: sum of what `attended` gives for each, the tokens that attention reads.
        Requests are spread evenly over the data-parallel groups, and all groups are padded to the fullest.
        """
        a, eff, groups = self.checkpoint.architecture, self.hardware.efficiency, self.dp
        padded = groups * -(-batch // groups) / max(1, batch)
        batch, context_tokens, sparse_tokens = round(batch * padded), context_tokens * padded, sparse_tokens * padded
        queries = self.speculative.draft_tokens if self.speculative.steps else 1
        tokens = batch * queries
        read = self._weights_s(tokens) + self._cache_s(batch, context_tokens, sparse_tokens)
        compute = self._gemm_s(tokens, eff.compute, groups) + self._attention_s(tokens, context_tokens * queries, eff.compute, groups)
        step = max(read, compute) + self._reduce_s(tokens, groups) + a.layers * self._layer_s() + tokens / groups * eff.token_s
        drafts = self.speculative.steps * self._draft_pass_s(batch)
        return self.decode_factor * (step + drafts + batch / groups * eff.request_s)

    def prefill_s(self, tokens: int, attended_tokens: float, groups: float = 1) -> float:
        """Seconds of one prefill step over `tokens` prompt tokens; attended_tokens: the sum of the number of tokens before each.

        `groups`: the number of data-parallel groups that the prompts are spread over evenly. The others wait.
        """
        a, eff = self.checkpoint.architecture, self.hardware.efficiency
        factor = self.passes.sparse_prefill if a.index_topk else 1.0
        gemm = max(self._weights_s(tokens), self._gemm_s(tokens, eff.prefill_compute, groups) * factor)
        attention = self._attention_s(tokens, attended_tokens, eff.prefill_compute, groups, is_prefill=True) * factor
        per_token_s = tokens / groups * eff.prefill_token_s * factor
        on_gpu = gemm + attention + per_token_s + self._reduce_s(tokens, groups) + a.layers * self._layer_s()
        return self.prefill_factor * max(on_gpu, a.layers * eff.eager_layer_s * self.passes.eager)

    def mixed_s(
        self, tokens: int, attended_tokens: float, batch: int, context_tokens: float, sparse_tokens: float, groups: float = 1
    ) -> float:
        """Seconds of one pass over a prefill chunk and the next tokens of `batch` decoding requests: kernels are launched once."""
        launches_s = self.checkpoint.architecture.layers * self._layer_s()
        return self.prefill_s(tokens, attended_tokens, groups) + self.decode_s(batch, context_tokens, sparse_tokens) - launches_s

    @property
    def host_s(self) -> float:
        """Seconds of a request outside forward passes."""
        return self.prefill_factor * self.hardware.efficiency.host_s

    def _draft_pass_s(self, batch: int) -> float:
        a = self.checkpoint.architecture
        v = self._layer
        touched = self.experts_touched(batch) * v.expert + v.shared + v.attention_sharded * self.dp + 2 * a.hidden * a.hidden
        sharded = touched * draft_bytes_per_value(self.checkpoint) + a.vocabulary * a.hidden * 2 * self.dp
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
        sharded += (moe_layers * v.shared + a.dense_layers * v.dense_mlp + attention * self.dp) * dense_bytes
        sharded += a.vocabulary * a.hidden * 2 * self.dp
        read_s = (sharded / self.tp + replicated * dense_bytes) / self._bandwidth()
        return read_s + moe_layers * self.experts_touched(tokens) * self._expert_s() / self.ep

    def _expert_s(self) -> float:
        eff, columns = self.hardware.efficiency, self.checkpoint.architecture.moe_intermediate * self.ep / self.tp
        is_narrow = columns < NARROW and GEMM_RATE[self.checkpoint.precision] == "fp4"
        return eff.narrow_fp4_expert_s if is_narrow else eff.expert_s

    def _cache_s(self, batch: int, context_tokens: float, sparse_tokens: float) -> float:
        """Seconds of reading the cache of `batch` requests, and of reading and writing the states of linear attention."""
        a = self.checkpoint.architecture
        full = a.layers - a.linear_layers - a.window_layers
        entries = full * sparse_tokens + a.window_layers * min(context_tokens, batch * a.window)
        cached = entries * cache_values(a, self.tp // self.dp) * BYTES_PER_VALUE[self.kv_dtype]
        keys = a.layers * context_tokens * (a.index_dim + INDEX_SCALE_BYTES) / self.checkpoint.index_period if a.index_topk else 0.0
        states = 2 * batch * state_bytes(a) / self.tp if a.linear_layers else 0.0
        return ((cached + keys) / self.dp + states) / self._bandwidth()

    def _gemm_s(self, tokens: int, share: float, groups: float) -> float:
        """Seconds of the GEMMs over `tokens` tokens, at this share of the dense rate. `groups`: as in `prefill_s`."""
        a = self.checkpoint.architecture
        v = self._layer
        moe_layers = a.layers - a.dense_layers
        routed = moe_layers * a.active_experts * v.expert
        attention, replicated = self._attention
        dense = moe_layers * v.shared + a.dense_layers * v.dense_mlp + attention * self.dp / groups
        expert_rate = GEMM_RATE[self.checkpoint.precision]
        expert_s = routed / (self.hardware.tflop_s[expert_rate] * 1e12 * share)
        dense_rate = self.hardware.tflop_s[GEMM_RATE[self.checkpoint.dense_precision]] * 1e12 * share
        return 2.0 * tokens * ((expert_s + dense / dense_rate) / self.tp + replicated / groups / dense_rate)

    def _attention_s(self, tokens: int, attended_tokens: float, share: float, groups: float, *, is_prefill: bool = False) -> float:
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
        attention_s = (pairs * per_pair + linear) * self.dp / groups / self.tp / (bf16 * share)
        return a.layers * index_flops / groups / (bf16 * eff.indexer) + attention_s

    def _reduce_s(self, tokens: int, groups: float) -> float:
        """Seconds of two ring all-reduces per layer, each of one BF16 hidden state per token.

        One follows attention, inside a data-parallel group. The other follows the experts, as a gather before them and a scatter after.
        Beyond the GPUs that a scale-up network joins, each GPU exchanges its share with other nodes. Their latency is not included.
        """
        a, group, world = self.checkpoint.architecture, self.tp // self.dp, self.hardware.scale_up_world
        each = a.layers * tokens * a.hidden * 2 * 2
        inside, across = min(self.tp, world), -(-self.tp // world)
        moved = each * (inside - 1) / inside + each / groups * (min(group, world) - 1) / min(group, world)
        beyond = each / inside * (across - 1) / across + each / groups / min(group, world) * (1 - 1 / -(-group // world))
        return moved / (self.hardware.scale_up_gb_s * 1e9) + beyond / (self.hardware.scale_out_gb_s * 1e9)

    def _layer_s(self) -> float:
        eff, is_fp8 = self.hardware.efficiency, self.checkpoint.dense_precision == "fp8"
        index_s = eff.index_s + (eff.index_quantise_s if is_fp8 else 0.0) if self.checkpoint.architecture.index_topk else 0.0
        return self.passes.layer * (eff.layer_s + (eff.quantise_s if is_fp8 else 0.0) + index_s)

    def _bandwidth(self) -> float:
        return self.hardware.bandwidth_tb_s * 1e12 * self.hardware.efficiency.bandwidth


def step_model(arm: Arm, kv_dtype: str) -> StepModel:
    """The step model of an arm."""
    return StepModel(arm.hardware, arm.checkpoint, arm.tp, arm.speculative, kv_dtype, arm.engine.passes, dp=arm.dp, ep=arm.ep)


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
    groups = min(model.dp, running)
    prefill_s = model.prefill_s(groups * int(isl), groups * isl * isl / 2, groups)
    cycle = running / groups * prefill_s + steps * decode_s + away_s
    requests = workload.n_prompts(concurrency) + workload.n_warmups(concurrency)
    return cycle * (requests / running + 0.5)


def acceptance_length(model: StepModel) -> float:
    """Expected tokens per step: one, plus each draft whose predecessors were all accepted."""
    if model.speculative.pinned is not None:
        return model.speculative.pinned
    return sum(model.checkpoint.mtp_accept**k for k in range(model.speculative.steps + 1)) if model.speculative.steps else 1.0
