#!/usr/bin/env bash
# usage: bash shell/train.sh --demo, or bash shell/train.sh NAME [--demo] [key=value ...] [options of `attnsearch search`]
# Searches the hyperparameters of the study NAME; started again, it continues where it stopped.
# --demo takes synthetic birds and a small backbone: two minutes. Paths are relative to the checkout, results/ is there.
set -euo pipefail
if [[ $# -eq 0 ]]; then
    sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
ATTNSEARCH_COMMAND="$(printf '%q ' bash shell/train.sh "$@")"
export ATTNSEARCH_COMMAND
if [[ "$1" == --demo && "${2:--}" =~ ^-|= ]]; then exec "$PYTHON" -m attnsearch demo "${@:2}"; fi

words=()
for word in "$@"; do
    if [[ "$word" == --demo ]]; then words+=(--profile demo); else words+=("$word"); fi
done
exec "$PYTHON" -m attnsearch search "${words[@]}"
