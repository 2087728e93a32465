"""Points of the step model as a table: figures with the error of their class of question."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate


def predicted_text(rows: Sequence[Mapping[str, Any]], width: int = 140) -> str:
    """A table for each arm, and what the bands mean. `rows`: as `glm5bench predict --json` gives them."""
    parts = ["From the step model; nothing was measured. ±: the error of 9 in 10 published rows of this class. *: on the GPU's frontier."]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        first = own[0]
        error = {name: "±?" if value is None else f"±{100 * value:.0f} %" for name, value in first["error_p90"].items()}
        table = [
            {
                "concurrency": f"{row['concurrency']}{'*' if row['is_on_frontier'] else ''}",
                f"TTFT ms {error['ttft']}": f"{1e3 * row['ttft_median_s']:,.0f}",
                f"TPOT ms {error['tpot']}": f"{1e3 * row['tpot_median_s']:.2f}",
                f"tok/s/user {error['tput']}": f"{row['interactivity_tok_s_user']:.1f}",
                f"tok/s/GPU {error['tput']}": f"{row['total_tput_per_gpu_tok_s']:,.0f}",
                f"$/M tokens {error['tput']}": f"{row['cost_usd_per_mtok']:.3f}",
                "running": f"{row['running_mean']:.0f}",
            }
            for row in own
        ]
        heads = [head.rpartition(" ±")[0] + "\n±" + head.rpartition(" ±")[2] if " ±" in head else head for head in table[0]]
        cells = [list(row.values()) for row in table]
        parts += [
            "",
            f"{arm}",
            tabulate(cells, headers=heads, tablefmt="plain", disable_numparse=True, stralign="right"),
            *_wrapped(f"{first['class']}: {first['meaning']}.", width),
            *_wrapped(
                f"memory per GPU: weights {first['weights_gib_per_gpu']:.1f} GiB, KV cache {first['kv_cache_gib_per_gpu']:.1f} GiB"
                f" = {first['kv_cache_tokens']:,} tokens; at most {first['max_running']} requests run",
                width,
            ),
        ]
    parts += ["", "TTFT, TPOT: medians. tok/s/GPU and $/M tokens count prompt and output tokens. running: mean number of running requests."]
    return "\n".join(parts)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
