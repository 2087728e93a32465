"""A checkpoint's directory: whether it is complete, which revision it is, and how much of it is already in the node's memory.

Input: a directory in the layout of `hf download --local-dir` (config.json, the index, its shards). Output: what was found. Weights are
not read: a shard's length is compared with the length in its own header, which detects an interrupted download.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..values.groups import Checkpoint

INDEX = "model.safetensors.index.json"
MOST_HEADER_BYTES = 100_000_000  # what the safetensors library itself accepts
REVISION = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Found:
    """The contents of the directory. `lacks`: what is wrong, in half a sentence, or empty; `revision`: the hub's commit, or empty."""

    revision: str
    n_shards: int
    size_bytes: int
    lacks: str


def found(directory: Path, checkpoint: Checkpoint) -> Found:
    """The parts of the checkpoint that are in this directory. Never raises."""
    try:
        if not directory.is_dir():
            return Found("", 0, 0, f"the checkpoint {directory} does not exist")
        shards = _shards(directory)
        lacks, revision = _incomplete(directory, shards), _revision(directory)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error) as error:
        return Found("", 0, 0, f"the checkpoint {directory} cannot be read: {' '.join(str(error).split())}")
    if not lacks and checkpoint.revision and revision and revision != checkpoint.revision:
        lacks = f"{directory} is revision {revision[:12]}, but {checkpoint.id} is pinned to {checkpoint.revision[:12]}"
    return Found(revision, len(shards), sum((directory / name).stat().st_size for name in shards) if not lacks else 0, lacks)


def _shards(directory: Path) -> list[str]:
    """The weight files that the index names, or the one file of a small model."""
    if not (directory / "config.json").is_file():
        raise ValueError("it has no config.json")
    if not (directory / INDEX).is_file():
        return ["model.safetensors"]
    names = sorted(set(json.loads((directory / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    strange = [name for name in names if Path(name).name != name]
    if strange or not names:
        raise ValueError(f"{INDEX} lists {strange[0]!r}, which is not a file name" if strange else f"{INDEX} lists no files")
    return names


def _incomplete(directory: Path, shards: list[str]) -> str:
    missing = [name for name in shards if not (directory / name).is_file()]
    if missing:
        return f"{directory}: {len(missing)} of {len(shards)} weight files are missing, the first is {missing[0]}"
    for name in shards:
        has, should = (directory / name).stat().st_size, _declared_bytes(directory / name)
        if has != should:
            return f"{directory / name} has {has:,} bytes, but its header declares {should:,}: the download is incomplete"
    if not any((directory / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")):
        return f"{directory} has no tokenizer"
    return ""


def _declared_bytes(shard: Path) -> int:
    """The length that a safetensors file should have, in bytes. Source: the format's README: 8 bytes of length, a JSON header, the data."""
    with shard.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            return 8
        (length,) = struct.unpack("<Q", start)
        if length > MOST_HEADER_BYTES:
            raise ValueError(f"{shard.name} is not a safetensors file")
        header = json.loads(file.read(length) or b"{}")
    return int(8 + length + max((tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"), default=0))


def _revision(directory: Path) -> str:
    """The commit that the directory was downloaded from, according to the hub's metadata file or its cache folder's name; else empty."""
    with contextlib.suppress(OSError):
        note = (directory / ".cache" / "huggingface" / "download" / "config.json.metadata").read_text(encoding="utf-8", errors="replace")
        return note.split("\n", 1)[0].strip() if REVISION.match(note) else ""
    return next((part for part in reversed(directory.resolve().parts) if REVISION.fullmatch(part)), "")


def directories(directory: Path) -> list[str]:
    """The directories that are needed to read the checkpoint: its own, and those that its files link to, as in the hub's cache."""
    if not directory.is_dir():
        return []
    linked = {str(path.resolve().parent) for path in directory.iterdir() if path.is_symlink()}
    return [str(directory), *sorted(linked - {str(directory)})]


def fetch_command(checkpoint: Checkpoint, directory: Path) -> str:
    """The command that downloads the checkpoint into the directory, on a machine with network access."""
    pinned = f" --revision {checkpoint.revision}" if checkpoint.revision else ""
    return f"hf download {checkpoint.repository}{pinned} --local-dir {directory}"


def cached_share(directory: Path) -> float | None:
    """The share of the weights in this node's page cache: 0 is a cold start, 1 a warm one. None if fincore(1) cannot determine it."""
    weights = sorted(str(path) for path in directory.glob("*.safetensors"))
    if not weights or shutil.which("fincore") is None:
        return None
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES,SIZE", *weights]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        counted = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    size = sum(size for _, size in counted)
    return min(1.0, sum(resident for resident, _ in counted) / size) if size else None
