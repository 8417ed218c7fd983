#!/usr/bin/env python
"""Renders a corpus of talking people: `fantasytalking make-portrait-world`."""

from fantasytalking.cli import run_script

if __name__ == "__main__":
    run_script("make-portrait-world")
