#!/usr/bin/env python
"""Runs the paper's ablations on nano: trains every row, generates videos of held-out people and evaluates them.

    python scripts/ablation.py                            configs/nano/ablation.yaml; outputs/nano/ablation/table.html
    python scripts/ablation.py steps=200 num_clips=4      smaller

After an interruption, run the same command again: finished rows are skipped, the others resume.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from fantasytalking.common.cli_aliases import add_argument_with_alias
from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import exit_cleanly


def main() -> None:
    from fantasytalking.nano.ablation.config import AblationConfig
    from fantasytalking.nano.ablation.experiment import AblationStudy

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="default: configs/nano/ablation.yaml")
    processes_help = "processes that render and evaluate (default: one per core)"
    add_argument_with_alias(
        parser, "--num-processes", "--processes", type=int, default=len(os.sched_getaffinity(0)), help=processes_help
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, as in work_dir=DIR steps=200")
    arguments = parser.parse_intermixed_args()
    config = load_config(AblationConfig, arguments.config or preset_path("nano", "ablation"), arguments.overrides)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("fantasytalking").setLevel(logging.INFO)
    print(AblationStudy(config, arguments.num_processes).run())


if __name__ == "__main__":
    exit_cleanly(main)
