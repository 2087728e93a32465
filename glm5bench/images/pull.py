"""Images into the image directory, each once: from a registry, or from a file that was carried in. Apptainer does the work.

The file appears whole or not at all, after its record; layers that were fetched before a pull was ended are kept until it is done. Two
commands at once do not make the same image twice: the second is told who does.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import lzma
import os
import shutil
import socket
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

from ..errors import BenchError, EnvironmentLacks, FileError
from ..files import sha256, writable, write_whole
from .record import Record, is_sif, lacking, read_record, record_path, write_record
from .reference import DIGEST, Reference, reference
from .registry import digest_of_tag

Say = Callable[[str], None]


def pull(directory: Path, ref: Reference, say: Say, *, source: Path | None = None, arch: str = "") -> Record:
    """The record of the image, made now unless the file is there and is what its record says.

    `source`: a SIF file or OCI archive in place of the registry; `arch`: of the nodes, empty: this machine's. Raises EnvironmentLacks where
    the registry, Apptainer or the directory do not allow it, FileError for a source that is not the image.
    """
    sif = directory / ref.sif
    if source is not None:
        try:
            source.open("rb").close()
        except OSError as error:
            raise FileError(f"{error.strerror}.", path=str(source)) from error
    with writable(sif):
        directory.mkdir(parents=True, exist_ok=True)
    with _alone(sif) as lock:
        there = _there(sif, ref, say, source)
        if there is not None:
            return there
        for old in directory.glob(f".{sif.name}.*.part"):  # of a pull that was killed
            old.unlink(missing_ok=True)
        write_whole(sif, lambda part: _make(part, sif, ref, say, source, lock, ["--arch", arch] if arch else []))
    shutil.rmtree(_layers(sif), ignore_errors=True)
    record = read_record(sif)
    assert record is not None
    say(f"{ref.text}: {sif}, {record.size_bytes / 2**30:,.2f} GiB")
    return record


def _there(sif: Path, ref: Reference, say: Say, source: Path | None) -> Record | None:
    """The record of a file that is there and well; None where the image has to be made."""
    if not sif.is_file():
        if not ref.repository and source is None:
            raise EnvironmentLacks(f"{ref.text} is a file of your own, and {sif} is not there.", next_step="--from FILE, or put it there")
        return None
    wrong = verified(sif.parent, ref)
    if not wrong:
        say(f"{ref.text}: {sif} is there")
        return read_record(sif)
    if record_path(sif).is_file() or ref.digest or source is not None:
        if not ref.repository and source is None:
            step = f"remove {record_path(sif)} if you replaced the image on purpose, then type it again"
            raise FileError(f"{wrong}.", path=str(sif), next_step=step)
        say(f"{ref.text}: {wrong}; making it again")
        return None
    say(f"{ref.text}: {sif} was put there by hand; its hash is recorded")
    record = _record(ref, sif, "", "a file that was there")
    write_record(sif, record)
    return record


def _make(part: Path, sif: Path, ref: Reference, say: Say, source: Path | None, lock: int, arch: list[str]) -> None:
    """The image's file under the name `part`, and its record, which stands before the file does."""
    unpinned = sif.with_name(reference(ref.unpinned).sif)
    if source is None and ref.digest and _digest_of(unpinned) == ref.digest:
        digest, origin = ref.digest, str(unpinned)
        shutil.copyfile(unpinned, part)
    elif source is None:
        digest = ref.digest or digest_of_tag(ref)
        origin = ref.docker(digest)
        say(f"{ref.text}: {digest}; pulling")
        _apptainer(["pull", "--force", *arch, *(["--no-https"] if ref.is_local else []), str(part), origin], _layers(sif), lock)
    elif is_sif(source):
        digest, origin = _carried(source, ref), str(source)
        shutil.copyfile(source, part)
    else:
        digest, transport = _archived(source, ref)
        origin = f"{transport}:{source}"
        say(f"{ref.text}: {digest or 'no digest'}; building from {source}")
        _apptainer(["build", "--force", str(part), origin], _layers(sif), lock)
    write_record(sif, _record(ref, part, digest, origin))


def _digest_of(sif: Path) -> str:
    """The digest that a file of the image directory was made from, where it is what its record says; else empty."""
    try:
        record = read_record(sif) if sif.is_file() else None
        return record.oci_digest if record is not None and record.sif_sha256 == sha256(sif) else ""
    except FileError:
        return ""


def _record(ref: Reference, sif: Path, digest: str, origin: str) -> Record:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    version = subprocess.run(["apptainer", "--version"], capture_output=True, text=True, check=False) if shutil.which("apptainer") else None
    said = version.stdout.strip().removeprefix("apptainer version ") if version else ""
    return Record(ref.unpinned, digest, sha256(sif), sif.stat().st_size, now, origin, said)


