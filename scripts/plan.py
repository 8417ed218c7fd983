#!/usr/bin/env python
"""Memory and time at full size, as a Markdown table: python scripts/plan.py [--rate TFLOPS] [--gpus N ...]"""

import argparse

from fantasytalking.common.errors import exit_cleanly
from fantasytalking.training.compute_estimate import ScalePlan, scale_table


def main() -> None:
    usual = ScalePlan()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=usual.presets, choices=usual.presets)
    parser.add_argument("--sizes", nargs="+", type=int, default=usual.sizes, metavar="PIXELS", help="multiples of 16")
    parser.add_argument("--gpus", nargs="+", type=int, default=usual.processes, metavar="N")
    parser.add_argument(
        "--rate", type=float, default=usual.rate / 1e12, help="TFLOP/s that a GPU attains (default: %(default)g)"
    )
    given = parser.parse_args()
    plan = ScalePlan(given.presets, given.sizes, usual.frames, given.gpus, given.rate * 1e12)
    plan.validate()
    print(scale_table(plan))


if __name__ == "__main__":
    exit_cleanly(main)
