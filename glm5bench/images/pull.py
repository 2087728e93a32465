"""Puts images into the image directory, from a registry or from a local file. Apptainer does the work.

The file is complete or absent, and its record is written first. Layers of an interrupted pull are kept until the image is complete. Two
commands never make the same image at once: the second one fails and names the first.
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
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path

from ..errors import BenchError, EnvironmentLacks, FileError
from ..files import sha256, writable, write_whole
from .record import Record, is_sif, lacking, read_record, record_path, write_record
from .reference import DIGEST, Reference, reference
from .registry import digest_of_tag

Say = Callable[[str], None]


def pull(directory: Path, ref: Reference, say: Say, *, source: Path | None = None, arch: str = "") -> Record:
    """The record of the image. The image is made now, unless the file exists and matches its record.

    `source`: a SIF file or OCI archive to use instead of the registry. `arch`: the nodes' architecture; empty: this machine's. Raises
    EnvironmentLacks if the registry, Apptainer or the directory fails, FileError if the source is not the image.
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
        for old in directory.glob(f".{sif.name}.*.part"):  # left by a pull that was killed
            old.unlink(missing_ok=True)
        write_whole(sif, lambda part: _make(part, sif, ref, say, source, lock, ["--arch", arch] if arch else []))
    shutil.rmtree(_layers(sif), ignore_errors=True)
    record = read_record(sif)
    assert record is not None
    say(f"{ref.text}: {sif}, {record.size_bytes / 2**30:,.2f} GiB")
    return record


def _there(sif: Path, ref: Reference, say: Say, source: Path | None) -> Record | None:
    """The record of a file that exists and is correct; None if the image must be made."""
    if not sif.is_file():
        if not ref.repository and source is None:
            raise EnvironmentLacks(f"{ref.text} is your own file, but {sif} does not exist.", next_step="copy it there or use --from FILE")
        return None
    wrong = verified(sif.parent, ref, {})
    if not wrong:
        say(f"{ref.text}: {sif} already exists")
        return read_record(sif)
    if record_path(sif).is_file() or ref.digest or source is not None:
        if not ref.repository and source is None:
            step = f"if you replaced the image on purpose, remove {record_path(sif)}; then run the command again"
            raise FileError(f"{wrong}.", path=str(sif), next_step=step)
        say(f"{ref.text}: {wrong}; making it again")
        return None
    say(f"{ref.text}: {sif} was copied there by hand; recording its hash")
    record = _record(ref, sif, "", "a file that was there")
    write_record(sif, record)
    return record


def _make(part: Path, sif: Path, ref: Reference, say: Say, source: Path | None, lock: int, arch: list[str]) -> None:
    """Makes the image's file under the name `part`, and writes its record, which exists before the final file does."""
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
    """The digest that a file in the image directory was made from, if the file matches its record; else empty."""
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
    """The digest of a local SIF file, from the record next to it. Raises FileError if it is not the pinned digest."""
    known = read_record(source)
    if known is not None and known.sif_sha256 != sha256(source):
        raise FileError(f"{source.name} does not match the hash in its record.", path=str(source), next_step="copy it here again")
    digest = known.oci_digest if known is not None else ""
    if ref.digest and digest != ref.digest:
        what = f"was made from {digest[:19]}" if digest else "has no record of its digest: copy the .json file next to it, too"
        raise FileError(f"{ref.unpinned} is pinned to {ref.digest[:19]}, but {source.name} {what}.", path=str(source))
    return digest


def _archived(source: Path, ref: Reference) -> tuple[str, str]:
    """The digest of an archive, and Apptainer's name for its format. Raises FileError if it is not an image or not the pinned one."""
    try:
        with tarfile.open(source) as tar:
            names = set(tar.getnames())
            index = tar.extractfile("index.json") if "index.json" in names else None
            digest = str(json.load(index)["manifests"][0]["digest"]) if index else ""
    except (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError, ValueError, LookupError, TypeError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise FileError(f"This is neither a SIF file nor an OCI archive: {said}.", path=str(source)) from error
    transport = "oci-archive" if index else "docker-archive"
    if not index and "manifest.json" not in names:
        step = "`skopeo copy --preserve-digests docker://... oci-archive:FILE` makes one"
        raise FileError("This tar file does not contain an image.", path=str(source), next_step=step)
    if digest and not DIGEST.fullmatch(digest):
        raise FileError(f"The archive's digest is not a valid sha256 digest: {digest[:80]!r}.", path=str(source))
    if ref.digest and digest != ref.digest:
        raise FileError(
            f"{ref.unpinned} is pinned to {ref.digest[:19]}, but the archive has {digest[:19] or 'no digest'}.", path=str(source)
        )
    return digest, transport


def _layers(sif: Path) -> Path:
    """The directory that keeps an image's downloaded layers until it is complete, so that an interrupted pull can resume."""
    return sif.with_name(f".{sif.name}.layers")


def _apptainer(arguments: list[str], directory: Path, lock: int) -> None:
    """Runs one Apptainer command. Its cache and temporary files are in this directory, because a home directory is often too small.

    Apptainer's process holds the lock too: if only this process is killed, Apptainer goes on, and no other command starts.
    """
    if shutil.which("apptainer") is None:
        raise EnvironmentLacks("apptainer is not on PATH.", next_step="load its module, or run the command on a machine that has it")
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
            f"apptainer {arguments[0]} failed: {said.strip()}", next_step="fix it, then run the command again; downloaded layers are kept"
        )


def _lock(descriptor: int) -> None:
    """Takes the lock, if the file system supports locks. Raises BlockingIOError if another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise


@contextlib.contextmanager
def _alone(sif: Path) -> Iterator[int]:
    """While this descriptor is open, no other command makes the same image. Raises EnvironmentLacks if one already does."""
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
        raise EnvironmentLacks(f"{sif.name} is being made by {who}.", next_step="wait until that command has ended") from None
    finally:
        os.close(descriptor)


def verified(directory: Path, ref: Reference, pins: Mapping[str, str]) -> str:
    """Why the image does not match its record or its pins, after hashing the whole file; empty if it matches."""
    quickly = lacking(directory, ref, pins)
    if quickly:
        return quickly
    sif = directory / ref.sif
    record = read_record(sif)
    if record is None:
        return f"{sif} has no record: `glm5bench images pull` writes one"
    found = sha256(sif)
    return (
        "" if found == record.sif_sha256 else f"{sif} has the hash {found[:12]}, but its record has {record.sif_sha256[:12]}: pull it again"
    )
