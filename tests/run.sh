#!/bin/sh
# Runs all checks on a new machine: installs into .venv (as root on Debian also a real Slurm, Apptainer and Chromium), then runs ruff, strict
# mypy and pytest. Arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
sh environment.sh dev
# HDF5 1.14.2 reports wrong positions of data (tests/archive/test_hdf5.py). It has no wheel for Python 3.13 and later.
if [ ! -d .venv/h5py-3.11.0 ] && .venv/bin/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; then
    .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --target .venv/h5py-3.11.0 'h5py==3.11.0'
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    sh tests/slurm/install.sh
    sh tests/apptainer/install.sh
    sh tests/browser/install.sh
fi
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
part() { # runs pytest with the rest; "no such test in this part" is no failure if arguments chose tests
    chosen=$1
    shift
    .venv/bin/pytest "$@" || { code=$?; [ "$chosen" -gt 0 ] && [ $code = 5 ] || return $code; }
}
failed=0
# The Slurm tests mostly wait, so they run beside the others. Their output follows at the end.
slurm_log=$(mktemp)
trap 'rm -f "$slurm_log"' EXIT
part $# -n 2 -m slurm "$@" >"$slurm_log" 2>&1 &
slurm=$!
part $# -n 4 --dist worksteal -m "not slurm and not apptainer and not browser and not engine" "$@" || failed=$?
if [ $# -eq 0 ]; then # the lowest versions: tests of what the libraries do; `sh tests/lowest.sh` runs all plain ones
    sh tests/lowest.sh tests/archive/test_archive.py tests/archive/test_pointfile.py tests/settings/test_settings.py tests/settings/test_compose_arms.py tests/report/test_tables.py \
        tests/report/test_report.py tests/client/test_stream.py tests/client/test_side.py tests/client/test_transport.py tests/simulator/test_simulator_http.py tests/exchange/test_exports.py || failed=$?
fi
part $# -m apptainer "$@" || failed=$?
part $# -m browser "$@" || failed=$?
wait $slurm || failed=$?
cat "$slurm_log"
exit $failed
