"""Compares simulated points that were measured over HTTP with the same points of the same model in virtual time.

    python benchmarks/agreement.py outputs/quickstart

The difference is the time that HTTP, the event loops and the client add at this time scale on this machine.
"""

from __future__ import annotations

import argparse

from tabulate import tabulate

from glm5bench.archive.collection import files
from glm5bench.archive.decoding import measurements
from glm5bench.archive.measurement import Measurement
from glm5bench.archive.summary import row_of
from glm5bench.errors import FileError
from glm5bench.prediction import predict, serving
from glm5bench.values.plain import from_plain
from glm5bench.values.point import Arm, Recipe


def line(m: Measurement) -> dict[str, str]:
    row, point = row_of(m, m.digest(), ""), m.point
    arm = from_plain(Arm, point["arm"])
    p = predict(serving(arm, from_plain(Recipe, point["recipe"])), arm.workload, row.concurrency, seed=row.seed)
    return {
        "arm": f"{row.series.label} x{row.series.time_scale:g}",
        "conc.": str(row.concurrency),
        "tok/s/GPU over HTTP": f"{row.total_tput_per_gpu_tok_s:.1f}",
        "virtual": f"{p.total_tput_per_gpu_tok_s:.1f}",
        "difference": f"{row.total_tput_per_gpu_tok_s / p.total_tput_per_gpu_tok_s - 1:+.1%}",
        "tok/s/user over HTTP": f"{row.interactivity_tok_s_user:.2f}",
        "virtual ": f"{p.interactivity_tok_s_user:.2f}",
        "difference ": f"{row.interactivity_tok_s_user / p.interactivity_tok_s_user - 1:+.1%}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+")
    found = {}
    for path in files(parser.parse_args().paths):
        for each in measurements(path):
            if isinstance(each, FileError):
                raise each
            if each[0] is not None and each[0].source == "simulated":
                found[each[2]] = each[0]
    lines = sorted((line(m) for m in found.values()), key=lambda line: (line["arm"], int(line["conc."])))
    print(tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
