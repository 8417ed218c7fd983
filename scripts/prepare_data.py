#!/usr/bin/env python
"""Turns a folder of talking videos into training features: `fantasytalking prepare`."""

from fantasytalking.cli import run_script

if __name__ == "__main__":
    run_script("prepare")
