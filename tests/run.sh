#!/bin/sh
# The tests, from nothing: installs into .venv, then ruff, strict mypy and pytest. Arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
sh environment.sh dev
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/pytest -n 2 "$@"
