"""Checkpoints on a disk: completeness, revision, and the copy on a node's own disk."""

import dataclasses
import fcntl
import functools
import json
import os
import shutil
import struct
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import compose, plan
from hypothesis import given
from hypothesis import strategies as st

from glm5bench.errors import ServerError
from glm5bench.machine.checkpoint import INDEX, cached_share, directories, fetch_command, found
from glm5bench.node import staging
from glm5bench.node.command import Stopped
from glm5bench.node.staging import staged, weights

REVISION, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40
CHECKPOINT = compose("speculative=off").checkpoint
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
Usage = namedtuple("Usage", "total used free")


def safetensors(n_bytes, metadata=None):
    """A file with one tensor of `n_bytes` bytes, as described in the format's README."""
    tensors = {"w": {"dtype": "U8", "shape": [n_bytes], "data_offsets": [0, n_bytes]}}
    header = json.dumps({**({"__metadata__": metadata} if metadata else {}), **tensors}).encode()
    return struct.pack("<Q", len(header)) + header + os.urandom(n_bytes)


def downloaded(directory, n_bytes=2500):
    """A complete checkpoint with two shards."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text("{}")
    (directory / "tokenizer.json").write_text("{}")
    index({f"layer.{i}": name for i, name in enumerate((*SHARDS, *SHARDS))}, directory)
    for name in SHARDS:
        (directory / name).write_bytes(safetensors(n_bytes, {"format": "pt"}))
    return directory


def index(weight_map, directory):
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def noted(directory, text):
    """Writes the hub's own metadata file for a download."""
    note = directory / ".cache/huggingface/download/config.json.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(text)


def pinned(revision):
    return dataclasses.replace(CHECKPOINT, revision=revision)


@functools.cache
def planned():
    return plan([compose("speculative=off")]).jobs[0]


def job(model_path, **changes):
    return dataclasses.replace(planned(), model_path=str(model_path), **changes)


def silent(said):
    """Ignores the progress of the copy."""


def goes_on():
    return False


def test_a_whole_checkpoint_lacks_nothing_and_its_weights_are_summed(tmp_path):
    seen = found(downloaded(tmp_path), CHECKPOINT)

    assert seen.lacks == ""
    assert (seen.revision, seen.n_shards) == ("", 2)
    assert seen.size_bytes == sum((tmp_path / name).stat().st_size for name in SHARDS)


def test_a_small_model_of_one_file_needs_no_index(tmp_path):
    downloaded(tmp_path)
    (tmp_path / INDEX).unlink()
    assert "1 of 1 weight files are missing, the first is model.safetensors" in found(tmp_path, CHECKPOINT).lacks

    (tmp_path / "model.safetensors").write_bytes(safetensors(10))

    assert (found(tmp_path, CHECKPOINT).lacks, found(tmp_path, CHECKPOINT).n_shards) == ("", 1)


def test_a_directory_that_is_not_there_is_named(tmp_path):
    assert found(tmp_path / "gone", CHECKPOINT).lacks == f"the checkpoint {tmp_path / 'gone'} does not exist"


def test_a_file_in_the_checkpoint_s_place_is_no_checkpoint(tmp_path):
    (tmp_path / "file").write_text("")

    assert "does not exist" in found(tmp_path / "file", CHECKPOINT).lacks


def test_a_shard_that_the_index_names_and_nobody_downloaded_is_missing(tmp_path):
    (downloaded(tmp_path) / SHARDS[1]).unlink()

    seen = found(tmp_path, CHECKPOINT)

    assert seen.lacks == f"{tmp_path}: 1 of 2 weight files are missing, the first is {SHARDS[1]}"
    assert seen.size_bytes == 0


@pytest.mark.parametrize("kept", [1, 2000, 2590])
def test_a_shard_that_ends_before_its_header_says_was_cut_off(tmp_path, kept):
    whole = (downloaded(tmp_path) / SHARDS[1]).read_bytes()
    n_header = len(whole) - 2500
    cut = whole[: n_header + min(kept, 2499)]
    (tmp_path / SHARDS[1]).write_bytes(cut)

    said = found(tmp_path, CHECKPOINT).lacks

    assert said == f"{tmp_path / SHARDS[1]} has {len(cut):,} bytes, but its header declares {len(whole):,}: the download is incomplete"


