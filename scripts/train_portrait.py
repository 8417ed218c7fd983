#!/usr/bin/env python
"""Portrait stage: faces are driven by the expressions in a video, one or several people at once (arXiv 2507.12956).

    accelerate launch scripts/train_portrait.py                                         nano, on the portrait world
    accelerate launch --config_file configs/accelerate/fsdp.yaml \\
        scripts/train_portrait.py --config configs/wan14b/portrait.yaml [key=value ...]    the real one

Run the same command again to resume. --dry-run tells the plan, the parameter counts and an estimate of the memory.
"""

from fantasytalking.common.errors import exit_cleanly
from fantasytalking.train import run_training


def main() -> None:
    run_training("portrait", __doc__)


if __name__ == "__main__":
    exit_cleanly(main)
