#!/usr/bin/env python
"""Finished videos against real ones: scores, intervals, floors and controls, as JSON, CSV, Markdown and a page.

    python scripts/evaluate.py --benchmark hdtf --references HDTF --predictions VIDEOS --weights DIR --output DIR
    python scripts/evaluate.py --benchmark exprbench --references DIR --predictions VIDEOS --output DIR task=cross
    accelerate launch scripts/evaluate.py ...                       clips are divided between the ranks
    python scripts/evaluate.py --compare A/results.json B/results.json
    python scripts/evaluate.py --table A/results.json B/results.json ... --output DIR

Goes on where an interrupted run stopped. Metrics whose weights are not in --weights are skipped and listed.
"""

import sys

from fantasytalking.common.errors import exit_cleanly


def main() -> None:
    from fantasytalking.evaluation.cli import parse_evaluation_args, run_evaluation

    told = run_evaluation(parse_evaluation_args(sys.argv[1:], __doc__))
    if told:
        print(told)


if __name__ == "__main__":
    exit_cleanly(main)
