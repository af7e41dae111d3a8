#!/usr/bin/env bash
# usage: bash shell/process_results.sh EXP [options of `attnsearch compare`]
# Compares the scored studies of the experiment EXP: tables in results/EXP, figures of the tests in results/EXP/figures.
set -euo pipefail
if [[ $# -eq 0 ]]; then
    sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec "$PYTHON" -m attnsearch compare "$@"
