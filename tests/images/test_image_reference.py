"""References of container images: their parts, their file names, and invalid references."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glm5bench.errors import SettingsError
from glm5bench.images.reference import DOCKER_HUB, reference

PIN = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("lmsysorg/sglang:v0.5.12-cu130", DOCKER_HUB, "lmsysorg/sglang", "v0.5.12-cu130", ""),
        ("lmsysorg/sglang", DOCKER_HUB, "lmsysorg/sglang", "latest", ""),
        ("alpine", DOCKER_HUB, "library/alpine", "latest", ""),
        ("alpine:3.20", DOCKER_HUB, "library/alpine", "3.20", ""),
        ("docker://alpine:3.20", DOCKER_HUB, "library/alpine", "3.20", ""),
        ("nvcr.io/nvidia/pytorch:25.01-py3", "nvcr.io", "nvidia/pytorch", "25.01-py3", ""),
        ("ghcr.io/a/b/c/d:1", "ghcr.io", "a/b/c/d", "1", ""),
        ("localhost/tiny:1", "localhost", "tiny", "1", ""),
        ("127.0.0.1:5000/team/tiny:1.0", "127.0.0.1:5000", "team/tiny", "1.0", ""),
        ("registry:5000/team/tiny", "registry:5000", "team/tiny", "latest", ""),
        (f"registry:5000/tiny@{PIN}", "registry:5000", "tiny", "latest", PIN),
        (f"docker://alpine:3.20@{PIN}", DOCKER_HUB, "library/alpine", "3.20", PIN),
    ],
)
def test_a_name_says_its_registry_repository_tag_and_pin(text, registry, repository, tag, digest):
    ref = reference(text)

    assert (ref.registry, ref.repository, ref.tag, ref.digest) == (registry, repository, tag, digest)


@pytest.mark.parametrize("host", ["docker.io", "index.docker.io"])
def test_docker_hub_s_other_names_are_docker_hub(host):
    ref = reference(f"{host}/alpine:3.20")

    assert (ref.registry, ref.repository, ref.docker(PIN)) == (DOCKER_HUB, "library/alpine", f"docker://library/alpine@{PIN}")


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("vllm/vllm-openai:v0.16.0", "vllm_vllm-openai_v0.16.0.sif"),
        ("docker://vllm/vllm-openai:v0.16.0", "vllm_vllm-openai_v0.16.0.sif"),
        ("alpine", "alpine.sif"),
        ("127.0.0.1:5000/team/tiny:1.0", "127.0.0.1_5000_team_tiny_1.0.sif"),
        (f"vllm/vllm-openai:v0.16.0@{PIN}", "vllm_vllm-openai_v0.16.0_sha256_0123456789ab.sif"),
        ("mine.sif", "mine.sif"),
        ("My_own-2.0.sif", "My_own-2.0.sif"),
    ],
)
def test_the_file_of_an_image_is_named_after_it_and_its_pin(text, file):
    assert reference(text).sif == file


def test_an_image_pinned_to_another_digest_is_another_file():
    names = ["team/tiny:1", f"team/tiny:1@{PIN}", "team/tiny:1@sha256:" + "f" * 64, "team/tiny:2"]

    assert len({reference(name).sif for name in names}) == 4


def test_a_sif_file_is_in_no_registry():
    ref = reference("mine.sif")

    assert (ref.registry, ref.repository, ref.digest, ref.is_local) == ("", "", "", False)


def test_the_name_without_its_pin_is_as_conf_writes_it():
    assert reference(f"docker://127.0.0.1:5000/tiny:1@{PIN}").unpinned == "127.0.0.1:5000/tiny:1"
    assert reference("team/tiny").unpinned == "team/tiny"


def test_apptainer_is_given_the_digest_in_place_of_the_tag():
    assert reference("team/tiny:1").docker(PIN) == f"docker://team/tiny@{PIN}"
    assert reference("alpine:3").docker(PIN) == f"docker://library/alpine@{PIN}"
    assert reference("127.0.0.1:5000/team/tiny:1").docker(PIN) == f"docker://127.0.0.1:5000/team/tiny@{PIN}"


@pytest.mark.parametrize(
    ("text", "is_local"),
    [
        ("127.0.0.1:5000/tiny", True),
        ("localhost/tiny", True),
        ("localhost:5000/tiny", True),
        ("127.0.0.1.example.org/tiny", False),
        ("localhost.example.org:5000/tiny", False),
        ("tiny", False),
    ],
)
def test_only_this_machine_s_registry_is_spoken_to_without_tls(text, is_local):
    assert reference(text).is_local is is_local


@pytest.mark.parametrize(
    "text",
    [
        "",
        "docker://",
        "../tiny",
        "team/../../etc/passwd",
        "team/ti..ny",
        "/team/tiny",
        "./tiny",
        "team/tiny 1.0",
        "team/tiny:1.0\n",
        "team/tiny;id",
        "-tiny",
        ".sif",
        "tiny@latest",
        "tiny@sha256:" + "0" * 63,
        "tiny@sha256:" + "0" * 65,
        "tiny@sha256:" + "G" * 64,
        "tiny@sha512:" + "0" * 64,
        f"tiny@{PIN}@{PIN}",
        "folder/mine.sif",
        "docker://host:5000/mine.sif",
        f"mine.sif@{PIN}",
    ],
)
def test_what_is_no_image_is_refused(text):
    with pytest.raises(SettingsError):
        reference(text)


@pytest.mark.parametrize(
    "text", ["tiny:1.0@", "tiny:", "team//tiny", "127.0.0.1:port/tiny", "registry:5000/", "team/tiny:a/b", "registry:5000/:1.0"]
)
def test_what_no_registry_can_have_is_refused(text):
    with pytest.raises(SettingsError):
        reference(text)


@example("0:/:")
@settings(deadline=None)
@given(st.text(max_size=40) | st.from_regex(r"[a-z./:@_-]{0,30}(\.sif)?", fullmatch=True))
def test_whatever_is_taken_as_a_name_its_file_lies_in_the_image_directory(text):
    try:
        sif = reference(text).sif
    except SettingsError:
        return
    assert "/" not in sif
    assert not sif.startswith(".")
    assert sif.endswith(".sif")
