#!/usr/bin/env bash
# usage: bash shell/check.sh [options of pytest]
# Everything that a change must pass: format, lint, types, tests.
set -euo pipefail
EXTRA="[test]"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
"$PYTHON" -m ruff format --check .
"$PYTHON" -m ruff check .
"$PYTHON" -m mypy
exec bash shell/test.sh "$@"
