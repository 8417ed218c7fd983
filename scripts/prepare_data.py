"""Prepares a folder of talking videos for training.

    python scripts/prepare_data.py --input DIR --output DIR [--config FILE] [key=value ...]
    accelerate launch scripts/prepare_data.py ...          on several GPUs and nodes with one shared output folder

An interrupted run is resumed. data/README.md describes the output and how to obtain videos.
"""

import argparse
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from transformers.utils import logging

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode, InputError, exit_cleanly


def main() -> None:
    from fantasytalking.data.prepare.config import PreparationConfig
    from fantasytalking.data.prepare.preparation import prepare_corpus

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder of videos, including subfolders")
    parser.add_argument("--output", type=Path, required=True, help="new folder, or the folder of a run to resume")
    parser.add_argument("--config", type=Path, help="default: configs/wan14b/data.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides, as in frames=33 fps=25")
    arguments = parser.parse_args()
    config = load_config(PreparationConfig, arguments.config or preset_path("wan14b", "data"), arguments.overrides)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "device is 'cuda', but no CUDA device is available; use device=cpu",
            code=ErrorCode.unsupported,
            field="device",
            value="cuda",
        )
    logging.disable_progress_bar()
    # One process may work for hours longer than another; the others must wait for it.
    state = PartialState(cpu=config.device == "cpu", timeout=timedelta(days=14))
    summary = prepare_corpus(arguments.input, arguments.output, config, state, state.device)
    if state.is_main_process:
        print(summary)
    state.destroy_process_group()


if __name__ == "__main__":
    exit_cleanly(main)
