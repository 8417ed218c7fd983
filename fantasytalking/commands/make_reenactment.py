"""`fantasytalking make-reenactment`: renders one clip's people performing another clip."""

from collections.abc import Sequence

from fantasytalking.commands.invocation import Invocation

DESCRIPTION = """Renders the true cross-reenacted video of portrait-world clips.

    {command} --portrait CLIP --drive CLIP [--drive CLIP] --output DIR

The people of one clip perform what the people of other clips did: the video that a model driven by those clips should
generate from the portrait.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments, renders the video, and prints its length."""
    parser = invocation.parser(DESCRIPTION)
    parser.add_argument("--portrait", required=True, metavar="CLIP", help="folder of a clip: who is seen, and where")
    drive_help = "folder of a clip of one person: the performance; once per person in the portrait, from the left"
    parser.add_argument("--drive", required=True, action="append", metavar="CLIP", help=drive_help)
    parser.add_argument("--output", required=True, metavar="DIR", help="a folder with the files of a clip")
    given = parser.parse_args(arguments)

    from fantasytalking.portrait_world.corpus.reenacted_clip import render_reenactment

    count = render_reenactment(given.portrait, given.drive, given.output)
    print(f"{given.output}: {count} frames")
