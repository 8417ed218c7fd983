#!/usr/bin/env python
"""Scores finished videos against real ones: `fantasytalking evaluate`."""

from fantasytalking.cli import run_script

if __name__ == "__main__":
    run_script("evaluate")
