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
# Where Python may not write bytecode, each of the many processes that tests start would compile the package anew.
[ -z "${PYTHONDONTWRITEBYTECODE:-}" ] || .venv/bin/python -m compileall -q fantasytalking tests
# Two processes with a thread for each core each would wait for one another: a sixth of the time on two cores.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec .venv/bin/python -m pytest -n "${PROCESSES:-$processes}" --dist loadfile --no-loadscope-reorder "$@"
