#!/usr/bin/env python
"""Writes an animation or a contact sheet of a video: `fantasytalking preview`."""

from fantasytalking.cli import run_script

if __name__ == "__main__":
    run_script("preview")
