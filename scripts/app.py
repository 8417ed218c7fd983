#!/usr/bin/env python
"""Serves the web page that generates videos: `fantasytalking app`."""

from fantasytalking.cli import run_script

if __name__ == "__main__":
    run_script("app")
