"""Results that other tools wrote, one file of each format."""

from program import TESTS

DATA = TESTS / "data" / "foreign"
FILES = [
    ("vllm", "vllm/plain.json"), ("vllm", "vllm/detailed.json"), ("vllm", "vllm/rate.json"),
    ("sglang", "sglang/native.jsonl"), ("sglang", "sglang/oai.jsonl"), ("sglang", "sglang/oai_speculative.jsonl"),
    ("sglang", "sglang/rust.jsonl"), ("inferencex", "inferencex/agg.json"),
    ("aiperf", "aiperf/profile_export_aiperf.json"), ("aiperf", "aiperf/profile_export.jsonl"), ("guidellm", "guidellm/guidellm.json"),
]  # fmt: skip
