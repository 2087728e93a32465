"""The long soak test: `python benchmarks/soak.py [JOBS [SEED]]`, 300 node jobs of two campaigns with faults of all kinds.

`python benchmarks/soak.py nodes [JOBS [SEED]]`: 60 jobs of two and three nodes on one cluster, whose ranks, routers, nodes and jobs end.

Two clusters of tests/slurm share one file system. Site wrappers spoil the answers of Slurm's programs, and controllers lose their state.
Prints the injected faults and the result. Raises if a point was lost or measured twice, if a job was accepted twice, if the job of a
stranger was ended, or if a process is still running at the end.
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
    from soak import NodesSoak, Soak

    has_nodes = arguments[:1] == ["nodes"]
    arguments = arguments[has_nodes:]
    n_jobs = int(arguments[0]) if arguments else 60 if has_nodes else 300
    seed = int(arguments[1]) if len(arguments) > 1 else 1
    with tempfile.TemporaryDirectory(prefix="g5soak-") as folder:
        root = Path(folder) / "site"
        root.mkdir()
        clusters = [Cluster(Path(folder) / "s").up()]
        sites, began = [Site(clusters[0], root)], time.monotonic()
        try:
            if not has_nodes:
                clusters.append(Cluster(Path(folder) / "n", name="north").up())
                sites.append(Site(clusters[1], root, "d"))
            soak = (NodesSoak if has_nodes else Soak)(sites, n_jobs, seed)
            n_points = soak.run()
            took = time.monotonic() - began
            attempts = Counter(json.loads(f.read_text())["status"] for site in sites for f in site.campaign.glob("points/*.json"))
            starts = sum(len(list(site.campaign.glob("jobs/*/*/server.log"))) for site in sites)
            print(f"{n_points} points in {n_jobs} node jobs on {len(sites)} clusters, complete in {took:.0f} s")
            print("no point lost or repeated, no job accepted twice, no stranger's job ended, nothing left running")
            print(f"injected: {', '.join(f'{n} {what}' for what, n in soak.thrown.most_common())}")
            print(f"strangers' jobs: {len(soak.strangers)}; attempts: {dict(attempts)}; server logs: {starts}")
        finally:
            for site in sites:
                site.env["PATH"] = site.cluster.env["PATH"]
                site.clean_up()
            for cluster in clusters:
                cluster.down()


if __name__ == "__main__":
    main(sys.argv[1:])
