"""What an image is called: its reference, the digest that it is pinned to, the registry that has it, and its file. Pure.

`docker://host/name:tag@sha256:...`: `docker://` may be left out, no host is Docker Hub's, no tag is `latest`. A reference that ends
in `.sif` is a file of the image directory, which no registry has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import SettingsError

DOCKER_HUB = "registry-1.docker.io"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]*")


@dataclass(frozen=True)
class Reference:
    """One image. `digest` is its pin, or empty; `registry` and `repository` are empty for a file."""

    text: str
    registry: str
    repository: str
    tag: str
    digest: str

    @property
    def sif(self) -> str:
        """The name of its file in the image directory. Another pin is another file."""
        if not self.repository:
            return self.tag
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", self.unpinned)
        return plain + (f"_sha256_{self.digest.partition(':')[2][:12]}" if self.digest else "") + ".sif"

    @property
    def unpinned(self) -> str:
        """As conf writes it, without the digest."""
        return self.text.removeprefix("docker://").partition("@")[0]

    @property
    def is_local(self) -> bool:
        """Whether its registry is on this machine, and spoken to without TLS."""
        return self.registry.partition(":")[0] in ("127.0.0.1", "localhost")

    def docker(self, digest: str) -> str:
        """The address of exactly this digest, for Apptainer, which takes a tag or a digest and not both."""
        host = "" if self.registry == DOCKER_HUB else f"{self.registry}/"
        return f"docker://{host}{self.repository}@{digest}"


def reference(text: str) -> Reference:
    """The parts of an image's name. Raises SettingsError for what is none."""
    plain, _, digest = text.removeprefix("docker://").partition("@")
    if not NAME.fullmatch(plain) or ".." in plain or (digest and not DIGEST.fullmatch(digest)):
        raise SettingsError(
            f"{text!r} is no image.", next_step="name:tag, name:tag@sha256:<64 hex digits>, or FILE.sif in cluster.image_dir"
        )
    if plain.endswith(".sif"):
        if "/" in plain or digest:
            raise SettingsError(f"{text!r}: a SIF file is named without a folder or a digest, it lies in cluster.image_dir.")
        return Reference(text, "", "", plain, "")
    first, _, rest = plain.partition("/")
    is_host = bool(rest) and ("." in first or ":" in first or first == "localhost")
    registry, path = (first, rest) if is_host else (DOCKER_HUB, plain)
    name, colon, tag = path.rpartition(":")
    repository = name if colon else path
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return Reference(text, registry, repository, tag if colon else "latest", digest)
