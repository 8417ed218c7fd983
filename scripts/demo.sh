#!/usr/bin/env bash
# Makes a talking video with nano, from a clean clone: bash scripts/demo.sh
# Sets up .venv (once, some minutes), then writes outputs/demo.mp4, its record demo.json and its contact sheet demo.png.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  echo "demo: $1" >&2
  exit 2
}

[ $# -eq 0 ] || fail "'$1' is not understood, the demonstration takes no options; use: .venv/bin/python scripts/infer.py --help"
[ -f checkpoints/nano/model_index.json ] ||
  fail "checkpoints/nano is not there; get it back with: git checkout checkpoints/nano (or make it, in hours: python scripts/build_nano.py)"
bash scripts/setup.sh
.venv/bin/python scripts/infer.py --image data/demo/portrait.png --audio data/demo/speech.wav --output outputs/demo.mp4 --contact-sheet
mv outputs/demo.sheet.png outputs/demo.png
echo "demo: outputs/demo.mp4 is the video, outputs/demo.png its contact sheet"
