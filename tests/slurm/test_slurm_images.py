"""A complete node job with Apptainer under a real Slurm: the server runs in an image on a node, and the job runs outside it."""

import os

import pytest
from contained import ENV, contained, python_path
from login import LONG, SMALL

from glm5bench.archive.pointfile import read_point


@pytest.fixture
def inside(simulated_image):
    """Overrides and environment variables for servers that run from an image."""
    return contained(simulated_image, "simulated.sif"), {**ENV, "PYTHONPATH": python_path()}


def test_a_node_job_measures_a_server_in_an_image_on_a_node_of_slurm_s(site, inside):
    asked, shell = inside
    path = f"{ENV['PATH']}{os.pathsep}{site.env['PATH']}"
    site.sweep(*SMALL, *asked, "hardware=h200", "concurrency=2,3", **{**shell, "PATH": path})

    site.assert_complete(2)
    made = [read_point(f)[0].provenance for f in site.campaign.glob("points/*.h5")]
    assert {m["container"].rpartition("/")[2] for m in made} == {"simulated.sif"}
    assert {m["host"].rpartition("-")[0] for m in made} == {"h200"}


def test_a_job_that_is_cancelled_ends_the_image_that_its_server_runs_from(site, inside):
    asked, shell = inside
    path = f"{ENV['PATH']}{os.pathsep}{site.env['PATH']}"
    site.sweep(*LONG, *asked, "hardware=h200", "concurrency=2,3", "workload.prompts_per_concurrency=40", **{**shell, "PATH": path})
    site.measuring()
    assert site.processes("glm5bench.simulator")
    done = site.bench("cancel", str(site.campaign))

    assert done.returncode == 0, done.stderr
    site.until(lambda: not site.processes(), 30, "the end of every process")
