#!/usr/bin/env python
"""Renders the true videos of cross-reenactment: `fantasytalking render-cross-ground-truth`."""

from fantasytalking.cli import run_script

if __name__ == "__main__":
    run_script("render-cross-ground-truth")
