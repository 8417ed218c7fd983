#!/usr/bin/env python
"""Estimates memory and time at full size: `fantasytalking estimate`."""

from fantasytalking.cli import run_script

if __name__ == "__main__":
    run_script("estimate")
