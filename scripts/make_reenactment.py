"""Makes the true cross-reenacted video: make_reenactment.py --portrait CLIP --drive CLIP [--drive CLIP] --output DIR

The people of one clip of the portrait world do what the people of other clips did, drawn by the renderer: what a model
that is driven by those clips should make of the portrait.
"""

import argparse

from fantasytalking.common.errors import exit_cleanly


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--portrait", required=True, metavar="CLIP", help="folder of a clip: who is seen, and where")
    drive_help = "folder of a clip of one person: what is done; once for each in the portrait, from left to right"
    parser.add_argument("--drive", required=True, action="append", metavar="CLIP", help=drive_help)
    parser.add_argument("--output", required=True, metavar="DIR", help="a folder like that of a clip")
    return parser.parse_args()


def main() -> None:
    from fantasytalking.portrait_world.corpus.reenacted_clip import render_reenactment

    options = parse()
    count = render_reenactment(options.portrait, options.drive, options.output)
    print(f"{options.output}: {count} frames")


if __name__ == "__main__":
    exit_cleanly(main)
