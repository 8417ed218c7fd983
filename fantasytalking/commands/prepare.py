"""`fantasytalking prepare`: turns a folder of talking videos into training features."""

from collections.abc import Sequence

from fantasytalking.commands.invocation import Invocation

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
    parser.add_path("--config", help="settings of the corpus; default: configs/nano/data.yaml")
    parser.add_settings("settings, such as frames=33 fps=25")
    given = parser.parse_intermixed_args(arguments)

    from fantasytalking.common.config import load_config, preset_path
    from fantasytalking.common.processes import connect_processes
    from fantasytalking.data.prepare.config import PreparationConfig

    config = load_config(PreparationConfig, given.config or preset_path("nano", "data"), given.overrides)

    from transformers.utils import logging

    from fantasytalking.data.prepare.preparation import prepare_corpus

    logging.disable_progress_bar()
    state = connect_processes(cpu=config.device == "cpu")
    summary = prepare_corpus(given.input, given.output, config, state, state.device)
    if state.is_main_process:
        print(summary)
    state.destroy_process_group()
