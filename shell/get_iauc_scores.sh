#!/usr/bin/env bash
# usage: bash shell/get_iauc_scores.sh NAME [key=value ...] [options of `attnsearch faithfulness`]
# Scores the published trial of the study NAME: IAUC in attMetrAdd_NAME.npy, attMetrics_Add.csv and attMetrics_Add_pop.csv.
# Deletion is measured along with it, so get_dauc_scores.sh has nothing left to do; stopped, it continues there.
set -euo pipefail
if [[ $# -eq 0 ]]; then
    sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec "$PYTHON" -m attnsearch faithfulness "$@"
