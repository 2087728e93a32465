"""A merge with one Slurm job per shard."""

from conftest import measured

from glm5bench.archive.collection import collect
from glm5bench.archive.pointfile import write_point


def points(site, n=6):
    for i in range(n):
        write_point(site.root / "points" / f"{i}.h5", measured(f"{i:020d}", hardware=("b200", "h200")[i % 2]))


def on_slurm(site, *more):
    ask = "partition=h200,cpus_per_task=2,mem=1G,time=10"
    return site.bench("merge", "points", "-o", "all.h5", "--on", "slurm", "--shards", "3", "--ask", ask, *more)


def test_shards_through_slurm_have_the_digest_of_one_merge(site):
    points(site)
    done = on_slurm(site)

    assert done.returncode == 0, done.stderr
    assert collect([str(site.root / "all.h5")]).digest() == collect([str(site.root / "points")]).digest()
    assert sorted(p.name for p in site.root.iterdir()) == ["all.h5", "conf", "points"]


def test_what_a_job_left_out_is_said_where_the_merge_was_typed(site):
    points(site, 3)
    (site.root / "points/bad.h5").write_bytes(b"no HDF5")
    done = on_slurm(site, "--where", "hardware=b200")

    assert done.returncode == 1
    assert f"skipped: {site.root}/points/bad.h5" in done.stderr
    assert len(collect([str(site.root / "all.h5")]).rows) == 2


def test_jobs_that_slurm_does_not_take_are_said_in_its_words(site):
    points(site, 2)
    done = site.bench("merge", "points", "-o", "all.h5", "--on", "slurm", "--ask", "partition=nowhere")

    assert (done.returncode, "Traceback" in done.stderr) == (3, False)
    assert "invalid partition" in done.stderr.lower()