def test_a_shard_that_is_longer_than_its_header_says_is_not_whole_either(tmp_path):
    with (downloaded(tmp_path) / SHARDS[0]).open("ab") as file:
        file.write(b"x")

    assert "the download is incomplete" in found(tmp_path, CHECKPOINT).lacks


@pytest.mark.parametrize("kept", [0, 5, 8, 20])
def test_a_shard_that_ends_in_its_header_lacks_something(tmp_path, kept):
    whole = (downloaded(tmp_path) / SHARDS[0]).read_bytes()
    (tmp_path / SHARDS[0]).write_bytes(whole[:kept])

    assert str(tmp_path) in found(tmp_path, CHECKPOINT).lacks


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "sub/model.safetensors"])
def test_an_index_that_names_a_file_outside_the_directory_is_not_understood(tmp_path, name):
    index({"w": name}, downloaded(tmp_path))

    assert repr(name) in found(tmp_path, CHECKPOINT).lacks


@pytest.mark.parametrize(
    ("lost", "said"), [("config.json", "it has no config.json"), ("tokenizer.json", "has no tokenizer"), (INDEX, "model.safetensors")]
)
def test_a_checkpoint_without_one_of_its_small_files_says_which(tmp_path, lost, said):
    (downloaded(tmp_path) / lost).unlink()

    assert said in found(tmp_path, CHECKPOINT).lacks


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer_config.json"])
def test_each_kind_of_tokenizer_is_one(tmp_path, name):
    (downloaded(tmp_path) / "tokenizer.json").rename(tmp_path / name)

    assert found(tmp_path, CHECKPOINT).lacks == ""


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"w": 3}}', '{"a": 1}'])
def test_an_index_of_another_shape_is_not_understood(tmp_path, text):
    (downloaded(tmp_path) / INDEX).write_text(text)

    assert f"the checkpoint {tmp_path} cannot be read" in found(tmp_path, CHECKPOINT).lacks


@pytest.mark.parametrize(
    "header", [b"[]", b"3", b'{"w": 3}', b'{"w": {}}', b'{"w": {"data_offsets": 3}}', b'{"w": {"data_offsets": [0, "x"]}}']
)
def test_a_shard_whose_header_has_another_shape_is_not_understood(tmp_path, header):
    (downloaded(tmp_path) / SHARDS[0]).write_bytes(struct.pack("<Q", len(header)) + header)

    assert "cannot be read" in found(tmp_path, CHECKPOINT).lacks


@given(body=st.binary(max_size=60))
def test_no_bytes_in_a_shard_s_place_are_a_whole_shard(tmp_path_factory, body):
    directory = downloaded(tmp_path_factory.mktemp("garbage"))
    (directory / SHARDS[0]).write_bytes(body)

    assert found(directory, CHECKPOINT).lacks != ""


def test_a_web_page_in_a_shard_s_place_is_no_safetensors_file(tmp_path):
    (downloaded(tmp_path) / SHARDS[0]).write_text("<!DOCTYPE html><html>Access denied</html>")

    assert f"{SHARDS[0]} is not a safetensors file" in found(tmp_path, CHECKPOINT).lacks


def test_the_revision_is_the_first_line_of_the_hub_s_own_note(tmp_path):
    noted(downloaded(tmp_path), f"{REVISION}\nb1946ac92492d2347c6235b4d2611184\n1748160000.0\n")

    assert found(tmp_path, CHECKPOINT).revision == REVISION


def test_a_note_that_begins_with_no_revision_tells_none(tmp_path):
    noted(downloaded(tmp_path), f"main\n{REVISION}\n")

    assert found(tmp_path, CHECKPOINT).revision == ""


def test_a_directory_of_the_hub_s_cache_is_of_the_revision_that_its_links_lead_to(tmp_path):
    snapshot = downloaded(tmp_path / "models--zai-org--GLM-5-FP8/snapshots" / REVISION)
    (tmp_path / "models").mkdir()
    linked = tmp_path / "models/GLM-5-FP8"
    linked.symlink_to(snapshot, target_is_directory=True)

    assert found(linked, CHECKPOINT).revision == REVISION


