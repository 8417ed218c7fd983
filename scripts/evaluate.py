#!/usr/bin/env python
"""Evaluates generated videos against real ones: scores with confidence intervals, as JSON, CSV, Markdown and HTML.

    python scripts/evaluate.py --benchmark hdtf --references HDTF --predictions VIDEOS --weights DIR --output DIR
    python scripts/evaluate.py --benchmark exprbench --references DIR --predictions VIDEOS --output DIR task=cross
    accelerate launch scripts/evaluate.py ...                       divides the clips between the ranks
    python scripts/evaluate.py --compare A/results.json B/results.json
    python scripts/evaluate.py --table A/results.json B/results.json ... --output DIR

Resumes an interrupted run. Metrics whose weights are not in --weights are skipped and listed.
"""

import sys

from fantasytalking.common.errors import exit_cleanly


def main() -> None:
    from fantasytalking.evaluation.cli import parse_evaluation_args, run_evaluation

    summary = run_evaluation(parse_evaluation_args(sys.argv[1:], __doc__))
    if summary:
        print(summary)


if __name__ == "__main__":
    exit_cleanly(main)
