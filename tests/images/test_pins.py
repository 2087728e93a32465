"""Pins of an image's file: what a record shows at once, and what only the content shows."""

import pytest

from glm5bench.files import sha256
from glm5bench.images.record import Record, lacking, unlike_pin, write_record
from glm5bench.images.reference import reference

OTHER = "0" * 64


@pytest.fixture
def sif(tmp_path):
    path = tmp_path / "own.sif"
    path.write_bytes(b"content")
    write_record(path, Record("own.sif", "", sha256(path), 7, "2026-01-01T00:00:00+00:00", "test"))
    return path


def test_a_file_with_the_pinned_hash_lacks_nothing(sif):
    pins = {"own.sif": sha256(sif)}

    assert lacking(sif.parent, reference("own.sif"), pins) == ""
    assert unlike_pin(sif, pins["own.sif"], sif.parent / "known.json") == ""


def test_a_record_with_another_hash_than_the_pin_is_refused_without_reading_the_file(sif):
    said = lacking(sif.parent, reference("own.sif"), {"own.sif": OTHER})

    assert said == f"{sif} has the hash {sha256(sif)[:12]} according to its record, but cluster.sif_sha256 has {OTHER[:12]}"


def test_an_image_without_a_pin_is_refused_if_the_cluster_pins_others(sif):
    assert lacking(sif.parent, reference("own.sif"), {"onw.sif": OTHER}) == "cluster.sif_sha256 pins images, but not own.sif"


def test_a_file_whose_content_was_replaced_is_refused_although_size_and_record_agree(sif):
    pin, known = sha256(sif), sif.parent / "known.json"
    assert unlike_pin(sif, pin, known) == ""
    sif.write_bytes(b"CONTENT")

    assert lacking(sif.parent, reference("own.sif"), {"own.sif": pin}) == ""
    assert unlike_pin(sif, pin, known) == f"{sif} has the hash {sha256(sif)[:12]}, but cluster.sif_sha256 has {pin[:12]}"


def test_an_unchanged_file_is_not_read_again(sif):
    pin, known = sha256(sif), sif.parent / "known.json"
    unlike_pin(sif, pin, known)
    known.write_text(known.read_text().replace(pin, OTHER))  # an earlier result that a second reading would correct

    assert unlike_pin(sif, OTHER, known) == ""


@pytest.mark.parametrize("text", ["", "[]", '{"SIF": 1}', "{"])
def test_a_damaged_list_of_earlier_hashes_costs_one_more_reading(sif, text):
    known = sif.parent / "known.json"
    known.write_text(text.replace("SIF", str(sif)))

    assert unlike_pin(sif, sha256(sif), known) == ""
