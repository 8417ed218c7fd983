#!/usr/bin/env python
"""Makes the true videos of cross-reenactment below a folder of portrait-world clips: in crossed/PORTRAIT-by-DRIVER.

    python scripts/make_crossed.py --references DIR [--people 2] [--clips 50]
    python scripts/evaluate.py --benchmark exprbench_world --references DIR task=cross ...

Everyone is driven by people of other identities. Goes on where an interrupted run stopped.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from fantasytalking.common.errors import exit_cleanly


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", type=Path, required=True, help="folder of what make_portrait_world.py made")
    parser.add_argument("--people", type=int, choices=(1, 2, 3), default=1, help="in a picture; one clip drives each")
    parser.add_argument("--clips", type=int, help="at most so many, in the order of the md5 of the portraits' names")
    return parser.parse_args()


def main() -> None:
    from fantasytalking.evaluation.benchmark.cross_ground_truth import render_cross_ground_truth

    options = parse()
    with tqdm(unit="clip") as bar:
        for done, count in render_cross_ground_truth(options.references, options.people, options.clips):
            bar.total = count
            bar.update(done - bar.n)


if __name__ == "__main__":
    exit_cleanly(main)
