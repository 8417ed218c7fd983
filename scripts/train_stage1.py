#!/usr/bin/env python
"""Stage 1, clip level: audio is aligned with the motion of the whole scene (paper section 3.1).

    accelerate launch scripts/train_stage1.py                                         nano, on the portrait world
    accelerate launch --config_file configs/accelerate/fsdp.yaml \\
        scripts/train_stage1.py --config configs/wan14b/stage1.yaml [key=value ...]    the real one

Run the same command again to resume. --dry-run tells the plan, the parameter counts and an estimate of the memory.
"""

from fantasytalking.common.errors import exit_cleanly
from fantasytalking.train import run_training


def main() -> None:
    run_training("stage1", __doc__)


if __name__ == "__main__":
    exit_cleanly(main)
