"""Commands that act on a campaign's directory act only if nobody else can write there."""

import json
import os
import shutil
import stat

import pytest
from program import SMALL, bench, point_files, sweep

from glm5bench.directory import Campaign
from glm5bench.errors import FileError, UsageError
from glm5bench.files import Taken, place_new, read_json
from glm5bench.trust import trusted

NOBODY = 65534
FOLDERS = ("", "points", "search", "jobs", "jobs/submitit")
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A campaign of one point that is measured."""
    folder = tmp_path_factory.mktemp("made")
    assert sweep(folder, "concurrency=2").returncode == 0
    (folder / "outputs" / "c" / "search").mkdir()  # a search would have one
    return folder


@pytest.fixture
def campaign(made, tmp_path):
    shutil.copytree(made / "outputs", tmp_path / "outputs", symlinks=True)
    return tmp_path / "outputs" / "c"


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("verb", ["resubmit", "cancel", "sweep"])
def test_a_folder_that_others_can_write_is_refused(campaign, folder, verb, tmp_path):
    (campaign / folder).chmod(0o775)
    arguments = (*SMALL, "name=c", "concurrency=2") if verb == "sweep" else ("outputs/c",)
    done = bench(tmp_path, verb, *arguments)

    assert done.returncode == 2
    assert f"{campaign / folder} can be written by others" in done.stderr.replace("/ can", " can")
    assert f"chmod -R go-w {campaign}" in done.stderr


@is_root
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_of_another_user_is_refused(campaign, folder):
    os.chown(campaign / folder, NOBODY, -1)

    with pytest.raises(UsageError, match="belongs to "):
        trusted(campaign)


def test_a_folder_that_is_a_link_is_refused(campaign, tmp_path):
    shutil.move(campaign / "jobs", tmp_path / "elsewhere")
    (campaign / "jobs").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(UsageError, match="is a link"):
        trusted(campaign)


def test_the_intention_can_be_stated(campaign, tmp_path):
    campaign.chmod(0o775)

    assert bench(tmp_path, "cancel", "outputs/c", "--trust-directory").returncode == 0
    assert bench(tmp_path, "resubmit", "outputs/c", "--trust-directory").returncode == 0
    assert bench(tmp_path, "sweep", *SMALL, "name=c", "concurrency=2", "--trust-directory", "wait=true").returncode == 0


def test_status_and_tables_read_a_directory_that_others_can_write(campaign, tmp_path):
    campaign.chmod(0o777)

    assert bench(tmp_path, "status", "outputs/c").returncode == 0
    assert bench(tmp_path, "tables", "outputs/c").returncode == 0


def test_what_a_campaign_writes_is_private_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        sweep(tmp_path, "concurrency=2")
    finally:
        os.umask(before)
    root = tmp_path / "outputs" / "c"
    writable = [p for p in root.rglob("*") if not p.is_symlink() and stat.S_IMODE(p.stat().st_mode) & 0o022]

    assert writable == []
    assert stat.S_IMODE((root / "jobs").stat().st_mode) == 0o700


def test_a_job_refuses_a_directory_that_others_can_write(campaign, tmp_path):
    shutil.rmtree(campaign / "points")
    (campaign / "points").mkdir(mode=0o700)
    (campaign / "points").chmod(0o777)
    done = bench(tmp_path, "sweep", *SMALL, "name=c", "concurrency=2", "wait=true")

    assert done.returncode == 2
    assert point_files(tmp_path) == {}


def test_a_point_under_another_key_is_not_done(campaign, tmp_path):
    (whole,) = (campaign / "points").glob("*.h5")
    key = json.loads((campaign / "plan.json").read_text())["jobs"][0]["starts"][0]["points"][0]["key"]
    other = "f" * len(key)
    for suffix in (".h5", ".json"):
        shutil.copy(whole.with_suffix(suffix), campaign / "points" / f"{other}.1{suffix}")
    shutil.copy(whole, campaign / "points" / f"{'e' * len(key)}.1.h5")
    found = Campaign(campaign).attempts([key, other, "e" * len(key)])

    assert [a.is_done for attempts in found.values() for a in attempts] == [True, False, False]
    assert "under another name" in found[other][0].message


def test_a_state_file_that_is_a_pipe_too_deep_or_too_large_is_damaged(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "large.json").write_text("")
    os.truncate(tmp_path / "large.json", 2**31)

    for name, said in (("pipe", "not a regular file"), ("deep", "nested too deeply"), ("large", "larger than 1024 MiB")):
        with pytest.raises(FileError, match=said):
            read_json(tmp_path / f"{name}.json")


def test_text_of_files_reaches_the_terminal_as_text(campaign, tmp_path):
    job = next(p for p in (campaign / "jobs").iterdir() if (p / "heartbeat.json").exists())
    beat = json.loads((job / "heartbeat.json").read_text())
    beat |= {"phase": "loading", "doing": "\x1b[31m[bold]red", "time_utc_s": 1e12, "host": "elsewhere", "node": "[/b]\x07"}
    (job / "heartbeat.json").write_text(json.dumps(beat))
    told = bench(tmp_path, "status", "outputs/c")

    assert "\x1b" not in told.stdout
    assert "\x07" not in told.stdout


def test_an_attempts_number_is_never_overwritten_on_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    place_new(tmp_path / "a", tmp_path / "point.1.h5")

    with pytest.raises(Taken):
        place_new(tmp_path / "b", tmp_path / "point.1.h5")
    assert (tmp_path / "point.1.h5").read_text() == "a"
