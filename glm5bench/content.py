"""What a file holds, as one number: the hash by which images and recorded workloads are known."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256(path: Path) -> str:
    """The hash of a file's bytes, 64 hex digits. Raises OSError where it cannot be read."""
    h = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**22):
            h.update(piece)
    return h.hexdigest()
