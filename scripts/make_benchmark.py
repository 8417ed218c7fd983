#!/usr/bin/env python
"""Freezes a benchmark: `fantasytalking freeze-benchmark`."""

from fantasytalking.cli import run_script

if __name__ == "__main__":
    run_script("freeze-benchmark")
