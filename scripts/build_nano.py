#!/usr/bin/env python
"""Builds nano, a miniature of the whole method, from scratch: corpus, components and all training stages.

    python scripts/build_nano.py --output outputs/new_nano                        as in configs/nano/build.yaml
    python scripts/build_nano.py --output outputs/new_nano --until pack           without driving videos
    python scripts/build_nano.py --until prepare                                  corpus and encoders only
    python scripts/build_nano.py --only expression_reader                         one step, which needs no other
    python scripts/build_nano.py --output outputs/tiny work_dir=outputs/tiny_work --config configs/nano/build_smoke.yaml
                                                                                  all steps in minutes, without quality

After an interruption, run the same command again: finished steps are skipped, the others resume.
"""

import argparse
import logging
import sys
from pathlib import Path

from transformers.utils import logging as transformers_logging

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import exit_cleanly


def main() -> None:
    from fantasytalking.nano.build import STEP_NAMES, build_nano
    from fantasytalking.nano.config import BuildConfig

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="default: configs/nano/build.yaml")
    output_help = "folder of the pipeline (default: checkpoints/nano)"
    parser.add_argument("--output", type=Path, default=Path("checkpoints/nano"), help=output_help)
    selection = parser.add_mutually_exclusive_group()
    until_help = f"stop after this step, one of: {', '.join(STEP_NAMES)}"
    selection.add_argument("--until", default=STEP_NAMES[-1], metavar="STEP", help=until_help)
    selection.add_argument("--only", metavar="STEP", help="run one step, whose dependencies must be finished")
    overrides_help = "settings, as in work_dir=DIR vae.fit.steps=100"
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=overrides_help)
    arguments = parser.parse_intermixed_args()
    config = load_config(BuildConfig, arguments.config or preset_path("nano", "build"), arguments.overrides)
    transformers_logging.disable_progress_bar()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("fantasytalking").setLevel(logging.INFO)
    if arguments.only is None:
        build_nano(config, arguments.output, arguments.until)
    else:
        build_nano(config, arguments.output, arguments.only, only=(arguments.only,))


if __name__ == "__main__":
    exit_cleanly(main)
