#!/usr/bin/env python
"""The paper's ablation on the miniature: trains every row, makes its videos of held-out people, and scores them.

    python scripts/ablation.py                            configs/nano/ablation.yaml; outputs/nano/ablation/table.html
    python scripts/ablation.py steps=200 clips=4          smaller

Run the same command again after an interruption: finished rows are skipped, the others go on.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import exit_cleanly


def main() -> None:
    from fantasytalking.nano.ablation.config import AblationConfig
    from fantasytalking.nano.ablation.experiment import AblationStudy

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="default: configs/nano/ablation.yaml")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="that draw and measure")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, as in work=DIR steps=200")
    arguments = parser.parse_intermixed_args()
    config = load_config(AblationConfig, arguments.config or preset_path("nano", "ablation"), arguments.overrides)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("fantasytalking").setLevel(logging.INFO)
    print(AblationStudy(config, arguments.processes).run())


if __name__ == "__main__":
    exit_cleanly(main)
