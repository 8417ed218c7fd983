#!/usr/bin/env bash
# Makes .venv with everything pinned in constraints.txt; a second call finds the stamp and does nothing.
# PYTHON=/path/to/python bash scripts/setup.sh chooses the interpreter, INSTALLER=pip installs without uv.
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

installer=${INSTALLER:-uv}
case "$installer" in
  uv | pip) ;;
  *)
    echo "setup: INSTALLER is '$installer'; it must be uv or pip" >&2
    exit 2
    ;;
esac

run_pip() { .venv/bin/python -m pip "$@" --quiet --quiet --disable-pip-version-check; }

# Prints a uv that works and knows the options used here: the user's own, else one installed into .venv.
find_uv() {
  [ "$installer" = uv ] || return 1
  for candidate in .venv/bin/uv uv; do
    if "$candidate" pip install --help 2>/dev/null | grep -q -e --default-index; then
      echo "$candidate"
      return
    fi
  done
  run_pip install -c constraints.txt uv 2>/dev/null && .venv/bin/uv --version >/dev/null 2>&1 && echo .venv/bin/uv
}

extras='.[data,train,app,tests,docs,browser]'
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
  if uv=$(find_uv); then
    echo "setup: installing the pinned packages into .venv with uv (once; a minute or more) ..."
    # Where Python may not write bytecode, every start would compile anew what uv has not compiled.
    [ -z "${PYTHONDONTWRITEBYTECODE:-}" ] || export UV_COMPILE_BYTECODE=1
    install() { .venv/bin/python scripts/uv_install.py "$uv" -c constraints.txt -b constraints.txt "$@"; }
    install -e "$extras"
    # Two packages provide cv2 and uv installs them at the same time: the complete one has to come last.
    install --no-deps --reinstall-package opencv-contrib-python opencv-contrib-python
  else
    echo "setup: installing the pinned packages into .venv with pip (once; some minutes) ..."
    run_pip install -c constraints.txt -e "$extras"
  fi
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
