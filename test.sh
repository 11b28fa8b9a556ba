#!/usr/bin/env bash
# All checks, with the tools of the Python environment that comes first on PATH (see CONTRIBUTING.md).
# Arguments go to pytest: ./test.sh tests/losses -x; --slow adds the tests marked slow or peer.
set -euo pipefail
cd "$(dirname "$0")"
ruff check
ruff format --check
# Pyright runs beside pytest, and what it says comes last.
types=$(mktemp)
pyright >"$types" 2>&1 &
pyright=$!
trap 'kill "$pyright" 2>/dev/null || true; rm -f "$types"' EXIT
failed=0
python -m pytest -n 2 --dist loadfile "$@" || failed=$?
wait "$pyright" || failed=1
cat "$types"
exit "$failed"
