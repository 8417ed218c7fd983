#!/usr/bin/env python
"""Runs the paper's ablation on nano: `fantasytalking ablation`."""

from fantasytalking.cli import run_script

if __name__ == "__main__":
    run_script("ablation")
