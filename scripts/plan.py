#!/usr/bin/env python
"""Memory and time at full size, as a Markdown table: python scripts/plan.py [--rate TFLOPS] [--gpus N ...]"""

import argparse

from fantasytalking.common.errors import exit_cleanly
from fantasytalking.training.compute_estimate import ComputeEstimateConfig, compute_estimate_table


def main() -> None:
    usual = ComputeEstimateConfig()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=usual.presets, choices=usual.presets)
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=usual.resolutions, metavar="PIXELS", help="multiples of 16"
    )
    parser.add_argument("--gpus", nargs="+", type=int, default=usual.num_gpus, metavar="N")
    parser.add_argument(
        "--rate",
        type=float,
        default=usual.flops_per_second / 1e12,
        help="TFLOP/s that a GPU attains (default: %(default)g)",
    )
    given = parser.parse_args()
    plan = ComputeEstimateConfig(given.presets, given.sizes, usual.num_frames, given.gpus, given.rate * 1e12)
    plan.validate()
    print(compute_estimate_table(plan))


if __name__ == "__main__":
    exit_cleanly(main)
