"""`merge --public`: an archive without paths, users and hosts, whose figures are the same."""

import json

import pytest
from conftest import measured
from program import bench

from glm5bench.archive.decoding import measurements
from glm5bench.archive.pointfile import write_point
from glm5bench.archive.public import names_of, public

SERVER = {
    "info": {"launch_command": "--model-path /home/alice/models/GLM-5", "/home/alice/cache": "10.3.2.1:30000"},
    "model_path": "/home/alice/models/GLM-5",
}
PROVENANCE = {
    "host": "gpu001.cluster.example",
    "node": "gpu001",
    "executable": "/home/alice/venv/bin/python3",
    "server_start": "gpu001 77 0 now",
}
LOG = "alice@gpu001: loading /home/alice/models/GLM-5 through 10.3.2.1\ncuDNN 9.10.2.21, http://127.0.0.1:30000/v1/models\n"
SECRETS = ("alice", "gpu001", "10.3.2.1", "/home", "cluster.example")


def private(key="a" * 20, **provenance):
    return measured(key, server=SERVER, provenance={**PROVENANCE, **provenance}, log=LOG)


def text_of(m):
    return json.dumps([m.point, m.provenance, m.server, m.log])


def test_no_path_user_or_host_is_left_and_the_figures_are_the_same():
    m = private()
    made = public(m, names_of([m]))

    assert not [word for word in SECRETS if word in text_of(made)]
    assert made.server["model_path"] == "<path>/GLM-5"
    assert "cuDNN 9.10.2.21, http://127.0.0.1:30000/v1/models" in made.log
    assert made.figures() == m.figures()
    assert made.key == m.key


def test_hosts_stay_distinct_and_are_named_alike_in_any_order():
    first, second = private(), private("b" * 20, host="gpu002", node="gpu002", server_start="gpu002 78 0 now")
    names = names_of([first, second])

    assert names == names_of([second, first])
    assert len({public(m, names).provenance["node"] for m in (first, second)}) == 2


def test_words_that_name_nobody_stay():
    m = measured(provenance={"host": "localhost", "node": "node"}, log="the root node of /root/x is a user of localhost")

    assert public(m, names_of([m])).log == "the root node of <path>/x is a user of localhost"


@pytest.mark.parametrize("raw", ["keep", "summary"])
def test_a_public_archive_has_every_point_and_no_name(raw, tmp_path):
    for i, key in enumerate(("a" * 20, "b" * 20)):
        write_point(tmp_path / f"{i}.h5", private(key))
    done = bench(tmp_path, "merge", "0.h5", "1.h5", "-o", "public.h5", "--public", "--raw", raw)
    tables = bench(tmp_path, "tables", "public.h5", "--format", "json").stdout

    assert done.returncode == 0, done.stderr
    assert len(json.loads(tables)["points"]) == 2
    content = (tmp_path / "public.h5").read_bytes()
    assert not [word for word in SECRETS if word.encode() in content]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.endswith(".part")) == []
    if raw == "keep":
        assert all(each[0].provenance["public"] for each in measurements(tmp_path / "public.h5"))


def test_a_point_without_raw_rows_is_refused(tmp_path):
    write_point(tmp_path / "0.h5", private())
    bench(tmp_path, "merge", "0.h5", "-o", "summary.h5", "--raw", "summary")
    done = bench(tmp_path, "merge", "summary.h5", "-o", "public.h5", "--public")

    assert done.returncode == 2 or done.returncode == 1
    assert "stored without its raw rows" in done.stderr
    assert not (tmp_path / "public.h5").exists()