def test_a_pinned_checkpoint_of_another_revision_lacks_and_says_both(tmp_path):
    noted(downloaded(tmp_path), f"{REVISION}\n")

    said = found(tmp_path, pinned(OTHER)).lacks

    assert REVISION[:12] in said
    assert OTHER[:12] in said
    assert found(tmp_path, pinned(REVISION)).lacks == ""


def test_a_pinned_checkpoint_whose_revision_nobody_noted_is_taken_at_its_word(tmp_path):
    assert found(downloaded(tmp_path), pinned(OTHER)).lacks == ""


def test_what_brings_a_checkpoint_names_its_repository_its_place_and_its_pin():
    place = Path("/shared/models/zai-org/GLM-5-FP8")

    assert fetch_command(pinned(None), place) == f"hf download zai-org/GLM-5-FP8 --local-dir {place}"
    assert fetch_command(pinned(OTHER), place) == f"hf download zai-org/GLM-5-FP8 --revision {OTHER} --local-dir {place}"


def test_the_share_in_memory_is_between_none_and_all_of_it_or_nobody_tells(tmp_path):
    share = cached_share(downloaded(tmp_path))

    assert share is None or 0 <= share <= 1


@pytest.mark.parametrize(
    ("fincore", "share"),
    [("echo '4096 12288'; echo '0 4096'", 0.25), ("echo '8192 5000'", 1.0), ("echo '0 0'", None), ("echo 'a b'", None), ("exit 1", None)],
)
def test_the_share_in_memory_is_of_all_shards_together(tmp_path, monkeypatch, fincore, share):
    (tmp_path / "fincore").write_text(f"#!/bin/sh\n{fincore}\n")
    (tmp_path / "fincore").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert cached_share(downloaded(tmp_path / "model")) == share


def test_without_weights_or_without_the_tool_nobody_tells_the_share_in_memory(tmp_path, monkeypatch):
    assert cached_share(tmp_path) is None

    monkeypatch.setenv("PATH", str(tmp_path))

    assert cached_share(downloaded(tmp_path / "model")) is None


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file() and path.name != ".stage.lock"}


def test_a_staged_copy_holds_what_its_source_holds(tmp_path):
    source = downloaded(tmp_path / "shared")

    seconds = staged(source, tmp_path / "scratch/zai-org/GLM-5-FP8", silent, goes_on)

    assert seconds >= 0
    assert contents(tmp_path / "scratch/zai-org/GLM-5-FP8") == contents(source)


def test_a_copy_of_links_holds_what_they_lead_to(tmp_path):
    blobs, source = downloaded(tmp_path / "blobs"), tmp_path / "snapshots"
    source.mkdir()
    for blob in blobs.iterdir():
        (source / blob.name).symlink_to(blob)

    staged(source, tmp_path / "scratch", silent, goes_on)

    assert contents(tmp_path / "scratch") == contents(blobs)
    assert not any(path.is_symlink() for path in (tmp_path / "scratch").iterdir())


def test_what_is_there_already_is_not_copied_again(tmp_path):
    source, said = downloaded(tmp_path / "shared"), []
    staged(source, tmp_path / "scratch", silent, goes_on)
    before = {path: path.stat().st_ino for path in (tmp_path / "scratch").iterdir()}

    staged(source, tmp_path / "scratch", said.append, goes_on)

    assert {path: path.stat().st_ino for path in (tmp_path / "scratch").iterdir()} == before
    assert said == []


@pytest.mark.parametrize("change", ["other bytes of the same length", "other length at the same time"])
def test_a_file_that_changed_at_its_source_is_copied_again_and_no_other(tmp_path, change):
    source = downloaded(tmp_path / "shared")
    staged(source, tmp_path / "scratch", silent, goes_on)
    other = (tmp_path / "scratch" / SHARDS[0]).stat().st_ino
    before = (source / SHARDS[1]).stat()
    (source / SHARDS[1]).write_bytes(safetensors(2500 if "bytes" in change else 2600, {"format": "pt"}))
    os.utime(source / SHARDS[1], ns=(before.st_atime_ns, before.st_mtime_ns + ("bytes" in change)))

    staged(source, tmp_path / "scratch", silent, goes_on)

    assert contents(tmp_path / "scratch") == contents(source)
    assert (tmp_path / "scratch" / SHARDS[0]).stat().st_ino == other


