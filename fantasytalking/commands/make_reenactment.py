"""`fantasytalking make-reenactment`: renders one clip's people performing another clip."""

from collections.abc import Sequence

from fantasytalking.commands.invocation import Invocation
from fantasytalking.common.cli_aliases import add_argument_with_alias
from fantasytalking.common.command_parser import path_argument

DESCRIPTION = """Renders the true cross-reenacted video of portrait-world clips.

    {command} --portrait CLIP --driver CLIP [--driver CLIP] --output DIR

The people of one clip of the portrait world perform what the people of other clips performed: the ground truth for a
model that animates the portrait with these clips as driving videos.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments, renders the video, and prints its length."""
    parser = invocation.parser(DESCRIPTION)
    parser.add_path("--portrait", required=True, metavar="CLIP", help="folder of the clip whose people are shown")
    driver_help = "folder of a driving clip of one person; once per person of the portrait, from left to right"
    add_argument_with_alias(
        parser,
        "--driver",
        "--drive",
        type=path_argument,
        required=True,
        action="append",
        metavar="CLIP",
        help=driver_help,
    )
    parser.add_path("--output", required=True, metavar="DIR", help="folder of the new clip")
    options = parser.parse_args(arguments)

    from fantasytalking.portrait_world.corpus.reenacted_clip import render_reenactment

    count = render_reenactment(options.portrait, options.driver, options.output)
    print(f"{options.output}: {count} frames")
