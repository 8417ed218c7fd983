#!/usr/bin/env python
"""Renders one clip's people performing another clip: `fantasytalking make-reenactment`."""

from fantasytalking.cli import run_script

if __name__ == "__main__":
    run_script("make-reenactment")
