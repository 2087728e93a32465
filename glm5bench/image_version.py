"""Whether an image is of the version of the engine that a recipe's flags are named for, by its tag. Pure."""

from __future__ import annotations

import re

from packaging.version import InvalidVersion, Version

from . import recipe
from .values.point import Arm

MOVING = re.compile(r"latest|nightly|main|dev")  # tags of images that change


def wrong_image(arm: Arm) -> str:
    """What is wrong with the arm's image for its version of the engine; empty if nothing, or if the name states no version.

    A published recipe may name a tag that moves, or a post-release of its version; a user's own setting may not.
    """
    (name, _, digest), version = recipe.image(arm).partition("@"), arm.engine.version
    stated = _stated_version(name)
    if stated is None and not digest and arm.engine.image and MOVING.match(_tag(name)):
        return f"The tag of {name} names another image each time that one is released, and engine.version={version} cannot be checked"
    asked = _parsed(version)
    if stated is None or asked is None or stated == asked or (not arm.engine.image and stated.release == asked.release):
        return ""
    return f"The image {name} is of version {stated}, and engine.version={version}"


def image_of_version(reference: str, version: str) -> str:
    """What to set, so that image and version agree."""
    name = reference.partition("@")[0]
    stated, tag = _stated_version(name), _tag(name)
    other = (
        name.removesuffix(tag) + re.sub(r"^(v?)[^-]+", rf"\g<1>{version}", tag) if stated else f"{name.removesuffix(f':{tag}')}:v{version}"
    )
    return f"engine.image={other}" + (f", or engine.version={stated}" if stated else "")


def _tag(name: str) -> str:
    """What follows the colon of a reference, or the version in the name of a file."""
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
