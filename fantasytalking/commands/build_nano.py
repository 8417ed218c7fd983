"""`fantasytalking build-nano`: builds nano, the miniature model."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from fantasytalking.commands.invocation import Invocation

DESCRIPTION = """Builds nano, the miniature of the whole method: its corpus, every component, the trainings.

    {command} --output outputs/new_nano                        the recipe of configs/nano/build.yaml
    {command} --output outputs/new_nano --until pack           without driving videos
    {command} --until prepare                                  only the corpus and its encoders
    {command} --only expression_reader                         one step that needs no other
    {command} --output outputs/tiny work_dir=outputs/tiny_work --config configs/nano/build_smoke.yaml
                                                               every step in minutes, without quality

Resumes an interrupted run: finished steps are skipped.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments and builds."""
    from transformers.utils import logging as transformers_logging

    from fantasytalking.common.config import load_config, preset_path
    from fantasytalking.nano.build import STEP_NAMES, build_nano
    from fantasytalking.nano.config import BuildConfig

    parser = invocation.parser(DESCRIPTION)
    parser.add_path("--config", help="the recipe; default: configs/nano/build.yaml")
    parser.add_path("--output", default=Path("checkpoints/nano"), help="folder of the finished pipeline")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--until",
        default=STEP_NAMES[-1],
        metavar="STEP",
        help=f"stop after one of: {', '.join(STEP_NAMES)}; default: the last one",
    )
    which.add_argument(
        "--only", metavar="STEP", help="run one step, whose dependencies must be finished; default: all steps"
    )
    parser.add_settings("settings, as in work_dir=DIR vae.fit.steps=100")
    given = parser.parse_intermixed_args(arguments)
    config = load_config(BuildConfig, given.config or preset_path("nano", "build"), given.overrides)
    transformers_logging.disable_progress_bar()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("fantasytalking").setLevel(logging.INFO)
    if given.only is None:
        build_nano(config, given.output, given.until)
    else:
        build_nano(config, given.output, given.only, only=(given.only,))
