#!/usr/bin/env python
"""Trains the portrait stage, faces driven by expressions: `fantasytalking train`."""

from fantasytalking.cli import run_script

if __name__ == "__main__":
    run_script("train", stage="portrait")
