#!/usr/bin/env python
"""Renders the true cross-reenactments of a folder of portrait-world clips, in crossed/PORTRAIT-by-DRIVER.

    python scripts/make_crossed.py --references DIR [--num-people 2] [--max-clips 50]
    python scripts/evaluate.py --benchmark exprbench_world --references DIR task=cross ...

Every person is driven by people of other identities. Resumes an interrupted run.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from fantasytalking.common.errors import exit_cleanly


def main() -> None:
    from fantasytalking.common.cli_aliases import add_argument_with_alias
    from fantasytalking.evaluation.benchmark.cross_ground_truth import render_cross_ground_truth

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", type=Path, required=True, help="output folder of make_portrait_world.py")
    add_argument_with_alias(
        parser,
        "--num-people",
        "--people",
        type=int,
        choices=(1, 2, 3),
        default=1,
        help="number of people in each image, each with a driver",
    )
    add_argument_with_alias(
        parser,
        "--max-clips",
        "--clips",
        type=int,
        help="maximum number of clips, in the order of the md5 of the portraits' names",
    )
    arguments = parser.parse_args()
    with tqdm(unit="clip") as bar:
        for done, total in render_cross_ground_truth(arguments.references, arguments.num_people, arguments.max_clips):
            bar.total = total
            bar.update(done - bar.n)


if __name__ == "__main__":
    exit_cleanly(main)
