#!/usr/bin/env python
"""Converts released weights to adapters and back: `fantasytalking convert`."""

from fantasytalking.cli import run_script

if __name__ == "__main__":
    run_script("convert")
