"""Renders cross-reenactment: make_reenactment.py --portrait CLIP --driver CLIP [--driver CLIP] --output DIR

The people of one clip of the portrait world perform what the people of other clips performed: the ground truth for a
model that animates the portrait with these clips as driving videos.
"""

import argparse

from fantasytalking.common.cli_aliases import add_argument_with_alias
from fantasytalking.common.errors import exit_cleanly


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--portrait", required=True, metavar="CLIP", help="folder of the clip whose people are shown")
    driver_help = "folder of a driving clip of one person; once per person of the portrait, from left to right"
    add_argument_with_alias(
        parser, "--driver", "--drive", required=True, action="append", metavar="CLIP", help=driver_help
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the new clip")
    return parser.parse_args()


def main() -> None:
    from fantasytalking.portrait_world.corpus.reenacted_clip import render_reenactment

    options = parse()
    count = render_reenactment(options.portrait, options.driver, options.output)
    print(f"{options.output}: {count} frames")


if __name__ == "__main__":
    exit_cleanly(main)
