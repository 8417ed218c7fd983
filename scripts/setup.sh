#!/usr/bin/env bash
# Makes .venv with everything pinned in constraints.txt; a second call finds the stamp and does nothing.
# PYTHON=python3.12 bash scripts/setup.sh chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null; then
  echo "setup: '$python' was not found. Install Python 3.10, 3.11 or 3.12, or name one: PYTHON=/path/to/python bash scripts/setup.sh" >&2
  exit 2
fi
if ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'; then
  echo "setup: $("$python" --version) at '$python' is not supported; Python 3.10 to 3.12 is. Name another: PYTHON=python3.11 bash scripts/setup.sh" >&2
  exit 2
fi

stamp=.venv/.installed
wanted=$(cat pyproject.toml constraints.txt scripts/setup.sh | sha256sum | cut -d' ' -f1)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  if [ ! -x .venv/bin/python ]; then
    "$python" -m venv .venv || {
      echo "setup: '$python -m venv' failed. On Debian or Ubuntu: sudo apt-get install python3-venv" >&2
      exit 2
    }
  fi
  rm -f "$stamp"
  echo "setup: installing the pinned packages into .venv (once; about two minutes) ..."
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "setuptools>=77" wheel
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[data,train,app,tests]'
  echo "$wanted" > "$stamp"
fi

if ! message=$(.venv/bin/python -c 'import cv2' 2>&1); then
  case "$message" in
    *libGL*|*libgthread*|*libglib*)
      echo "setup: OpenCV misses a system library: ${message##*ImportError: }" >&2
      echo "setup: on Debian or Ubuntu: sudo apt-get install libgl1 libglib2.0-0; on Fedora: sudo dnf install mesa-libGL glib2" >&2 ;;
    *) echo "$message" >&2 ;;
  esac
  exit 2
fi
