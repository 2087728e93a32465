"""Programs on this machine's PATH, and modules that a Python can import."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence


def program_lacking(argv: Sequence[str]) -> str:
    """Why this command cannot be run from the node's PATH; empty if it can."""
    program = shutil.which(argv[0])
    if program is None:
        return f"the program {argv[0]!r} is not on PATH"
    module = argv[2].partition(".")[0] if argv[1:2] == ["-m"] else ""
    return f"{program} has no module {module!r}" if module and not has_module(program, module) else ""


def has_module(python: str, module: str) -> bool:
    """Whether this Python can find the module, without importing it. False if the program does not run."""
    find = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        return subprocess.run([python, "-c", find], capture_output=True, timeout=120, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
