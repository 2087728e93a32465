"""The short soak: what the long one does with 300 jobs, `python tests/slurm/soak.py`, with as many as CI has time for."""

from soak import Soak


def test_a_campaign_under_random_faults_ends_complete_with_nothing_lost_and_nothing_doubled(site):
    soak = Soak(site, n_jobs=24, seed=7)

    assert soak.run() == 48
    assert sum(soak.thrown.values()) > 5
