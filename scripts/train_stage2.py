#!/usr/bin/env python
"""Stage 2, frame level: lips are aligned with the sound of their own moment (paper sections 3.1 and 3.2).

    accelerate launch scripts/train_stage2.py                                         nano, on the portrait world
    accelerate launch --config_file configs/accelerate/fsdp.yaml \\
        scripts/train_stage2.py --config configs/wan14b/stage2.yaml [key=value ...]    the real one

Run the same command again to resume. --dry-run tells the plan, the parameter counts and an estimate of the memory.
"""

from fantasytalking.common.errors import exit_cleanly
from fantasytalking.train import run_training


def main() -> None:
    run_training("stage2", __doc__)


if __name__ == "__main__":
    exit_cleanly(main)
