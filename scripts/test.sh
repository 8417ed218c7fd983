#!/usr/bin/env bash
# Sets up .venv when needed and runs the tests: bash scripts/test.sh [pytest arguments]
# Two processes share the files; PROCESSES=0 bash scripts/test.sh runs all in one, for a debugger.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python -m pytest -n "${PROCESSES:-2}" --dist loadfile "$@"