def test_what_the_copy_has_come_to_is_told_until_all_of_it_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "PIECE_BYTES", 1000)
    said = []

    staged(downloaded(tmp_path / "shared"), tmp_path / "scratch", said.append, goes_on)

    assert len(said) > 6  # two shards with three pieces each, and the small files
    assert set(said) == {"copying the checkpoint, 0 of 0 GiB"}


@pytest.mark.parametrize("pieces", range(1, 9))
def test_a_copy_that_is_stopped_anywhere_leaves_no_half_file(tmp_path, monkeypatch, pieces):
    monkeypatch.setattr(staging, "PIECE_BYTES", 1000)
    source, said = downloaded(tmp_path / "shared"), []

    assert staged(source, tmp_path / "scratch", said.append, lambda: len(said) >= pieces) is None

    there = contents(tmp_path / "scratch")
    assert there.items() < contents(source).items()
    assert staged(source, tmp_path / "scratch", silent, goes_on) is not None
    assert contents(tmp_path / "scratch") == contents(source)


def test_a_copy_that_the_disk_does_not_hold_is_not_begun(tmp_path, monkeypatch):
    source = downloaded(tmp_path / "shared")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 10**6, 3000))

    with pytest.raises(OSError, match="GiB free, the copy needs"):
        staged(source, tmp_path / "scratch", silent, goes_on)

    assert contents(tmp_path / "scratch") == {}


def test_a_disk_that_is_full_of_the_copy_itself_needs_no_room_for_it(tmp_path, monkeypatch):
    source = downloaded(tmp_path / "shared")
    staged(source, tmp_path / "scratch", silent, goes_on)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 10**6, 0))

    assert staged(source, tmp_path / "scratch", silent, goes_on) is not None


def test_of_two_jobs_on_a_node_one_copies_and_the_other_waits_for_it(tmp_path):
    source, target = downloaded(tmp_path / "shared"), tmp_path / "scratch"
    others, waits = [], threading.Event()
    is_begun = threading.Event()

    def other_says(said):
        others.append(said)
        waits.set()

    def one_says(said):
        is_begun.set()
        assert waits.wait(30)

    with ThreadPoolExecutor(2) as both:
        one = both.submit(staged, source, target, one_says, goes_on)
        assert is_begun.wait(30)
        other = both.submit(staged, source, target, other_says, goes_on)
        assert None not in (one.result(60), other.result(60))

    assert set(others) == {"waiting for another job of this node to copy the checkpoint"}
    assert contents(target) == contents(source)


def test_a_job_that_is_stopped_while_another_copies_comes_back_with_nothing(tmp_path):
    source, target, said = downloaded(tmp_path / "shared"), tmp_path / "scratch", []
    target.mkdir()
    with (target / ".stage.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        assert staged(source, target, said.append, lambda: bool(said)) is None

    assert contents(target) == {}


def test_a_server_reads_its_weights_where_they_lie(tmp_path):
    noted(downloaded(tmp_path), REVISION)

    read = weights(job(tmp_path), silent, goes_on)

    assert read.path == str(tmp_path)
    assert (read.told["revision"], read.told["n_shards"]) == (REVISION, 2)
    assert "stage_s" not in read.told


def test_a_server_reads_the_copy_where_the_job_says_so(tmp_path):
    source = downloaded(tmp_path / "shared")

    read = weights(job(source, stage_dir=str(tmp_path / "scratch")), silent, goes_on)

    assert read.path == str(tmp_path / "scratch/zai-org/GLM-5-FP8")
    assert contents(Path(read.path)) == contents(source)
    assert read.told["stage_s"] >= 0


def test_a_checkpoint_that_the_engine_fetches_by_its_name_is_not_looked_at():
    read = weights(job("zai-org/GLM-5-FP8"), silent, goes_on)

    assert (read.path, read.told) == ("zai-org/GLM-5-FP8", {})


def test_a_simulated_server_needs_no_weights():
    simulated = plan([compose("engine=simulated")]).jobs[0]

    assert weights(dataclasses.replace(simulated, model_path="/gone"), silent, goes_on).path == "/gone"


def test_weights_that_are_not_all_there_are_checkpoint_missing(tmp_path):
    (downloaded(tmp_path) / SHARDS[0]).unlink()

    with pytest.raises(ServerError, match="1 of 2 weight files are missing") as raised:
        weights(job(tmp_path, stage_dir=str(tmp_path / "scratch")), silent, goes_on)

    assert raised.value.failure_class == "checkpoint_missing"
    assert not (tmp_path / "scratch").exists()


def test_a_disk_that_does_not_hold_the_copy_is_a_fault_of_the_node(tmp_path, monkeypatch):
    source = downloaded(tmp_path / "shared")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 10**6, 0))

    with pytest.raises(ServerError, match="cannot be copied to") as raised:
        weights(job(source, stage_dir=str(tmp_path / "scratch")), silent, goes_on)

    assert raised.value.failure_class == "node_fault"