def _carried(source: Path, ref: Reference) -> str:
    """The digest of a SIF file that was carried in, from the record beside it. Raises FileError where it is not the pinned one."""
    known = read_record(source)
    if known is not None and known.sif_sha256 != sha256(source):
        raise FileError(f"{source.name} is not the file that its record is of.", path=str(source), next_step="carry it in again")
    digest = known.oci_digest if known is not None else ""
    if ref.digest and digest != ref.digest:
        what = f"was made from {digest[:19]}" if digest else "says nothing of its digest: carry the .json that lies beside it, too"
        raise FileError(f"{ref.unpinned} is pinned to {ref.digest[:19]}, and {source.name} {what}.", path=str(source))
    return digest


def _archived(source: Path, ref: Reference) -> tuple[str, str]:
    """The digest of an archive, and what Apptainer calls its kind. Raises FileError where it is none, or not the pinned one."""
    try:
        with tarfile.open(source) as tar:
            names = set(tar.getnames())
            index = tar.extractfile("index.json") if "index.json" in names else None
            digest = str(json.load(index)["manifests"][0]["digest"]) if index else ""
    except (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError, ValueError, LookupError, TypeError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise FileError(f"This is no SIF file and no OCI archive: {said}.", path=str(source)) from error
    transport = "oci-archive" if index else "docker-archive"
    if not index and "manifest.json" not in names:
        step = "`skopeo copy --preserve-digests docker://... oci-archive:FILE` makes one"
        raise FileError("This tar file holds no image.", path=str(source), next_step=step)
    if digest and not DIGEST.fullmatch(digest):
        raise FileError(f"The archive's digest is {digest[:80]!r}.", path=str(source))
    if ref.digest and digest != ref.digest:
        raise FileError(
            f"{ref.unpinned} is pinned to {ref.digest[:19]}, and the archive is {digest[:19] or 'of no digest'}.", path=str(source)
        )
    return digest, transport


def _layers(sif: Path) -> Path:
    """Where what was fetched of an image stays until it is whole: a pull that was ended goes on from there."""
    return sif.with_name(f".{sif.name}.layers")


def _apptainer(arguments: list[str], directory: Path, lock: int) -> None:
    """One command of Apptainer's, its cache and temporary files in this directory: a home is often too small for them.

    It holds the lock too: where this process alone is killed, the other goes on, and nobody else begins.
    """
    if shutil.which("apptainer") is None:
        raise EnvironmentLacks("There is no apptainer on PATH.", next_step="load its module, or type it on a machine that has one")
    own = {"APPTAINER_CACHEDIR": str(directory / "cache"), "APPTAINER_TMPDIR": str(directory / "tmp")}
    env = {**own, **os.environ}
    for name in own:
        with writable(Path(env[name])):
            Path(env[name]).mkdir(parents=True, exist_ok=True)
    command = ["apptainer", *arguments]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, pass_fds=(lock,))
    if done.returncode:
        said = " | ".join(line for line in done.stdout.splitlines() if "FATAL" in line or "ERROR" in line) or done.stdout[-300:]
        raise BenchError(
            f"apptainer {arguments[0]} failed: {said.strip()}", next_step="mend that, then type it again: layers that came are kept"
        )


def _lock(descriptor: int) -> None:
    """Takes the lock, where the file system has any. Raises BlockingIOError where it is taken."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise


@contextlib.contextmanager
def _alone(sif: Path) -> Iterator[int]:
    """While this descriptor is open, no other command makes the same image. Raises EnvironmentLacks where one does."""
    path = sif.with_name(f".{sif.name}.lock")
    with writable(path):
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        _lock(descriptor)
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield descriptor
    except BlockingIOError:
        who = os.read(descriptor, 200).decode("utf-8", "replace") or "another command"
        raise EnvironmentLacks(f"{sif.name} is being made by {who}.", next_step="wait for that one") from None
    finally:
        os.close(descriptor)


def verified(directory: Path, ref: Reference) -> str:
    """Why the image is not what its record and its pin say, its whole file hashed; empty where it is."""
    quickly = lacking(directory, ref)
    if quickly:
        return quickly
    sif = directory / ref.sif
    record = read_record(sif)
    if record is None:
        return f"{sif} has no record: `glm5bench images pull` writes one"
    found = sha256(sif)
    return (
        "" if found == record.sif_sha256 else f"{sif} has the hash {found[:12]}, and {record.sif_sha256[:12]} by its record: pull it again"
    )
