"""An image's reference: its registry, repository and tag, the digest that it is pinned to, and its file name. Pure.

The form is `docker://host/name:tag@sha256:...`. `docker://` is optional, the default host is Docker Hub, and the default tag is `latest`.
A reference that ends in `.sif` is a file in the image directory and is not in any registry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import SettingsError

DOCKER_HUB = "registry-1.docker.io"
DOCKER_HUBS = ("docker.io", "index.docker.io", DOCKER_HUB)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?")
PART = r"[A-Za-z0-9]+(?:(?:\.|_{1,2}|-+)[A-Za-z0-9]+)*"
REPOSITORY = re.compile(f"{PART}(?:/{PART})*")  # source: the OCI distribution specification
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.sif")


@dataclass(frozen=True)
class Reference:
    """One image. `digest` is its pin, or empty; `registry` and `repository` are empty for a local file."""

    text: str
    registry: str
    repository: str
    tag: str
    digest: str

    @property
    def sif(self) -> str:
        """The name of its file in the image directory. Different pins have different files."""
        if not self.repository:
            return self.tag
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", self.unpinned)
        return plain + (f"_sha256_{self.digest.partition(':')[2][:12]}" if self.digest else "") + ".sif"

    @property
    def unpinned(self) -> str:
        """The reference without `docker://` and without the digest."""
        return self.text.removeprefix("docker://").partition("@")[0]

    @property
    def is_local(self) -> bool:
        """Whether its registry is on this machine. Such a registry is used without TLS."""
        return self.registry.partition(":")[0] in ("127.0.0.1", "localhost")

    def docker(self, digest: str) -> str:
        """The address of exactly this digest for Apptainer, which accepts a tag or a digest but not both."""
        host = "" if self.registry == DOCKER_HUB else f"{self.registry}/"
        return f"docker://{host}{self.repository}@{digest}"


def reference(text: str) -> Reference:
    """The parts of an image's reference. Raises SettingsError if the text is not a valid reference."""
    if FILE.fullmatch(text):
        return Reference(text, "", "", text, "")
    plain, at, digest = text.removeprefix("docker://").partition("@")
    first, slash, rest = plain.partition("/")
    is_host = bool(slash) and ("." in first or ":" in first or first == "localhost")
    registry, path = (first, rest) if is_host else (DOCKER_HUB, plain)
    repository, colon, tag = path.partition(":")
    tag, pin = tag if colon else "latest", digest if at else f"sha256:{'0' * 64}"
    parts = ((HOST, registry), (REPOSITORY, repository), (TAG, tag), (DIGEST, pin))
    if not all(pattern.fullmatch(part) for pattern, part in parts) or repository.endswith(".sif"):
        step = "use name:tag, name:tag@sha256:<64 hex digits>, or FILE.sif in cluster.image_dir"
        raise SettingsError(f"{text!r} is not a valid image reference.", next_step=step)
    if registry in DOCKER_HUBS:
        registry, repository = DOCKER_HUB, repository if "/" in repository else f"library/{repository}"
    return Reference(text, registry, repository, tag, digest)
