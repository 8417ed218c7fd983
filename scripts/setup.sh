#!/usr/bin/env bash
# Makes .venv with everything pinned in constraints.txt; a second call finds the stamp and does nothing.
# PYTHON=/path/to/python bash scripts/setup.sh chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

find_python() {
  for candidate in ${PYTHON:-python3 python3.12 python3.11 python}; do
    if supported "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "setup: no Python 3.11 or 3.12 under the names tried: ${PYTHON:-python3 python3.12 python3.11 python}." >&2
  echo "setup: install one (Debian or Ubuntu: sudo apt-get install python3 python3-venv), or name it: PYTHON=/path/to/python bash $0" >&2
  exit 2
}

stamp=.venv/.installed
wanted=$(cat pyproject.toml constraints.txt scripts/setup.sh | sha256sum | cut -d' ' -f1)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  if [ ! -x .venv/bin/python ]; then
    python=$(find_python)
    "$python" -m venv .venv || {
      echo "setup: '$python -m venv' failed. On Debian or Ubuntu: sudo apt-get install python3-venv" >&2
      rm -rf .venv
      exit 2
    }
  fi
  rm -f "$stamp"
  echo "setup: installing the pinned packages into .venv (once; some minutes) ..."
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[data,train,app,tests]'
  echo "$wanted" > "$stamp"
fi

if ! message=$(.venv/bin/python -c 'import cv2' 2>&1); then
  case "$message" in
    *libGL* | *libgthread* | *libglib*)
      echo "setup: OpenCV misses a system library: ${message##*ImportError: }" >&2
      echo "setup: on Debian or Ubuntu: sudo apt-get install libgl1 libglib2.0-0; on Fedora: sudo dnf install mesa-libGL glib2" >&2
      ;;
    *) echo "$message" >&2 ;;
  esac
  exit 2
fi
