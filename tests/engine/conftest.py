"""Where the engines of tests/engine/install.sh are."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def engines():
    """The directory of tests/engine/install.sh."""
    named = os.environ.get("GLM5BENCH_ENGINES")
    if not named:
        pytest.skip("GLM5BENCH_ENGINES names no directory of tests/engine/install.sh")
    return Path(named)
