"""Missing images and checkpoints are reported before any job waits in the queue."""

import dataclasses
import functools
import json
import struct

import pytest
from conftest import compose, plan
from program import bench

from glm5bench.checks.needs import images_of, needs, refuse_lacking
from glm5bench.errors import EnvironmentLacks
from glm5bench.images.record import Record, write_record
from glm5bench.images.reference import reference

IMAGE, DIGEST = "lmsysorg/sglang:v0.5.12-cu130", "sha256:" + "ab" * 32
SIF = "lmsysorg_sglang_v0.5.12-cu130.sif"
FETCH = "hf download zai-org/GLM-5-FP8 --local-dir"


@functools.cache
def planned(*overrides):
    return plan([compose(f"speculative={speculative}", *overrides) for speculative in ("off", "mtp")]).jobs


def placed(tmp_path, *overrides, **changes):
    """The two jobs of a campaign that expects its image and checkpoint in this directory."""
    there = {"image_dir": str(tmp_path / "images"), "model_path": str(tmp_path / "models/zai-org/GLM-5-FP8"), **changes}
    return [dataclasses.replace(job, **there) for job in planned(*overrides)]


def directories(tmp_path):
    """Creates both directories without the image and the checkpoint."""
    (tmp_path / "images").mkdir()
    (tmp_path / "models/other").mkdir(parents=True)


def pulled(tmp_path, *, digest=DIGEST, size_bytes=2048, name=SIF):
    """Creates an image file of 2 KiB and its record."""
    sif = tmp_path / "images" / name
    sif.write_bytes(bytes(2048))
    write_record(sif, Record(IMAGE, digest, "00" * 32, size_bytes, "2026-05-25", "docker"))
    return sif


def downloaded(tmp_path):
    directory = tmp_path / "models/zai-org/GLM-5-FP8"
    directory.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (directory / name).write_text("{}")
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    return directory


def by_kind(jobs):
    found = needs(jobs)
    assert [need.kind for need in found] == ["image", "checkpoint"]
    return found


def test_what_several_arms_need_is_looked_at_once_and_names_them_all(tmp_path):
    jobs = placed(tmp_path)

    image, checkpoint = by_kind(jobs)

    assert image.arms == checkpoint.arms == tuple(job.arm.label for job in jobs)
    assert images_of(jobs) == {(str(tmp_path / "images"), IMAGE): image.arms}


def test_an_image_and_a_checkpoint_that_are_there_lack_nothing_and_say_what_they_are(tmp_path):
    directories(tmp_path)
    pulled(tmp_path)
    downloaded(tmp_path)

    image, checkpoint = by_kind(placed(tmp_path))

    assert (image.is_seen, image.lacks, image.said) == (True, "", f"0.0 GiB, {DIGEST[:19]}")
    assert (checkpoint.is_seen, checkpoint.lacks, checkpoint.said) == (True, "", "0 GiB in 1 files, revision unknown")
    refuse_lacking(placed(tmp_path))


def test_what_lacks_is_refused_all_at_once_with_what_brings_it_there(tmp_path):
    directories(tmp_path)

    with pytest.raises(EnvironmentLacks) as raised:
        refuse_lacking(placed(tmp_path))

    said = raised.value.message
    assert f"image {IMAGE}: the image {tmp_path / 'images' / SIF} does not exist" in said
    assert "`glm5bench images pull` with the same overrides" in said
    assert f"checkpoint zai-org/GLM-5-FP8: the checkpoint {tmp_path}/models/zai-org/GLM-5-FP8 does not exist" in said
    assert f"`{FETCH} {tmp_path}/models/zai-org/GLM-5-FP8`, on a machine with network" in said


def test_one_thing_that_lacks_is_refused_and_what_is_there_is_not_named(tmp_path):
    directories(tmp_path)
    pulled(tmp_path)

    with pytest.raises(EnvironmentLacks) as raised:
        refuse_lacking(placed(tmp_path))

    assert "checkpoint zai-org/GLM-5-FP8" in raised.value.message
    assert "image" not in raised.value.message.partition("\n")[2]


def test_directories_that_this_machine_does_not_see_are_not_said_to_lack(tmp_path):
    image, checkpoint = by_kind(placed(tmp_path))

    assert (image.is_seen, image.lacks, checkpoint.is_seen, checkpoint.lacks) == (False, "", False, "")
    refuse_lacking(placed(tmp_path))


def test_the_empty_mount_point_of_a_disk_of_the_nodes_own_is_not_said_to_lack(tmp_path):
    directories(tmp_path)
    (tmp_path / "models/other").rmdir()

    assert [(n.is_seen, n.lacks) for n in needs(placed(tmp_path)) if n.kind == "checkpoint"] == [(False, "")]


def test_an_image_of_another_size_than_its_record_s_lacks(tmp_path):
    directories(tmp_path)
    pulled(tmp_path, size_bytes=9999)

    assert "2,048 bytes, but its record has 9,999" in needs(placed(tmp_path))[0].lacks


