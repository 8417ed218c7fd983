#!/usr/bin/env python
"""Trains stage 3, few-step distillation: `fantasytalking train`."""

from fantasytalking.cli import run_script

if __name__ == "__main__":
    run_script("train", stage="stage3")
