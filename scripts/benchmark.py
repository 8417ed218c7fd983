#!/usr/bin/env python
"""Measures speed and memory as ratios within one run: `fantasytalking benchmark`."""

from fantasytalking.cli import run_script

if __name__ == "__main__":
    run_script("benchmark")
