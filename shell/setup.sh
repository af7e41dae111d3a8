#!/usr/bin/env bash
# Sourced by the other scripts: goes to the checkout and sets PYTHON.
# The first time it creates .venv and installs the package into it, and the extra that EXTRA names, such as [test]; again
# whenever setup.cfg has changed.
# With ATTNSEARCH_VENV=FOLDER that environment is used as it is: nothing is installed, the checkout's code runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ -n "${ATTNSEARCH_VENV:-}" ]]; then
    PYTHON="$ATTNSEARCH_VENV/bin/python"
    [[ -x "$PYTHON" ]] || { echo "error: ATTNSEARCH_VENV has no bin/python: $ATTNSEARCH_VENV" >&2; exit 2; }
    export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
else
    PYTHON="$PWD/.venv/bin/python"
    stamp=".venv/installed${EXTRA:-}"
    if [[ ! -x "$PYTHON" || ! -f "$stamp" || "$(cksum <setup.cfg)" != "$(<"$stamp")" ]]; then
        echo "setting up .venv: installs attnsearch${EXTRA:-}, PyTorch and the rest (minutes, some GB; only this once)" >&2
        echo "(no GPU? https://pytorch.org/get-started/locally has a smaller CPU build: install it into .venv first)" >&2
        python3 -m venv .venv
        "$PYTHON" -m pip install --disable-pip-version-check --editable ".${EXTRA:-}"
        cksum <setup.cfg >"$stamp"
    fi
fi