@pytest.mark.parametrize(("mode", "is_refused"), [(0o755, False), (0o775, True), (0o757, True), (0o1777, False)])
def test_an_image_directory_that_others_can_write_is_refused(tmp_path, mode, is_refused):
    directories(tmp_path)
    sif = pulled(tmp_path)
    sif.parent.chmod(mode)
    (need,) = (n for n in needs(placed(tmp_path)) if n.kind == "image")

    assert ("who could replace the image" in need.lacks) == is_refused
    assert (need.next_step == f"chmod go-w {sif.parent}") == is_refused


def test_a_record_that_cannot_be_understood_lacks_and_is_named(tmp_path):
    directories(tmp_path)
    record = pulled(tmp_path).with_name(f"{SIF}.json")
    record.write_text("{")

    assert str(record) in needs(placed(tmp_path))[0].lacks


def test_an_image_without_a_record_is_taken_where_nothing_is_pinned(tmp_path):
    directories(tmp_path)
    pulled(tmp_path).with_name(f"{SIF}.json").unlink()

    image = needs(placed(tmp_path))[0]

    assert (image.lacks, image.said) == ("", "0.0 GiB, no record")


@pytest.mark.parametrize(("made_from", "is_well"), [(DIGEST, True), ("sha256:" + "cd" * 32, False), ("", False)])
def test_an_image_that_is_pinned_is_made_from_that_digest(tmp_path, made_from, is_well):
    directories(tmp_path)
    jobs = placed(tmp_path, f"engine.image='{IMAGE}@{DIGEST}'")
    pulled(tmp_path, digest=made_from, name=reference(f"{IMAGE}@{DIGEST}").sif)

    assert (needs(jobs)[0].lacks == "") == is_well


def test_an_image_that_no_registry_has_is_to_be_put_there(tmp_path):
    directories(tmp_path)

    assert needs(placed(tmp_path, "engine.image=mine.sif"))[0].next_step == "copy the file to this path"


def test_engines_of_the_path_and_checkpoints_by_name_need_no_file(tmp_path):
    assert needs(placed(tmp_path, image_dir="", model_path="zai-org/GLM-5-FP8")) == []


def test_a_simulated_campaign_needs_nothing(tmp_path):
    assert needs(placed(tmp_path, "engine=simulated")) == []


def test_a_sweep_that_lacks_its_image_and_checkpoint_is_exit_code_3_and_begins_nothing(tmp_path):
    directories(tmp_path)

    done = bench(tmp_path, "sweep", "name=c", f"cluster.image_dir={tmp_path}/images", f"cluster.checkpoint_dir={tmp_path}/models")

    assert done.returncode == 3
    assert f"image {IMAGE}: the image " in done.stderr
    assert "`glm5bench images pull` with the same overrides" in done.stderr
    assert "checkpoint zai-org/GLM-5-FP8: the checkpoint " in done.stderr
    assert FETCH in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_a_plan_shows_what_is_there_and_what_lacks_and_is_no_refusal(tmp_path):
    directories(tmp_path)
    pulled(tmp_path)

    done = bench(tmp_path, "plan", f"cluster.image_dir={tmp_path}/images", f"cluster.checkpoint_dir={tmp_path}/models")
    lines = done.stdout.partition("Needed on the nodes:\n")[2].splitlines()

    assert done.returncode == 0
    assert lines[0] == f"  ok       image {IMAGE}: 0.0 GiB, {DIGEST[:19]}"
    assert lines[1] == f"  MISSING  checkpoint zai-org/GLM-5-FP8: the checkpoint {tmp_path}/models/zai-org/GLM-5-FP8 does not exist"
    assert lines[2].strip() == f"next: `{FETCH} {tmp_path}/models/zai-org/GLM-5-FP8`, on a machine with network"


def test_a_plan_says_of_a_directory_that_this_machine_does_not_see_that_nobody_looked(tmp_path):
    done = bench(tmp_path, "plan", f"cluster.image_dir={tmp_path}/images", f"cluster.checkpoint_dir={tmp_path}/models")

    assert done.returncode == 0
    assert f"  ?        image {IMAGE}: {tmp_path}/images/{SIF}: its directory is not visible from this machine" in done.stdout
    assert "  ?        checkpoint zai-org/GLM-5-FP8: " in done.stdout
    assert "MISSING" not in done.stdout


def test_the_json_of_a_plan_holds_what_is_needed(tmp_path):
    directories(tmp_path)

    done = bench(tmp_path, "plan", "--json", f"cluster.image_dir={tmp_path}/images", f"cluster.checkpoint_dir={tmp_path}/gone")
    image, checkpoint = json.loads(done.stdout)["needs"]

    assert (image["name"], image["is_seen"]) == (IMAGE, True)
    assert image["lacks"].startswith("the image ")
    assert (checkpoint["name"], checkpoint["is_seen"], checkpoint["lacks"]) == ("zai-org/GLM-5-FP8", False, "")
