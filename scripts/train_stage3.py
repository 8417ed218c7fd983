#!/usr/bin/env python
"""Stage 3: the model of stage 2 learns to make videos in four calls, guidance included (arXiv 2405.07510, 2210.03142).

    accelerate launch scripts/train_stage3.py                                         nano, on the portrait world
    accelerate launch --config_file configs/accelerate/fsdp.yaml \\
        scripts/train_stage3.py --config configs/wan14b/stage3.yaml [key=value ...]    the real one

Run the same command again to resume. --dry-run tells the plan, the parameter counts and an estimate of the memory.
"""

from fantasytalking.common.errors import exit_cleanly
from fantasytalking.train import run_training


def main() -> None:
    run_training("stage3", __doc__)


if __name__ == "__main__":
    exit_cleanly(main)
