"""Servers over several nodes on the real Slurm: one Slurm job of N nodes, with a leader and members."""

import json

import h5py
from login import CLUSTER, SMALL

WIDE = (*SMALL, "hardware=h200", "roles=wide", "tp=16", "speculative=off", "concurrency=2,4")


def of_loopback(site):
    """The site's cluster, whose nodes reach each other on loopback."""
    (site.root / "conf" / "cluster" / "test.yaml").write_text(CLUSTER + "interface: lo\n")
    return site


def record(site):
    """The record of the first point file."""
    with h5py.File(next(iter(sorted(site.campaign.glob("points/*.h5")))), "r") as file:
        return {name: json.loads(file[name][()]) for name in ("point", "provenance", "server")}


def test_one_server_over_two_nodes_goes_from_conf_to_a_table(site):
    of_loopback(site).sweep(*WIDE)
    site.assert_complete(2)
    tables = site.bench("tables", str(site.campaign)).stdout

    assert "tp16" in tables or "16" in tables
