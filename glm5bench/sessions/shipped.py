"""Files of sessions that come with the package."""

from __future__ import annotations

from pathlib import Path

from ..errors import SettingsError

PREFIX = "shipped:"


def located(file: str) -> str:
    """The path of a file; `shipped:NAME` is one that comes with the package. Raises SettingsError if there is no such name."""
    if not file.startswith(PREFIX):
        return file
    names = {path.stem: path for path in sorted((Path(__file__).resolve().parent / "data").glob("*.jsonl"))}
    name = file.removeprefix(PREFIX)
    if name not in names:
        known = ", ".join(PREFIX + n for n in names)
        raise SettingsError(f"No file of sessions named {name!r} comes with glm5bench.", where="workload.file", next_step=known)
    return str(names[name])
