"""Fields that results of vLLM's and of SGLang's serving benchmark have in common, the one being the other's descendant."""

from __future__ import annotations

FIGURES = {
    "duration": "duration_s",
    "total_input_tokens": "prompt_tokens",
    "total_output_tokens": "output_tokens",
    "request_throughput": "request_rate_rps",
    "output_throughput": "output_tput_tok_s",
}  # theirs: ours
