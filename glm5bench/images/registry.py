"""The digest that a tag currently refers to, from the registry. Apptainer does the rest of a pull.

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
    """`sha256:...` of the tag's manifest. Raises EnvironmentLacks if the registry does not answer or does not have the image."""
    url = f"http{'' if ref.is_local else 's'}://{ref.registry}/v2/{ref.repository}/manifests/{ref.tag}"
    try:
        with httpx.Client(timeout=60, follow_redirects=True, trust_env=not ref.is_local) as client:
            answer = client.head(url, headers={"accept": MANIFESTS})
            if answer.status_code == 401:
                answer = client.head(url, headers={"accept": MANIFESTS, **_authorised(client, answer)})
    except httpx.HTTPError as error:
        raise _unreachable(ref, f"cannot be reached ({error})") from error
    digest = str(answer.headers.get("docker-content-digest", ""))
    if answer.status_code != 200 or not DIGEST.fullmatch(digest):
        said = "does not have this image" if answer.status_code == 404 else f"answered with status {answer.status_code} and no digest"
        raise _unreachable(ref, said)
    return digest


def _authorised(client: httpx.Client, refused: httpx.Response) -> dict[str, str]:
    """The authorization header that a registry's 401 asks for: a token from its service, with Apptainer's user name and password if set."""
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
        return {}  # no token: the registry's second answer is the same as its first


def _unreachable(ref: Reference, why: str) -> EnvironmentLacks:
    return EnvironmentLacks(
        f"{ref.registry} {why}: {ref.unpinned}.",
        next_step="use a machine with network access, or copy a SIF file or OCI archive here for `glm5bench images pull --from FILE`",
    )
