#!/bin/sh
# Runs the quickstart and plain tests in .venv-lowest, with the lowest versions that pyproject.toml allows (tests/lowest.txt).
# Arguments select tests; without arguments all plain tests run. PYTHON=python3.10 chooses another Python.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x .venv-lowest/bin/pip ] || "$python" -m venv .venv-lowest
.venv-lowest/bin/pip install --quiet --disable-pip-version-check --constraint tests/lowest.txt --editable ".[dev]"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
.venv-lowest/bin/glm5bench sweep experiment=quickstart wait=true output_dir="$out" >/dev/null
# old libraries use features that are now deprecated
.venv-lowest/bin/pytest -n 3 -p no:cacheprovider -W ignore::DeprecationWarning \
    -m "not slurm and not apptainer and not browser and not engine" "$@"
