"""`fantasytalking render-cross-ground-truth`: renders the true videos of cross-reenactment."""

from collections.abc import Sequence

from fantasytalking.commands.invocation import Invocation
from fantasytalking.common.cli_aliases import add_argument_with_alias

DESCRIPTION = """Renders the true videos of cross-reenactment for a folder of portrait-world clips.

    {command} --references DIR [--num-people 2] [--max-clips 50]

Every person is driven by people of other identities; the videos are written to crossed/PORTRAIT-by-DRIVER. The
command evaluate compares generated videos with them: --benchmark exprbench_world --references DIR task=cross.

Resumes an interrupted run.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments and renders the videos, with a progress bar."""
    parser = invocation.parser(DESCRIPTION)
    parser.add_path("--references", required=True, help="output folder of make-portrait-world")
    add_argument_with_alias(
        parser,
        "--num-people",
        "--people",
        type=int,
        choices=(1, 2, 3),
        default=1,
        help="number of people in each image, each with a driving clip",
    )
    add_argument_with_alias(
        parser,
        "--max-clips",
        "--clips",
        type=int,
        help="maximum number of clips, in the order of the md5 of the portraits' names; default: all",
    )
    options = parser.parse_args(arguments)

    from tqdm import tqdm

    from fantasytalking.evaluation.benchmark.cross_ground_truth import render_cross_ground_truth

    with tqdm(unit="clip") as bar:
        for done, count in render_cross_ground_truth(options.references, options.num_people, options.max_clips):
            bar.total = count
            bar.update(done - bar.n)
