#!/usr/bin/env python
"""Generates a talking video from a portrait and speech: `fantasytalking infer`."""

from fantasytalking.cli import run_script

if __name__ == "__main__":
    run_script("infer")
