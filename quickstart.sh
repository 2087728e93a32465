#!/bin/sh
# The main job on the embedded default: installs into .venv, sweeps three arms against the simulated server, merges, prints the tables.
set -eu
cd "$(dirname "$0")"
sh environment.sh
.venv/bin/glm5bench sweep experiment=quickstart wait=true "$@"
