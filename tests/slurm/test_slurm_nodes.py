"""Systems of several servers on the real Slurm: one Slurm job of N nodes, which a leader and its members serve together."""

import json
import os
import signal
from pathlib import Path

import pytest
from login import CLUSTER, LONG, SMALL
from program import BUSY

from glm5bench.archive.decoding import measurements
from glm5bench.machine.programs import has_module

ANYWHERE = "failure.classes.node_fault.again=anywhere"  # the partitions have only two nodes
WIDE = ("hardware=h200", "roles=wide", "tp=16", "speculative=off")  # one server on two nodes
SPLIT = ("hardware=b200", "checkpoint=glm5_nvfp4", "speculative=off", "roles=pd", "roles.prefill.tp=8", "roles.decode.workers=2",
         "roles.decode.tp=4")  # a node that prefills, and one that two decode workers share  # fmt: skip


@pytest.fixture
def nodes(site):
    """A site whose nodes reach each other on loopback."""
    (site.root / "conf" / "cluster" / "test.yaml").write_text(CLUSTER + "interface: lo\n")
    return site


def points(site):
    """The measurements by concurrency."""
    read = [m for path in site.campaign.glob("points/*.h5") for m, *_ in measurements(path)]
    return {m.point["concurrency"]: m for m in read}


def failures(site):
    """(class, node) of every failed attempt."""
    lines = [json.loads(line) for path in site.campaign.glob("jobs/*/attempts.jsonl") for line in path.read_text().splitlines()]
    return [(line["class"], line["node"]) for line in lines if line["status"] == "failed"]


def kill(site, folder):
    """Kills the server whose guard keeps this folder clean."""
    (guard,) = [pid for pid, line in site.processes("guard.py").items() if f"/{folder} " in line]
    (server,) = map(int, Path(f"/proc/{guard}/task/{guard}/children").read_text().split())
    os.kill(server, signal.SIGKILL)


def members(site):
    """The job processes on other nodes than the first."""
    return [pid for pid in site.job_pythons() if b"SLURM_PROCID=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]


def test_one_server_over_two_nodes_goes_from_conf_to_a_table(nodes):
    nodes.sweep(*SMALL, *WIDE, "concurrency=2,4")
    nodes.assert_complete(2)
    m = points(nodes)[4]

    assert (m.point["gpus"], m.point["nodes"], m.point["tp"]) == (16, 2, 16)
    assert [host["node"] for host in m.provenance["hosts"]] == ["h200-1", "h200-2"]
    assert {p["host"] for p in m.provenance["placements"]} == {"h200-1", "h200-2"}
    assert "==== server-0.1 on h200-2 ====" in m.log
    assert "rank 1 joined" in m.log
    assert {"few_waves"} <= set(m.verdict().codes) <= {"few_waves", *BUSY}, m.verdict()
    assert "16" in nodes.bench("tables", str(nodes.campaign)).stdout


def test_prefill_and_decode_workers_behind_the_real_router_go_through_its_death_to_a_table(nodes):
    assert has_module(nodes.job_executable(), "sglang_router")
    nodes.sweep(*LONG, *SPLIT, "concurrency=2,4,8")
    nodes.measuring()
    kill(nodes, "router")
    nodes.over()
    for _ in range(3):  # other systems of tests on this machine may take a port meanwhile
        if len(nodes.whole()) < 3:
            nodes.resubmit()
            nodes.over()
    nodes.assert_complete(3)
    m = points(nodes)[8]

    assert failures(nodes)[0] == ("server_crash", "b200-1")
    assert (m.point["gpus"], m.point["nodes"], m.point["endpoint"]) == (16, 2, "generate")
    assert [r["role"] for r in m.point["recipe"]["roles"]] == ["prefill", "decode"]
    assert {p["host"] for p in m.provenance["placements"] if p["role"] == "decode"} == {"b200-2"}
    assert "power_gpu_missing" not in m.verdict().codes  # the GPUs of both nodes were read
    assert len(set(m.devices)) == 16
    assert all(f"==== {name} on" in m.log for name in ("prefill-0.0", "decode-0.0", "decode-1.0", "router"))
    assert "P1xtp8+D2xtp4" in nodes.bench("tables", str(nodes.campaign)).stdout


def test_a_rank_that_dies_is_a_fault_of_its_node_and_the_server_is_started_again(nodes):
    nodes.sweep(*LONG, *WIDE, "concurrency=2,4")
    nodes.measuring()
    kill(nodes, "server-0.1")
    nodes.over()
    nodes.resubmit()
    nodes.assert_complete(2)

    assert failures(nodes) == [("server_crash", "h200-2")]


def test_a_node_whose_power_fails_ends_the_job_and_its_points_are_measured_by_the_next_one(nodes):
    nodes.sweep(*LONG, *WIDE, ANYWHERE, "concurrency=2,4,8")
    nodes.until(nodes.whole, 90, "a point")
    nodes.measuring()
    nodes.cluster.kill_node("h200-2")
    try:
        nodes.over()
        nodes.until(lambda: not nodes.processes(), 30, "the end of all processes")
        kept = nodes.whole()
    finally:
        nodes.cluster.start_node("h200-2")
        nodes.cluster.run("scontrol", "update", "NodeName=h200-2", "State=RESUME", check=False)

    assert kept
    assert failures(nodes) == [("node_fault", "h200-2")]
    nodes.until(lambda: "idle" in nodes.cluster.run("sinfo", "-h", "-n", "h200-2", "-o", "%T"), 90, "a node that is idle")
    nodes.resubmit()
    nodes.assert_complete(3)
    assert kept.items() <= nodes.whole().items()


def test_a_cancelled_job_leaves_no_process_on_any_node_and_a_killed_member_loses_no_point(nodes):
    nodes.sweep(*LONG, *SPLIT, ANYWHERE, "concurrency=2,4")
    nodes.measuring()
    for pid in members(nodes):
        os.kill(pid, signal.SIGKILL)
    nodes.over()
    assert failures(nodes) == [("node_fault", "b200-2")]

    nodes.resubmit()
    nodes.measuring()
    nodes.bench("cancel", str(nodes.campaign))
    nodes.over()
    nodes.until(lambda: not nodes.processes(), 20, "the end of all processes")

    nodes.sweep(*LONG, *SPLIT, ANYWHERE, "concurrency=2,4")
    nodes.assert_complete(2)
