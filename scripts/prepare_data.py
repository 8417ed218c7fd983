"""From a folder of talking videos to training-ready features.

    python scripts/prepare_data.py --input DIR --output DIR [--config FILE] [key=value ...]
    accelerate launch scripts/prepare_data.py ...          on many GPUs and nodes, over one shared output folder

Goes on where an interrupted run stopped. data/README.md says what comes out and how to get the videos.
"""

import argparse
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from transformers.utils import logging

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import InputError, exit_cleanly


def main() -> None:
    from fantasytalking.data.prepare.config import PreparationConfig
    from fantasytalking.data.prepare.preparation import prepare_corpus

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder of videos, searched to the bottom")
    parser.add_argument("--output", type=Path, required=True, help="new folder, or that of a run to go on with")
    parser.add_argument("--config", type=Path, help="default: configs/wan14b/data.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, as in frames=33 fps=25")
    arguments = parser.parse_args()
    config = load_config(PreparationConfig, arguments.config or preset_path("wan14b", "data"), arguments.overrides)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is 'cuda', but there is no CUDA device; use device=cpu")
    logging.disable_progress_bar()
    # One process may have hours of work more than another; nobody may give up waiting.
    state = PartialState(cpu=config.device == "cpu", timeout=timedelta(days=14))
    summary = prepare_corpus(arguments.input, arguments.output, config, state, state.device)
    if state.is_main_process:
        print(summary)
    state.destroy_process_group()


if __name__ == "__main__":
    exit_cleanly(main)
