#!/usr/bin/env python
"""Builds nano, the miniature of the whole method, from nothing: `fantasytalking build-nano`."""

from fantasytalking.cli import run_script

if __name__ == "__main__":
    run_script("build-nano")
