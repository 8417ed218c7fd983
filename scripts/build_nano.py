#!/usr/bin/env python
"""Makes nano, the miniature of the whole method, from nothing: its corpus, every component, the trainings.

    python scripts/build_nano.py --output outputs/new_nano                        the recipe of configs/nano/build.yaml
    python scripts/build_nano.py --output outputs/new_nano --until pack           without faces that videos drive
    python scripts/build_nano.py --until prepare                                  only the corpus and its encoders
    python scripts/build_nano.py --only expression_reader                         one step, which needs no other
    python scripts/build_nano.py --output outputs/tiny work=outputs/tiny_work --config configs/nano/build_smoke.yaml
                                                                                  the whole chain in minutes, untrained

Run the same command again after an interruption: finished steps are skipped, the others go on.
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
    parser.add_argument("--output", type=Path, default=Path("checkpoints/nano"), help="default: checkpoints/nano")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--until", default=STEP_NAMES[-1], metavar="STEP", help=f"stop after one of: {', '.join(STEP_NAMES)}"
    )
    which.add_argument("--only", metavar="STEP", help="one step, what it needs being there")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, as in work=DIR vae.fit.steps=100")
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
