"""Programs of this machine's PATH, and modules that a Python has."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence


def program_lacking(argv: Sequence[str]) -> str:
    """Why this command cannot be run from the node's PATH; empty where it can."""
    program = shutil.which(argv[0])
    if program is None:
        return f"there is no program {argv[0]!r}"
    module = argv[2].partition(".")[0] if argv[1:2] == ["-m"] else ""
    return f"{program} has no module {module!r}" if module and not has_module(program, module) else ""


def has_module(python: str, module: str) -> bool:
    """Whether this Python could import the module; it is not imported. False where it is no Python that runs."""
    find = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        return subprocess.run([python, "-c", find], capture_output=True, timeout=120, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
