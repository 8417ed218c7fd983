#!/usr/bin/env bash
# Sets up .venv when needed and runs the tests: bash scripts/test.sh [pytest arguments]
# Two processes share the files; -s, or PROCESSES=0 bash scripts/test.sh, runs all in one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
case " $* " in
*" -s "*) processes=0 ;; # what tests print is seen from the one process alone
*) processes=2 ;;
esac
exec .venv/bin/python -m pytest -n "${PROCESSES:-$processes}" --dist loadfile "$@"
