#!/usr/bin/env bash
# usage: bash shell/docs.sh [--serve]
# Builds the documentation into site/ and fails on any warning; --serve shows it on this machine while you edit.
set -euo pipefail
EXTRA="[docs]" source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
export NO_MKDOCS_2_WARNING=1
[[ "${1:-}" == --serve ]] && exec "$PYTHON" -m mkdocs serve
"$PYTHON" -m mkdocs build --clean --strict
echo "site/index.html"
