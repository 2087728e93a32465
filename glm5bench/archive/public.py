"""Measurements without the names of people and machines, for an archive that is published.

Replaced in texts and names of records: absolute paths (their last part stays), names of users, names and addresses of hosts. Figures and
times stay. The content digest of a point changes, so a public archive is not merged with the files that it was made from.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import FileError
from ..values.plain import digest_of
from .collection import collect
from .decoding import measurements
from .measurement import Measurement
from .union import Merged, merge, write_measurements

WORD = r"[^\s\"'`,;:=()<>\[\]{}|/]"
PATH = re.compile(rf"(?<![\w./$<>-])/(?:{WORD}+/)+(?={WORD}*)")
HOME = re.compile(rf"/(?:home|users|Users|u)/({WORD}+)")
ADDRESS = re.compile(  # private ones, and others with a port; version numbers of libraries have four parts too
    r"(?<![\w.])(?:(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2,3}(?![\w.]*\w)|(?!127\.)(?:\d{1,3}\.){3}\d{1,3}(?=:\d{2,5}\b))"
)
COMMON = {"root", "user", "users", "home", "admin", "shared", "node", "none", "localhost", "unknown"}  # words that name nobody


@dataclass(frozen=True)
class Names:
    """What is replaced, apart from paths: hosts by number, and users."""

    hosts: dict[str, str]
    users: frozenset[str]

    def without(self, text: str) -> str:
        """The text with paths, hosts, users and addresses replaced."""
        text = PATH.sub("<path>/", text)
        for host, stands_for in self.hosts.items():
            text = re.sub(rf"(?<![\w-]){re.escape(host)}(?:\.[A-Za-z][\w-]*)*(?![\w-])", stands_for, text)
        for user in self.users:
            text = re.sub(rf"(?<![\w-]){re.escape(user)}(?![\w-])", "<user>", text)
        return ADDRESS.sub("<address>", text)

    def deeply(self, value: Any) -> Any:
        """The value with every text in it replaced, also names of JSON objects."""
        if isinstance(value, str):
            return self.without(value)
        if isinstance(value, dict):
            return {self.without(str(k)): self.deeply(v) for k, v in value.items()}
        return [self.deeply(v) for v in value] if isinstance(value, list | tuple) else value


def names_of(found_in: Iterable[Measurement], users: Iterable[str] = ()) -> Names:
    """The hosts and users of these measurements. `users`: others that are known, such as the user of the command."""
    hosts, found, keys = set(), set(users), []
    for m in found_in:
        keys.append(m.key)
        hosts |= {str(m.provenance[name]).partition(".")[0] for name in ("host", "node") if m.provenance.get(name)}
        for text in _texts([m.point, m.provenance, m.server, m.log]):
            found |= set(HOME.findall(text))
    mark = digest_of(sorted(keys), 4)  # numbers of two public archives never name the same host
    numbered = {host: f"node{i}-{mark}" for i, host in enumerate(sorted(hosts - COMMON, key=lambda h: (-len(h), h)), 1)}
    return Names(numbered, frozenset(user for user in found if len(user) > 2 and user not in COMMON))


def public(m: Measurement, names: Names) -> Measurement:
    """The measurement without these names. Published points are public already."""
    if m.source == "published":
        return m
    return replace(
        m,
        point=names.deeply(m.point),
        provenance={**names.deeply(m.provenance), "public": True},
        server=names.deeply(m.server),
        log=names.without(m.log),
    )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for k, v in value.items():
            yield str(k)
            yield from _texts(v)
    elif isinstance(value, list | tuple):
        for v in value:
            yield from _texts(v)


def publish(source: Path, output: Path, *, is_raw_kept: bool, users: Iterable[str] = ()) -> Merged:
    """Writes an archive of the points of `source` without names. Raises FileError for a point that is stored without its raw rows."""
    names, tables = names_of(_whole(source), users), tuple(collect([str(source)]).tables.values())
    if is_raw_kept:
        return write_measurements(output, (public(m, names) for m in _whole(source)), tables)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", suffix=".part", dir=output.parent) as folder:
        write_measurements(Path(folder) / "raw.h5", (public(m, names) for m in _whole(source)), tables)
        return merge([str(Path(folder) / "raw.h5")], output, is_raw_kept=False)


def _whole(source: Path) -> Iterator[Measurement]:
    for each in measurements(source):
        if isinstance(each, FileError):
            raise each
        if each[0] is None:
            raise FileError("A point is stored without its raw rows, so it cannot be made public. Merge its point files.", path=str(source))
        yield each[0]
