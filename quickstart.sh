#!/bin/sh
# The quickstart: installs into .venv, measures three arms on the simulated server, merges the points and prints the tables.
set -eu
cd "$(dirname "$0")"
sh environment.sh
echo "Sweeping three arms against the simulated server. This takes about a minute and a half." >&2
.venv/bin/glm5bench sweep experiment=quickstart wait=true "$@"
