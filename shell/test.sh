#!/usr/bin/env bash
# usage: bash shell/test.sh [options of pytest]
# Runs every test; `-m "not slow"` leaves out those that start processes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec "$PYTHON" -m pytest "$@"
