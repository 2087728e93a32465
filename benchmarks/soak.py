"""The long soak test: `python benchmarks/soak.py [JOBS [SEED]]`, 300 node jobs on the Slurm of tests/slurm with faults of all kinds.

Prints the injected faults and the result. Raises if a point was lost or measured twice, or if a process is still running at the end.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "slurm"), str(ROOT / "tests")]


def main(arguments: list[str]) -> None:
    """Runs the soak test."""
    from cluster import Cluster
    from login import Site
    from soak import Soak

    n_jobs = int(arguments[0]) if arguments else 300
    seed = int(arguments[1]) if len(arguments) > 1 else 1
    with tempfile.TemporaryDirectory(prefix="g5soak-") as folder:
        root = Path(folder) / "site"
        root.mkdir()
        cluster = Cluster(Path(folder) / "s").up()
        site, began = Site(cluster, root), time.monotonic()
        try:
            soak = Soak(site, n_jobs, seed)
            n_points = soak.run()
            attempts = Counter(json.loads(f.read_text())["status"] for f in site.campaign.glob("points/*.json"))
            starts = len(list(site.campaign.glob("jobs/*/*/server.log")))
            took = time.monotonic() - began
            print(f"{n_points} points in {n_jobs} node jobs, complete in {took:.0f} s: none lost, none repeated, nothing left running")
            print(f"injected: {', '.join(f'{n} {what}' for what, n in soak.thrown.most_common())}")
            print(f"attempts: {dict(attempts)}; server logs: {starts}")
        finally:
            site.clean_up()
            cluster.down()


if __name__ == "__main__":
    main(sys.argv[1:])
