"""Fields that are the same in the results of vLLM's and SGLang's serving benchmarks, because one tool is derived from the other."""

from __future__ import annotations

FIGURES = {
    "duration": "duration_s",
    "total_input_tokens": "prompt_tokens",
    "total_output_tokens": "output_tokens",
    "request_throughput": "request_rate_rps",
    "output_throughput": "output_tput_tok_s",
}  # theirs: ours
