#!/usr/bin/env bash
# usage: bash shell/test.sh [options of pytest]
# Runs every test, in one process per core, at most four; `-m "not slow"` leaves out those that start processes.
set -euo pipefail
EXTRA="[test]"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
export OMP_NUM_THREADS=1  # the processes are the threads
exec "$PYTHON" -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile "$@"
