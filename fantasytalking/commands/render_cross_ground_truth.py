"""`fantasytalking render-cross-ground-truth`: renders the true videos of cross-reenactment."""

from collections.abc import Sequence
from pathlib import Path

from fantasytalking.commands.invocation import Invocation

DESCRIPTION = """Renders the true videos of cross-reenactment for a folder of portrait-world clips.

    {command} --references DIR [--people 2] [--clips 50]

People of other identities drive everyone; the videos are written to crossed/PORTRAIT-by-DRIVER. The command evaluate
compares generated videos with them: --benchmark exprbench_world --references DIR task=cross.

Resumes an interrupted run.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments and renders the videos, with a progress bar."""
    parser = invocation.parser(DESCRIPTION)
    parser.add_argument("--references", type=Path, required=True, help="output folder of make-portrait-world")
    parser.add_argument("--people", type=int, choices=(1, 2, 3), default=1, help="in a picture; one clip drives each")
    parser.add_argument("--clips", type=int, help="at most so many, in the order of the md5 of the portraits' names")
    given = parser.parse_args(arguments)

    from tqdm import tqdm

    from fantasytalking.evaluation.benchmark.cross_ground_truth import render_cross_ground_truth

    with tqdm(unit="clip") as bar:
        for done, count in render_cross_ground_truth(given.references, given.people, given.clips):
            bar.total = count
            bar.update(done - bar.n)
