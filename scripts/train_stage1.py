#!/usr/bin/env python
"""Trains stage 1, clip-level audio: `fantasytalking train`."""

from fantasytalking.cli import run_script

if __name__ == "__main__":
    run_script("train", stage="stage1")