def test_a_disk_that_cannot_be_written_is_a_fault_of_the_node(tmp_path):
    source = downloaded(tmp_path / "shared")
    (tmp_path / "scratch").write_text("a file")

    with pytest.raises(ServerError, match="cannot be copied to") as raised:
        weights(job(source, stage_dir=str(tmp_path / "scratch")), silent, goes_on)

    assert raised.value.failure_class == "node_fault"


def test_a_job_that_is_stopped_in_its_copy_is_stopped_and_not_failed(tmp_path):
    source, said = downloaded(tmp_path / "shared"), []

    with pytest.raises(Stopped):
        weights(job(source, stage_dir=str(tmp_path / "scratch")), said.append, lambda: bool(said))


def test_a_job_that_is_told_to_stop_while_another_copies_leaves_the_copy_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "PIECE_BYTES", 1000)
    source, target = downloaded(tmp_path / "s"), tmp_path / "t"
    others = []

    seconds = staged(source, target, lambda said: others.append(staged(source, target, silent, lambda: True)), goes_on)

    assert seconds is not None
    assert set(others) == {None}
    assert contents(target) == contents(source)


@pytest.mark.parametrize("header", [b'{"w": {"data_offsets": []}}', b"[" * 100_000], ids=["no offsets", "nested"])
def test_a_shard_s_absurd_header_is_named_and_nothing_is_raised(tmp_path, header):
    downloaded(tmp_path)
    (tmp_path / SHARDS[0]).write_bytes(struct.pack("<Q", len(header)) + header)

    assert "cannot be read" in found(tmp_path, CHECKPOINT).lacks


def test_a_hub_s_note_that_is_no_text_says_no_revision(tmp_path):
    noted(downloaded(tmp_path), "x")
    (tmp_path / ".cache/huggingface/download/config.json.metadata").write_bytes(b"\xff\xfe")

    assert (found(tmp_path, CHECKPOINT).revision, found(tmp_path, CHECKPOINT).lacks) == ("", "")


def test_of_the_hub_s_cache_the_revision_is_the_snapshot_s_and_a_reader_needs_the_blobs_too(tmp_path):
    snapshot, blobs = tmp_path / "snapshots" / ("a" * 40), tmp_path / "blobs"
    downloaded(tmp_path / "files")
    blobs.mkdir(), snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(f for f in (tmp_path / "files").iterdir() if f.is_file())):
        file.rename(blobs / (f"{i:040x}"))
        (snapshot / file.name).symlink_to(f"../../blobs/{i:040x}")

    assert found(snapshot, CHECKPOINT).revision == "a" * 40
    assert directories(snapshot) == [str(snapshot), str(blobs)]
    (tmp_path / "linked").symlink_to(snapshot)
    assert weights(job(tmp_path / "linked"), silent, goes_on).path == str(snapshot)


def test_a_complete_copy_is_used_although_another_user_s_lock_cannot_be_opened(tmp_path, monkeypatch):
    source, target = downloaded(tmp_path / "s"), tmp_path / "t"
    assert staged(source, target, silent, goes_on) is not None
    (target / ".stage.lock").unlink()
    (target / ".stage.lock").mkdir()

    assert staged(source, target, silent, goes_on) is not None
