"""Rows of InferenceX's aggregate files: an object, or a list of them.

Source: utils/process_result.py of InferenceX. Times are in seconds and have no suffix. `tput_per_gpu` is total tokens per second and GPU.
X_intvty = 1000 / X_tpot in ms. If prefill and decode run on separate servers, output tokens are divided by the decode GPUs and input
tokens by the prefill GPUs; these figures get separate names. A row states neither its duration nor the number of failed requests.
"""

from __future__ import annotations

import re
from typing import Any

from .imported import Results, Told, defined, each, facts_in, figures_in, latency, metadata, metadata_words
from .reading import Entry, ForeignFile, entries

CLIENT = "InferenceX"
METRICS = {"ttft": "ttft", "tpot": "tpot", "itl": "itl_chunk", "e2el": "e2el", "itl_token": "itl_token"}
STATED = re.compile(r"(mean|median|std|p[\d.]+)_(ttft|tpot|itl|itl_token|e2el|intvty)")
TEXTS = {"hw": "hardware", "image": "image", "framework": "engine", "precision": "precision"}
COUNTS = {"isl": "isl_tokens", "osl": "osl_tokens", "conc": "concurrency"}
OTHERS = (
    "model",
    "tp",
    "spec_decoding",
    "mtp",
    "tput_per_gpu",
    "output_tput_per_gpu",
    "input_tput_per_gpu",
    "accept_length",
    "source",
    "glm5bench",
)
APART = 0.02  # allowed relative difference between input + output and the total, for rounding
OF_OTHERS = "interactivity_of_"  # prefix for statistics of TPOT other than the median
SPECULATIVE = {"none": "off", "on": "mtp", "true": "mtp", "false": "off"}
DEFINITIONS = {
    "output_tput_per_decode_gpu_tok_s": "output tokens a second over the GPUs that decode",
    "input_tput_per_prefill_gpu_tok_s": "input tokens a second over the GPUs that prefill",
}


def told(file: ForeignFile) -> Results:
    """One entry per row. Raises FileError for a file of another kind."""
    return each(entries(file, "inferencex"), _told)


def _told(entry: Entry) -> Told:
    ours = entry.child("glm5bench")
    facts, words, _ = metadata(ours)
    words |= metadata_words(entry, [*TEXTS, *COUNTS, *_LAYOUT, *OTHERS, *(key for key in entry.values if STATED.fullmatch(key))])
    split = {key: entry.count(key) for key in ("num_prefill_gpu", "num_decode_gpu") if entry.values.get(key) is not None}
    point = {**facts_in(entry, TEXTS | COUNTS), **_parallel(entry, split), **_speculative(entry), **facts}
    stated = figures_in(entry, _throughputs(is_split=bool(split) or _is_divided_apart(entry))) | _latencies(entry)
    if (
        "input_tput_per_gpu" not in entry.values
        and not split
        and {"total_tput_per_gpu_tok_s", "output_tput_per_gpu_tok_s"} <= stated.keys()
    ):
        stated["input_tput_per_gpu_tok_s"] = max(0.0, stated["total_tput_per_gpu_tok_s"] - stated["output_tput_per_gpu_tok_s"])
    model = entry.text("model")
    layout = {key: entry.values[key] for key in _LAYOUT if isinstance(entry.values.get(key), str | int | bool)}
    return Told(
        client=CLIENT,
        entry=entry.index,
        point=point,
        guessed={name: model for name in ("model", "checkpoint") if model and name not in point},
        stated=stated,
        definitions=defined(stated, DEFINITIONS | {n: _interactivity_note(n) for n in stated if n.startswith(OF_OTHERS)}, CLIENT),
        provenance={"layout": layout} | ({"metadata": words} if words else {}),
        source=_source(entry),
    )


_LAYOUT = (
    "ep", "dp_attention", "disagg", "is_multinode", "infmax_model_prefix", "prefill_tp", "prefill_ep", "prefill_dp_attention",
    "prefill_num_workers", "decode_tp", "decode_ep", "decode_dp_attention", "decode_num_workers", "num_prefill_gpu", "num_decode_gpu",
)  # fmt: skip


def _parallel(entry: Entry, split: dict[str, int | None]) -> dict[str, Any]:
    """The GPUs by which the row was divided: tp of one server, or all prefill and decode GPUs. The variant identifies a split row."""
    if not split:
        tp = facts_in(entry, {"tp": "tp"})
        return {**tp, "gpus": tp["tp"]} if tp else {}
    prefill, decode = (split.get(key) or 0 for key in ("num_prefill_gpu", "num_decode_gpu"))
    if not prefill + decode:
        raise entry.error("The row is split into prefill and decode but has no GPUs")
    return {"gpus": prefill + decode, "variant": f"prefill_gpus={prefill} decode_gpus={decode}"}


def _speculative(entry: Entry) -> dict[str, Any]:
    word = entry.text("spec_decoding") or entry.text("mtp")  # older rows have mtp
    return {"speculative": SPECULATIVE.get(word, word)} if word else {}


def _is_divided_apart(entry: Entry) -> bool:
    """Whether input and output tokens were divided by different numbers of GPUs: their sum is then not the total."""
    total, output, input_ = (entry.number(f"{kind}tput_per_gpu") for kind in ("", "output_", "input_"))
    return total is not None and output is not None and input_ is not None and abs(output + input_ - total) > APART * total


def _throughputs(*, is_split: bool) -> dict[str, str]:
    names = {"tput_per_gpu": "total_tput_per_gpu_tok_s", "accept_length": "acceptance_length"}
    if is_split:
        return names | {"output_tput_per_gpu": "output_tput_per_decode_gpu_tok_s", "input_tput_per_gpu": "input_tput_per_prefill_gpu_tok_s"}
    return names | {"output_tput_per_gpu": "output_tput_per_gpu_tok_s", "input_tput_per_gpu": "input_tput_per_gpu_tok_s"}


def _latencies(entry: Entry) -> dict[str, float]:
    found = {}
    for match in filter(None, map(STATED.fullmatch, entry.values)):
        statistic, metric = match[1], match[2]
        number = entry.number(match[0])
        if number is None or match[0] == "std_intvty":  # the inverse of a standard deviation has no meaning
            continue
        try:
            found[_interactivity(statistic) if metric == "intvty" else latency(METRICS[metric], statistic)] = number
        except ValueError as error:
            raise entry.error(f"{match[0]}: {error}") from error
    return found


def _interactivity(statistic: str) -> str:
    return "interactivity_tok_s_user" if statistic == "median" else f"{OF_OTHERS}{statistic}_tpot_tok_s_user"


def _interactivity_note(name: str) -> str:
    return f"1 / {name.removeprefix(OF_OTHERS).removesuffix('_tok_s_user').replace('_', ' ')}"


def _source(entry: Entry) -> str | None:
    source = entry.text("source")
    return source if source in ("measured", "simulated", "published") else None
