"""`fantasytalking evaluate`: scores finished videos against real ones."""

from collections.abc import Sequence

from fantasytalking.commands.invocation import Invocation

DESCRIPTION = """Scores finished videos against real ones, with intervals, floors and controls.

    {command} --benchmark hdtf --references HDTF --predictions VIDEOS --weights DIR --output DIR
    {command} --benchmark exprbench --references DIR --predictions VIDEOS --output DIR task=cross
    accelerate launch --config_file configs/accelerate/ddp.yaml {target} ...    clips are divided between the ranks
    {command} --compare A/results.json B/results.json
    {command} --table A/results.json B/results.json ... --output DIR

Resumes an interrupted run. Metrics whose weights are not in --weights are skipped and listed.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments, evaluates, and prints where the results are."""
    from fantasytalking.evaluation.cli import parse_evaluation_args, run_evaluation

    summary = run_evaluation(parse_evaluation_args(arguments, invocation.describe(DESCRIPTION), invocation.prog))
    if summary:
        print(summary)
