#!/usr/bin/env python
"""Freezes a benchmark: the segments of a local copy's files, with frame rate, size and crops.

    python scripts/make_benchmark.py --benchmark hdtf --references HDTF --output hdtf.json [key=value ...]

The manifest contains names, times and hashes, and no media. Settings: configs/benchmarks/*.yaml.
"""

import argparse
from pathlib import Path

from fantasytalking.common.errors import exit_cleanly


def main() -> None:
    from fantasytalking.evaluation.cli import benchmark_names, freeze_benchmark

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", choices=benchmark_names(), required=True)
    parser.add_argument("--references", type=Path, required=True, help="folder of the dataset's videos")
    parser.add_argument("--output", type=Path, required=True, help="file of the manifest, .json")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, such as max_clips=20 width=256")
    arguments = parser.parse_intermixed_args()
    protocol = freeze_benchmark(arguments.benchmark, arguments.references, arguments.overrides)
    protocol.save(arguments.output)
    people = len({clip.identity for clip in protocol.clips})
    print(f"protocol {protocol.id}: {len(protocol.clips)} clips of {people} people in '{arguments.output}'")


if __name__ == "__main__":
    exit_cleanly(main)
