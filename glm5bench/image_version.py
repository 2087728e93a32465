"""Whether an image's tag matches the engine version that a recipe's flags are written for. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from packaging.version import InvalidVersion, Version

from . import recipe
from .errors import SettingsError
from .values.point import Arm

MOVING = re.compile(r"latest|nightly|main|dev")  # tags whose image changes over time


def wrong_image(arm: Arm) -> str:
    """Why the arm's image does not match its engine version; empty if it matches, or if the name contains no version.

    A published recipe may name a moving tag, or a post-release of its version. A user's own setting may not.
    """
    (name, _, digest), version = recipe.image(arm).partition("@"), arm.engine.version
    stated = _stated_version(name)
    if stated is None and not digest and arm.engine.image and MOVING.match(_tag(name)):
        return f"The tag of {name} points to a new image after each release, so engine.version={version} cannot be checked"
    asked = _parsed(version)
    if stated is None or asked is None or stated == asked or (not arm.engine.image and stated.release == asked.release):
        return ""
    return f"The image {name} has version {stated}, but engine.version={version}"


def image_of_version(reference: str, version: str) -> str:
    """The settings that make image and version agree."""
    name = reference.partition("@")[0]
    stated, tag = _stated_version(name), _tag(name)
    other = (
        name.removesuffix(tag) + re.sub(r"^(v?)[^-]+", rf"\g<1>{version}", tag) if stated else f"{name.removesuffix(f':{tag}')}:v{version}"
    )
    return f"engine.image={other}" + (f", or engine.version={stated}" if stated else "")


def _tag(name: str) -> str:
    """The tag of a reference, or the version in the name of a file."""
    last = name.rpartition("/")[2]
    file = re.search(r"v?\d+\.\d[^/]*(?=\.sif$)", last)
    return file[0] if file else last.partition(":")[2] or ("" if last.endswith(".sif") or not last else "latest")


def _stated_version(name: str) -> Version | None:
    return _parsed(_tag(name).partition("-")[0].removeprefix("v"))


def _parsed(text: str) -> Version | None:
    try:
        return Version(text) if "." in text else None
    except InvalidVersion:
        return None


def refuse_wrong_images(arms: Sequence[Arm]) -> None:
    """Raises SettingsError if an image does not match its engine version, or if two versions share one image."""
    versions: dict[tuple[str, str], set[str]] = {}
    for arm in arms:
        if recipe.image(arm):
            versions.setdefault((arm.engine.id, recipe.image(arm)), set()).add(arm.engine.version)
    for (_, image), of in versions.items():
        if len(of) > 1:
            raise SettingsError(
                f"engine.version is {' and '.join(sorted(of))}, but both use the image {image}, so their points would be the same.",
                next_step="run one sweep for each version, with engine.version and engine.image; then run `glm5bench diff A B`",
            )
    for arm in arms:
        if wrong := wrong_image(arm):
            raise SettingsError(f"{wrong}.", where=arm.label, next_step=image_of_version(recipe.image(arm), arm.engine.version))
