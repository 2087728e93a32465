"""What a registry says: the digest that a tag means today. The rest of a pull is Apptainer's.

Source: the OCI distribution specification.
"""

from __future__ import annotations

import os
import re

import httpx

from ..errors import EnvironmentLacks
from .reference import DIGEST, Reference

MANIFESTS = (
    "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
)


def digest_of_tag(ref: Reference) -> str:
    """`sha256:...` of the manifest that the tag names. Raises EnvironmentLacks where the registry does not answer or has no such image."""
    url = f"http{'' if ref.is_local else 's'}://{ref.registry}/v2/{ref.repository}/manifests/{ref.tag}"
    try:
        with httpx.Client(timeout=60, follow_redirects=True, trust_env=not ref.is_local) as client:
            answer = client.head(url, headers={"accept": MANIFESTS})
            if answer.status_code == 401:
                answer = client.head(url, headers={"accept": MANIFESTS, **_authorised(client, answer)})
    except httpx.HTTPError as error:
        raise _unreachable(ref, f"does not answer: {error}") from error
    digest = str(answer.headers.get("docker-content-digest", ""))
    if answer.status_code != 200 or not DIGEST.fullmatch(digest):
        said = "has no such image" if answer.status_code == 404 else f"answers {answer.status_code} and no digest"
        raise _unreachable(ref, said)
    return digest


def _authorised(client: httpx.Client, refused: httpx.Response) -> dict[str, str]:
    """The header that a registry's 401 asks for: a token of its own service, with the user's name and password where Apptainer has them."""
    asked = dict(re.findall(r'(\w+)="([^"]*)"', refused.headers.get("www-authenticate", "")))
    user = (os.environ.get("APPTAINER_DOCKER_USERNAME"), os.environ.get("APPTAINER_DOCKER_PASSWORD"))
    login = httpx.BasicAuth(user[0], user[1]) if user[0] and user[1] else None
    if "realm" not in asked:
        return {}
    named = {name: asked[name] for name in ("service", "scope") if name in asked}
    try:
        said = client.get(asked["realm"], params=named, auth=login or httpx.USE_CLIENT_DEFAULT).json()
        return {"authorization": f"Bearer {said.get('token') or said['access_token']}"}
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}  # no token: the registry's second answer is as its first


def _unreachable(ref: Reference, why: str) -> EnvironmentLacks:
    return EnvironmentLacks(
        f"{ref.registry} {why}: {ref.unpinned}.",
        next_step="on a machine with network, or `glm5bench images pull --from FILE` with a SIF file or OCI archive that was carried here",
    )
