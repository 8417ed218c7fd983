#!/usr/bin/env python
"""Counts the parameters of every preset: `fantasytalking estimate --parameters`."""

from fantasytalking.cli import run_script

if __name__ == "__main__":
    run_script("estimate", parameters=True)
