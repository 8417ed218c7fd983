"""`fantasytalking prepare`: turns a folder of talking videos into training features."""

from collections.abc import Sequence
from datetime import timedelta

from fantasytalking.commands.invocation import Invocation
from fantasytalking.common.errors import ErrorCode, InputError

DESCRIPTION = """Turns a folder of talking videos into features that are ready for training.

    {command} --input DIR --output DIR [--config FILE] [key=value ...]
    accelerate launch --config_file configs/accelerate/ddp.yaml {target} ...    on several GPUs

Resumes an interrupted run. data/README.md describes the output and how to get the videos.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments and prepares the corpus; the first of several processes prints a summary."""
    parser = invocation.parser(DESCRIPTION)
    parser.add_path("--input", required=True, help="folder of videos, searched recursively")
    parser.add_path("--output", required=True, help="new folder, or that of a run to resume")
    parser.add_path("--config", help="settings of the corpus; default: configs/wan14b/data.yaml")
    parser.add_settings("settings, such as frames=33 fps=25")
    given = parser.parse_intermixed_args(arguments)

    import torch
    from accelerate import PartialState
    from transformers.utils import logging

    from fantasytalking.common.config import load_config, preset_path
    from fantasytalking.data.prepare.config import PreparationConfig
    from fantasytalking.data.prepare.preparation import prepare_corpus

    config = load_config(PreparationConfig, given.config or preset_path("wan14b", "data"), given.overrides)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "device is 'cuda', but no CUDA device is available; use device=cpu",
            code=ErrorCode.unsupported,
            field="device",
            value="cuda",
        )
    logging.disable_progress_bar()
    # One process may have hours of work more than another: the others must not time out.
    state = PartialState(cpu=config.device == "cpu", timeout=timedelta(days=14))
    summary = prepare_corpus(given.input, given.output, config, state, state.device)
    if state.is_main_process:
        print(summary)
    state.destroy_process_group()
