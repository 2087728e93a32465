"""The short version of the soak test, with as few jobs as CI has time for. The long version (`python benchmarks/soak.py`) has 300 jobs."""

from soak import Soak


def test_a_campaign_under_random_faults_ends_complete_with_nothing_lost_and_nothing_doubled(site):
    soak = Soak([site], n_jobs=24, seed=7)

    assert soak.run() == 48
    assert sum(soak.thrown.values()) > 5
