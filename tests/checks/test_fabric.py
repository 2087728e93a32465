"""What the checks of a node find out about the network between nodes."""

import pytest
from conftest import compose

from glm5bench.checks.machine import fabric

PD = compose("hardware=b200", "speculative=off", "roles=pd").arm


@pytest.fixture
def sys_(tmp_path):
    """A sysfs with two RDMA devices, of which one port is not connected."""
    for device, state in (("mlx5_0", "4: ACTIVE"), ("mlx5_1", "1: DOWN")):
        port = tmp_path / "class" / "infiniband" / device / "ports" / "1"
        port.mkdir(parents=True)
        (port / "state").write_text(f"{state}\n")
    return tmp_path


def told(arm, sys_):
    return {f.what: (f.is_well, f.said, f.next_step) for f in fabric(arm, sys_)}


def test_an_inactive_port_is_named_with_the_way_to_avoid_it(sys_):
    well, said, step = told(PD, sys_)["RDMA"]

    assert well is None
    assert said == "active: mlx5_0:1; inactive: mlx5_1:1"
    assert "--disaggregation-ib-device" in step


def test_a_fabric_with_active_ports_only_is_well(sys_):
    (sys_ / "class" / "infiniband" / "mlx5_1" / "ports" / "1" / "state").write_text("4: ACTIVE\n")

    assert told(PD, sys_)["RDMA"][0] is True


def test_a_node_without_rdma_is_told(tmp_path):
    assert "no RDMA device" in told(PD, tmp_path)["RDMA"][1]


def test_a_missing_module_that_lets_rdma_read_gpu_memory_is_told(sys_):
    assert "every transfer fails" in told(PD, sys_)["nvidia_peermem"][1]
    (sys_ / "module" / "nvidia_peermem").mkdir(parents=True)
    assert "nvidia_peermem" not in told(PD, sys_)
    assert "nvidia_peermem" not in told(compose("hardware=mi355x", "speculative=off", "roles=pd").arm, sys_)
