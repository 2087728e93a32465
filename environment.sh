#!/bin/sh
# Makes .venv in the directory of this file and installs glm5bench into it: `sh environment.sh [EXTRA]`, for example with EXTRA=dev.
# PYTHON=python3.12 chooses another Python (3.10 to 3.13). Versions and hashes come from requirements.lock, so that two clusters run the
# same client. LOCKED=no installs the newest versions that pyproject.toml allows.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
python=${PYTHON:-python3}
command -v "$python" >/dev/null || { echo "Cannot find $python. next: install Python 3.10 to 3.13, or set PYTHON" >&2; exit 3; }
"$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' ||
    { echo "$python is $("$python" -V), but glm5bench needs Python 3.10 to 3.13. next: set PYTHON=python3.11" >&2; exit 3; }
if [ ! -x .venv/bin/pip ]; then
    echo "Creating .venv with $("$python" -V)." >&2
    rm -rf .venv
    if ! "$python" -m venv .venv 2>/dev/null; then # on Debian, venv is a separate package
        [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null ||
            { echo "$python cannot make virtual environments. next: apt-get install python3-venv" >&2; exit 3; }
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; } ||
            { echo "apt-get cannot install python3-venv (its error is above). next: fix apt's sources, or install python3-venv yourself" >&2; exit 3; }
        "$python" -m venv .venv
    fi
fi
if [ "${LOCKED:-yes}" = yes ]; then
    echo "Installing the versions of requirements.lock into .venv. The first time this takes about a minute." >&2
    .venv/bin/pip install --quiet --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock ||
        { echo "pip cannot install the versions of requirements.lock (its error is above). next: use an index that has them, or set LOCKED=no" >&2; exit 3; }
fi
extra=${1:+[$1]}
echo "Installing glm5bench${1:+ with the extra $1} into .venv." >&2
.venv/bin/pip install --quiet --quiet --disable-pip-version-check --editable ".$extra"
