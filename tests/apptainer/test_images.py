"""`glm5bench images` as a user runs it, with a real Apptainer and a real registry on the loopback."""

import gzip
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile

import pytest
from contained import ENV, _root
from program import bench, environment, until
from registry import Login, Registry, digest, oci_image, write_archive

CARRIED = "127.0.0.1:9/team/tiny:1.0"  # an image whose registry cannot be reached
CARRIED_SIF = "127.0.0.1_9_team_tiny_1.0.sif"
NOBODYS = "sha256:" + "0" * 64
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")


@pytest.fixture(scope="session", autouse=True)
def _nothing_of_the_user_s(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("CACHEDIR", "TMPDIR", "DOCKER_USERNAME", "DOCKER_PASSWORD"):
            patch.delenv(f"APPTAINER_{variable}", raising=False)
        patch.setenv("APPTAINER_CONFIGDIR", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="session")
def tiny(apptainer, tmp_path_factory):
    """An image of two layers without programs, made in a tenth of a second."""
    folder = tmp_path_factory.mktemp("tiny")
    for layer, name, content in (("below", "noise", random.Random(0).randbytes(100_000)), ("above", "hello", b"hello from above\n")):
        (folder / layer).mkdir()
        (folder / layer / name).write_bytes(content)
    return oci_image(folder / "below", folder / "above")


@pytest.fixture(scope="session")
def archive(tiny, tmp_path_factory):
    """The same image as an archive file for a machine without network."""
    return write_archive(tiny, tmp_path_factory.mktemp("archive") / "tiny.tar")


@pytest.fixture(scope="session")
def made(archive, tmp_path_factory):
    """An image directory with the SIF file of CARRIED and its record."""
    folder = tmp_path_factory.mktemp("made")
    done = images(folder, "pull", CARRIED, "--from", str(archive))
    assert done.returncode == 0, done.stderr
    return folder / "images"


@pytest.fixture(scope="session")
def pulled(tiny, tmp_path_factory):
    """The registry, the name of the image, the directory that contains the image directory, and the output of the pull."""
    folder = tmp_path_factory.mktemp("pulled")
    with Registry() as registry:
        name = registry.push(tiny, "team/tiny", "1.0")
        done = images(folder, "pull", name)
        assert done.returncode == 0, done.stderr
        yield registry, name, folder, done.stderr


@pytest.fixture
def sif(made, tmp_path):
    """A copy of the pulled image for one test."""
    shutil.copytree(made, tmp_path / "images")
    return tmp_path / "images" / CARRIED_SIF


@pytest.fixture
def registry():
    with Registry() as registry:
        yield registry


@pytest.fixture
def name(registry, tiny):
    """The name of the image in the registry."""
    return registry.push(tiny, "team/tiny", "1.0")


def asked(tmp_path, verb, image, *more):
    """The arguments of `glm5bench images VERB` for one image in the directory tmp_path/images."""
    overrides = ("engine=sglang", "hardware=h200", f"engine.image={image}", f"cluster.image_dir={tmp_path / 'images'}")
    tag = re.search(r":(\d\.\d)(@|'|$)", str(image))  # a tag that is a version must be the engine's version
    return ("images", verb, *overrides, *((f"engine.version='{tag[1]}'",) if tag else ()), *more)


def images(tmp_path, verb, image, *more, **variables):
    return _orderly(bench(tmp_path, *asked(tmp_path, verb, image, *more), **{**ENV, **variables}))


def _orderly(done):
    assert done.returncode in (0, 1, 2, 3), done.stderr
    assert "Traceback" not in done.stderr
    return done


def started(tmp_path, verb, image):
    """The same command in the background, in a separate process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "glm5bench", *asked(tmp_path, verb, image)],
        cwd=tmp_path,
        env={**environment(tmp_path), **ENV},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def sifs(tmp_path):
    return sorted(f.name for f in (tmp_path / "images").glob("*") if not f.name.startswith("."))


def record_of(sif):
    return json.loads(sif.with_name(sif.name + ".json").read_text())


def only_sif(tmp_path):
    [sif] = (tmp_path / "images").glob("*.sif")
    return sif


# From a registry


def test_the_record_of_a_pulled_image_holds_the_registry_s_digest_and_the_file_s_own_hash(pulled, tiny):
    registry, name, folder, _ = pulled
    sif = only_sif(folder)
    record = record_of(sif)

    assert (record["oci_digest"], record["reference"]) == (tiny.digest, name)
    assert record["sif_sha256"] == hashlib.sha256(sif.read_bytes()).hexdigest()
    assert record["size_bytes"] == sif.stat().st_size
    assert record["made_from"] == f"docker://{registry.host}/team/tiny@{tiny.digest}"
    assert record["apptainer"] in subprocess.run(["apptainer", "--version"], env=ENV, capture_output=True, text=True, check=True).stdout


def test_nothing_but_the_image_its_record_and_its_lock_is_left_of_a_pull(pulled):
    sif = only_sif(pulled[2])

    assert {f.name for f in sif.parent.iterdir()} == {sif.name, f"{sif.name}.json", f".{sif.name}.lock"}


def test_a_second_pull_asks_the_registry_for_nothing(pulled, tiny):
    registry, name, folder, _ = pulled
    n_requests, written = registry.n_requests.total(), only_sif(folder).stat().st_mtime_ns
    again = images(folder, "pull", name)

    assert again.returncode == 0, again.stderr
    assert f"{only_sif(folder)} already exists" in again.stderr
    assert registry.n_fetches(*tiny.layers) == 2
    assert registry.n_requests.total() == n_requests
    assert only_sif(folder).stat().st_mtime_ns == written


def test_the_pin_that_a_pull_prints_pins_the_image_in_an_engine_file_of_one_s_own(pulled, tiny, tmp_path):
    _, name, folder, said = pulled
    (tmp_path / "conf" / "engine").mkdir(parents=True)
    [digests] = [line.partition("digests: ")[2] for line in said.splitlines() if "digests: " in line]
    (tmp_path / "conf" / "engine" / "mine.yaml").write_text(f"defaults: [sglang, _self_]\ndigests: {digests}")
    own = ("--config-dir", str(tmp_path / "conf"), "engine=mine", "hardware=h200", "engine.version='1.0'")
    done = bench(tmp_path, "images", "list", "--json", *own, f"engine.image={name}", f"cluster.image_dir={folder / 'images'}", **ENV)
    [row] = json.loads(_orderly(done).stdout)["images"]

    assert (row["image"], row["pin"]) == (f"{name}@{tiny.digest}", tiny.digest)


def test_a_pulled_image_runs_with_all_its_layers(registry, tmp_path):
    (tmp_path / "above").mkdir()
    (tmp_path / "above" / "hello").write_text("hello from above\n")
    shell = oci_image(_root(tmp_path / "below", ["/bin/sh"]), tmp_path / "above")
    done = images(tmp_path, "pull", registry.push(shell, "team/shell", "1.0"))
    assert done.returncode == 0, done.stderr
    command = ["apptainer", "exec", "--contain", str(only_sif(tmp_path)), "/bin/sh", "-c", "read line </hello; echo $line"]
    said = subprocess.run(command, env={**os.environ, **ENV}, capture_output=True, text=True, check=True).stdout

    assert said == "hello from above\n"


def test_of_an_image_for_several_machines_the_digest_of_all_of_them_is_recorded(registry, tiny, tmp_path):
    index = registry.push_index(tiny, "team/several", "1.0")
    done = images(tmp_path, "pull", f"{registry.host}/team/several:1.0")

    assert done.returncode == 0, done.stderr
    assert record_of(only_sif(tmp_path))["oci_digest"] == index != tiny.digest
    assert registry.n_fetches(*tiny.layers) == 2


def test_a_pinned_image_is_pulled_by_its_digest_into_a_file_that_says_so_and_no_pin_is_advised(registry, name, tiny, tmp_path):
    done = images(tmp_path, "pull", f"{name}@{tiny.digest}")

    assert done.returncode == 0, done.stderr
    assert only_sif(tmp_path).name.endswith(f"_team_tiny_1.0_sha256_{tiny.digest[7:19]}.sif")
    assert record_of(only_sif(tmp_path))["oci_digest"] == tiny.digest
    assert "HEAD /v2/team/tiny/manifests/1.0" not in registry.n_requests
    assert "pin it" not in done.stderr


def test_a_tag_that_was_moved_since_does_not_change_a_pinned_image(registry, name, tiny, tmp_path):
    newer = oci_image(label="newer")
    registry.push(newer, "team/tiny", "1.0")
    done = images(tmp_path, "pull", f"{name}@{tiny.digest}")

    assert done.returncode == 0, done.stderr
    assert record_of(only_sif(tmp_path))["oci_digest"] == tiny.digest != newer.digest
    assert (registry.n_fetches(tiny.config), registry.n_fetches(newer.config)) == (1, 0)


def test_a_pin_that_the_registry_does_not_have_leaves_no_image(name, tmp_path):
    done = images(tmp_path, "pull", f"{name}@{NOBODYS}")

    assert done.returncode == 1
    assert NOBODYS in done.stderr
    assert "manifest unknown" in done.stderr
    assert sifs(tmp_path) == []


def test_a_tag_that_the_registry_does_not_have_is_an_error_with_the_next_step(registry, name, tmp_path):
    other = name.replace(":1.0", ":2.0")
    done = images(tmp_path, "pull", other)

    assert done.returncode == 3
    assert f"{registry.host} does not have this image: {other}." in done.stderr
    assert "--from FILE" in done.stderr
    assert sifs(tmp_path) == []


def test_a_registry_that_is_down_is_an_error_with_the_next_step(tiny, tmp_path):
    with Registry() as registry:
        name = registry.push(tiny, "team/tiny", "1.0")
    done = images(tmp_path, "pull", name)

    assert done.returncode == 3
    assert f"{registry.host} cannot be reached" in done.stderr
    assert "--from FILE" in done.stderr
    assert sifs(tmp_path) == []


def test_a_registry_that_gives_everybody_a_token_is_asked_for_one(tiny, tmp_path):
    with Registry(Login()) as registry:
        done = images(tmp_path, "pull", registry.push(tiny, "team/tiny", "1.0"))

    assert done.returncode == 0, done.stderr
    assert registry.n_requests["GET /token"] > 0
    assert record_of(only_sif(tmp_path))["oci_digest"] == tiny.digest


def test_a_user_s_name_and_password_get_the_token_and_stand_in_no_output_and_no_record(tiny, tmp_path):
    login = {"APPTAINER_DOCKER_USERNAME": "ada", "APPTAINER_DOCKER_PASSWORD": "s3cret"}
    with Registry(Login("ada", "s3cret")) as registry:
        done = images(tmp_path, "pull", registry.push(tiny, "team/tiny", "1.0"), **login)

    assert done.returncode == 0, done.stderr
    assert record_of(only_sif(tmp_path))["oci_digest"] == tiny.digest
    assert "s3cret" not in done.stdout + done.stderr + json.dumps(record_of(only_sif(tmp_path)))


def test_with_a_wrong_password_nothing_is_pulled(tiny, tmp_path):
    login = {"APPTAINER_DOCKER_USERNAME": "ada", "APPTAINER_DOCKER_PASSWORD": "wr0ng"}
    with Registry(Login("ada", "s3cret")) as registry:
        done = images(tmp_path, "pull", registry.push(tiny, "team/tiny", "1.0"), **login)

    assert done.returncode == 3
    assert f"{registry.host} answered with status 401" in done.stderr
    assert "wr0ng" not in done.stderr
    assert registry.n_fetches() == 0
    assert sifs(tmp_path) == []


def test_a_token_service_that_answers_something_else_is_an_error_with_the_next_step(tiny, tmp_path):
    with Registry(Login(answer=b"<html>Bad Gateway</html>")) as registry:
        done = images(tmp_path, "pull", registry.push(tiny, "team/tiny", "1.0"))

    assert done.returncode == 3
    assert "next:" in done.stderr


# Interrupted pulls, and two pulls at the same time


def test_a_transfer_that_breaks_off_leaves_no_image_and_the_next_pull_makes_it(registry, name, tiny, tmp_path):
    registry.cut(tiny.layers[0], 1)
    broken = images(tmp_path, "pull", name)
    left = sifs(tmp_path)
    mended = images(tmp_path, "pull", name)

    assert (broken.returncode, mended.returncode) == (1, 0)
    assert "unexpected EOF" in broken.stderr
    assert "next:" in broken.stderr
    assert left == []
    assert images(tmp_path, "verify", name).returncode == 0


def test_a_killed_pull_leaves_no_image_and_the_next_one_needs_no_layer_that_was_whole(registry, name, tiny, tmp_path):
    whole, other = tiny.layers
    held = registry.hold(other)
    pull = started(tmp_path, "pull", name)
    until(held.asked.is_set, "the request for the other layer")
    until(lambda: list((tmp_path / "images").rglob(digest(whole)[7:])), "the first layer in the cache")
    os.killpg(pull.pid, signal.SIGKILL)
    pull.communicate()
    left = sifs(tmp_path)
    held.free.set()
    registry.hold(whole)  # held for ever: a pull that reads this blob does not end
    again = images(tmp_path, "pull", name)

    assert left == []
    assert again.returncode == 0, again.stderr
    assert record_of(only_sif(tmp_path))["oci_digest"] == tiny.digest
    assert not list((tmp_path / "images").glob(".*.layers"))


def test_of_two_pulls_at_once_one_makes_the_image_and_the_other_says_who_does(registry, name, tiny, tmp_path):
    held = registry.hold(tiny.layers[0])
    first = started(tmp_path, "pull", name)
    until(held.asked.is_set, "the request for the layer")
    second = images(tmp_path, "pull", name)
    held.free.set()
    said = first.communicate(timeout=60)[1]

    assert (first.returncode, second.returncode) == (0, 3), said
    assert f"is being made by process {first.pid} on {os.uname().nodename}" in second.stderr
    assert "next: wait until that command has ended" in second.stderr
    assert registry.n_fetches(*tiny.layers) == 2
    assert images(tmp_path, "verify", name).returncode == 0


# list and verify


def test_an_image_is_well_as_long_as_no_byte_of_it_changes(sif, tmp_path):
    before = images(tmp_path, "verify", CARRIED)
    content = bytearray(sif.read_bytes())
    content[len(content) // 2] ^= 1
    sif.write_bytes(content)
    after = images(tmp_path, "verify", CARRIED)

    assert (before.returncode, before.stdout) == (0, f"{CARRIED}: well\n")
    assert after.returncode == 1
    assert (
        f"has the hash {hashlib.sha256(content).hexdigest()[:12]}, but its record has {record_of(sif)['sif_sha256'][:12]}" in after.stdout
    )


def test_an_image_with_a_changed_byte_is_pulled_again_as_verify_advises(sif, archive, tmp_path):
    content = bytearray(sif.read_bytes())
    content[-1] ^= 1
    sif.write_bytes(content)
    advice = images(tmp_path, "verify", CARRIED).stdout
    images(tmp_path, "pull", CARRIED, "--from", str(archive))

    assert "pull it again" in advice
    assert images(tmp_path, "verify", CARRIED).returncode == 0


@pytest.mark.parametrize("verb", ["list", "verify"])
def test_of_a_truncated_image_both_sizes_are_said(sif, tmp_path, verb):
    size = sif.stat().st_size
    os.truncate(sif, 5000)
    done = images(tmp_path, verb, CARRIED)

    assert done.returncode == 1
    assert f"{sif} has 5,000 bytes, but its record has {size:,}" in done.stdout


def test_a_truncated_image_is_made_again_by_a_pull(sif, archive, tmp_path):
    os.truncate(sif, 5000)
    done = images(tmp_path, "pull", CARRIED, "--from", str(archive))

    assert done.returncode == 0, done.stderr
    assert images(tmp_path, "verify", CARRIED).returncode == 0


def test_an_image_that_was_put_there_by_hand_cannot_be_verified_until_a_pull_has_recorded_its_hash(sif, tmp_path):
    sif.with_name(sif.name + ".json").unlink()
    before = images(tmp_path, "verify", CARRIED)
    pull = images(tmp_path, "pull", CARRIED, PATH="/nowhere")  # needs neither a registry nor Apptainer
    record = record_of(sif)

    assert before.returncode == 1
    assert "has no record: `glm5bench images pull` writes one" in before.stdout
    assert pull.returncode == 0, pull.stderr
    assert "was copied there by hand" in pull.stderr
    assert (record["oci_digest"], record["sif_sha256"]) == ("", hashlib.sha256(sif.read_bytes()).hexdigest())
    assert images(tmp_path, "verify", CARRIED).returncode == 0


DAMAGES = {
    "cut": lambda text: text[: len(text) // 2],
    "no_object": lambda _: b"[]",
    "no_text": lambda _: b"\xff\xfe\x00",
    "no_digest": lambda text: text.replace(b"oci_digest", b"digest"),
}


@pytest.mark.parametrize(("verb", "damage"), [("list", "cut"), ("verify", "no_object"), ("list", "no_text"), ("verify", "no_digest")])
def test_a_damaged_record_is_named_and_makes_the_image_unfit(sif, tmp_path, verb, damage):
    record = sif.with_name(sif.name + ".json")
    record.write_bytes(DAMAGES[damage](record.read_bytes()))
    done = images(tmp_path, verb, CARRIED)

    assert done.returncode == 1
    assert str(record) in done.stdout


def test_an_image_whose_record_is_damaged_is_made_again_by_a_pull(sif, archive, tmp_path):
    sif.with_name(sif.name + ".json").write_text("[]")
    done = images(tmp_path, "pull", CARRIED, "--from", str(archive))

    assert done.returncode == 0, done.stderr
    assert images(tmp_path, "verify", CARRIED).returncode == 0


def test_a_pinned_image_is_unfit_without_a_record_and_with_the_record_of_another_digest(sif, tiny, tmp_path):
    pinned = sif.with_name(f"127.0.0.1_9_team_tiny_1.0_sha256_{'0' * 12}.sif")
    sif.rename(pinned)
    without = images(tmp_path, "list", f"{CARRIED}@{NOBODYS}")
    sif.with_name(sif.name + ".json").rename(f"{pinned}.json")
    other = images(tmp_path, "verify", f"{CARRIED}@{NOBODYS}")

    assert (without.returncode, other.returncode) == (1, 1)
    assert f"has no record ({pinned.name}.json), but {CARRIED} is pinned to {NOBODYS[:19]}" in without.stdout
    assert f"was made from {tiny.digest[:19]}, but {CARRIED} is pinned to {NOBODYS[:19]}" in other.stdout


def test_a_list_says_which_images_are_there_of_which_digest_and_which_lack(sif, tiny, tmp_path):
    [row] = json.loads(images(tmp_path, "list", CARRIED, "--json").stdout)["images"]
    lacking = images(tmp_path, "list", "mine.sif")

    assert (row["is_well"], row["oci_digest"], row["size_bytes"], row["pin"]) == (True, tiny.digest, sif.stat().st_size, "")
    assert lacking.returncode == 1
    assert f"the image {sif.with_name('mine.sif')} does not exist" in lacking.stdout


def test_a_file_of_one_s_own_that_is_not_there_is_an_error_with_the_next_step(tmp_path):
    done = images(tmp_path, "pull", "mine.sif", PATH="/nowhere")

    assert done.returncode == 3
    assert "next: copy it there or use --from FILE" in done.stderr


def test_a_file_of_one_s_own_that_was_replaced_is_not_called_missing(sif, tmp_path):
    mine = sif.with_name("mine.sif")
    shutil.copy(sif, mine)
    assert images(tmp_path, "pull", "mine.sif").returncode == 0
    with mine.open("ab") as file:
        file.write(b"rebuilt")

    assert "does not exist" not in images(tmp_path, "pull", "mine.sif").stderr


# From files instead of a registry


def test_of_an_oci_archive_its_digest_is_recorded_and_satisfies_the_pin(archive, tiny, tmp_path):
    done = images(tmp_path, "pull", f"{CARRIED}@{tiny.digest}", "--from", str(archive))

    assert done.returncode == 0, done.stderr
    assert record_of(only_sif(tmp_path))["oci_digest"] == tiny.digest
    assert record_of(only_sif(tmp_path))["made_from"] == f"oci-archive:{archive}"
    assert images(tmp_path, "verify", f"{CARRIED}@{tiny.digest}").returncode == 0


def test_an_oci_archive_of_another_digest_than_the_pin_is_refused(archive, tiny, tmp_path):
    done = images(tmp_path, "pull", f"{CARRIED}@{NOBODYS}", "--from", str(archive))

    assert done.returncode == 1
    assert f"{CARRIED} is pinned to {NOBODYS[:19]}, but the archive has {tiny.digest[:19]}" in done.stderr
    assert sifs(tmp_path) == []


def test_a_carried_sif_file_keeps_the_digest_of_the_record_beside_it(made, tiny, tmp_path):
    done = images(tmp_path, "pull", f"{CARRIED}@{tiny.digest}", "--from", str(made / CARRIED_SIF))
    sif = only_sif(tmp_path)

    assert done.returncode == 0, done.stderr
    assert sif.read_bytes() == (made / CARRIED_SIF).read_bytes()
    assert (record_of(sif)["oci_digest"], record_of(sif)["made_from"]) == (tiny.digest, str(made / CARRIED_SIF))


def test_a_carried_sif_file_without_a_record_is_of_no_known_digest_and_satisfies_no_pin(made, tiny, tmp_path):
    alone = shutil.copy(made / CARRIED_SIF, tmp_path / "alone.sif")
    pinned = images(tmp_path, "pull", f"{CARRIED}@{tiny.digest}", "--from", str(alone))
    left = sifs(tmp_path)
    unpinned = images(tmp_path, "pull", CARRIED, "--from", str(alone))

    assert (pinned.returncode, unpinned.returncode) == (1, 0)
    assert "copy the .json file next to it, too" in pinned.stderr
    assert left == []
    assert record_of(only_sif(tmp_path))["oci_digest"] == ""
    assert "pin it" not in unpinned.stderr


def test_a_carried_sif_file_of_another_digest_than_the_pin_is_refused(made, tiny, tmp_path):
    done = images(tmp_path, "pull", f"{CARRIED}@{NOBODYS}", "--from", str(made / CARRIED_SIF))

    assert done.returncode == 1
    assert f"is pinned to {NOBODYS[:19]}, but {CARRIED_SIF} was made from {tiny.digest[:19]}" in done.stderr
    assert sifs(tmp_path) == []


def test_a_carried_sif_file_that_changed_on_its_way_is_refused(made, tmp_path):
    carried = tmp_path / "carried"
    shutil.copytree(made, carried)
    os.truncate(carried / CARRIED_SIF, 5000)
    done = images(tmp_path, "pull", CARRIED, "--from", str(carried / CARRIED_SIF))

    assert done.returncode == 1
    assert "does not match the hash in its record" in done.stderr
    assert "next: copy it here again" in done.stderr
    assert sifs(tmp_path) == []


def _tar_of(file, path):
    with tarfile.open(path, "w") as tar:
        tar.add(file, "a_file")


def _cut_compressed(archive, path):
    path.write_bytes(gzip.compress(archive.read_bytes(), 1)[:5000])


NO_IMAGES = {
    "nothing": (lambda *_: None, "No such file"),
    "folder": (lambda _, __, path: path.mkdir(), "Is a directory"),
    "garbage": (lambda _, __, path: path.write_bytes(b"garbage" * 1000), "This is neither a SIF file nor an OCI archive"),
    "ordinary_tar": (lambda archive, _, path: _tar_of(archive, path), "This tar file does not contain an image"),
    "cut_archive": (lambda archive, _, path: path.write_bytes(archive.read_bytes()[:50_000]), "unexpected end of data"),
    "empty_index": (lambda _, tiny, path: write_archive(tiny, path, index=b'{"manifests": []}'), "nor an OCI archive"),
    "no_digest": (
        lambda _, tiny, path: write_archive(tiny, path, index=b'{"manifests": [{"digest": 7}]}'),
        "The archive's digest is not a valid sha256 digest: '7'",
    ),
    "missing_blob": (
        lambda _, tiny, path: write_archive(tiny, path, index=b'{"manifests": [{"digest": "%s"}]}' % NOBODYS.encode()),
        "apptainer build failed",
    ),
    "cut_gzip": (lambda archive, _, path: _cut_compressed(archive, path), "This is neither a SIF file nor an OCI archive"),
}


@pytest.mark.parametrize("kind", list(NO_IMAGES))
def test_what_is_carried_in_and_is_no_image_is_refused(archive, tiny, tmp_path, kind):
    make, said = NO_IMAGES[kind]
    make(archive, tiny, tmp_path / "carried")
    done = images(tmp_path, "pull", CARRIED, "--from", str(tmp_path / "carried"))

    assert done.returncode == 1
    assert said in done.stderr
    assert str(tmp_path / "carried") in done.stderr
    assert sifs(tmp_path) == []


def test_one_file_is_carried_in_for_one_of_several_images_which_has_to_be_named(archive, tmp_path):
    sglang = "lmsysorg/sglang:v0.5.12-cu130"
    overrides = ("engine=sglang,vllm", "hardware=h200", f"cluster.image_dir={tmp_path / 'images'}")
    of_both = _orderly(bench(tmp_path, "images", "pull", *overrides, "--from", str(archive), **ENV))
    of_one = _orderly(bench(tmp_path, "images", "pull", *overrides, "--from", str(archive), "--image", sglang, **ENV))

    assert (of_both.returncode, of_one.returncode) == (2, 0)
    assert "next: --image NAME" in of_both.stderr
    assert only_sif(tmp_path).name == "lmsysorg_sglang_v0.5.12-cu130.sif"


def test_no_pin_is_advised_for_a_file_of_one_s_own(archive, tmp_path):
    done = images(tmp_path, "pull", "mine.sif", "--from", str(archive))

    assert done.returncode == 0, done.stderr
    assert "pin it" not in done.stderr


# Machines with missing programs


def test_an_image_directory_that_cannot_be_made_is_named(archive, tmp_path):
    (tmp_path / "images").write_text("a file in its place")
    done = images(tmp_path, "pull", CARRIED, "--from", str(archive))

    assert done.returncode == 3
    assert f"where: {tmp_path / 'images'}" in done.stderr
    assert "next: choose another directory" in done.stderr
    assert (tmp_path / "images").read_text() == "a file in its place"


def test_without_apptainer_on_path_a_pull_says_so_and_leaves_no_image(name, tmp_path):
    done = images(tmp_path, "pull", name, PATH="/nowhere")

    assert done.returncode == 3
    assert "apptainer is not on PATH." in done.stderr
    assert sifs(tmp_path) == []


@as_root
@pytest.mark.parametrize(("origin", "code"), [("registry", 1), ("sif", 3)])
def test_a_full_disk_is_named_and_holds_no_half_image(name, made, tmp_path, origin, code):
    (tmp_path / "images").mkdir()
    carried = ["--from", str(made / CARRIED_SIF)] if origin == "sif" else []
    on_a_small_disk = 'mount -t tmpfs -o size=64k tmpfs "$0" && { "$@"; code=$?; find "$0" -name "*.sif" -o -name "*.part"; exit $code; }'
    command = [sys.executable, "-m", "glm5bench", *asked(tmp_path, "pull", name, *carried)]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", on_a_small_disk, str(tmp_path / "images"), *command],
        env={**environment(tmp_path), **ENV},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert _orderly(done).returncode == code, done.stderr
    assert "no space left on device" in done.stderr.lower()
    assert "next:" in done.stderr
    assert done.stdout == ""  # of find
