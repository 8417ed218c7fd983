#!/usr/bin/env python
"""Generates the videos of a frozen benchmark: `fantasytalking generate-benchmark`."""

from fantasytalking.cli import run_script

if __name__ == "__main__":
    run_script("generate-benchmark")
