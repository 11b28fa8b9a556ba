#!/usr/bin/env bash
# All checks, with the tools of the Python environment that comes first on PATH (see CONTRIBUTING.md).
# Arguments go to pytest: ./test.sh tests/losses -x; --slow adds the tests marked slow or peer.
set -euo pipefail
cd "$(dirname "$0")"
ruff check
ruff format --check
pyright
python -m pytest -n 2 --dist loadfile "$@"
