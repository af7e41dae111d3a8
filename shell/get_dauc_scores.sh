#!/usr/bin/env bash
# usage: bash shell/get_dauc_scores.sh NAME [key=value ...] [options of `attnsearch faithfulness`]
# Scores the published trial of the study NAME: DAUC in attMetrDel_NAME.npy, attMetrics_Del.csv and attMetrics_Del_pop.csv.
# Insertion is measured along with it, so get_iauc_scores.sh has nothing left to do; stopped, it continues there.
set -euo pipefail
if [[ $# -eq 0 ]]; then
    sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec "$PYTHON" -m attnsearch faithfulness "$@"
