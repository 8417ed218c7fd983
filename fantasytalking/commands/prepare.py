"""`fantasytalking prepare`: turns a folder of talking videos into training features."""

from collections.abc import Sequence

from fantasytalking.commands.invocation import Invocation

DESCRIPTION = """Turns a folder of talking videos into features that are ready for training.

    {command} --input DIR --output DIR [--config FILE] [key=value ...]
    {command} --refilter --output DIR [--input DIR] [limit=value ...]     other limits, nothing prepared again
    accelerate launch --config_file configs/accelerate/ddp.yaml {target} ...    on several GPUs

Resumes an interrupted run. With --refilter, the limits of a corpus change; clips that they bring back are prepared if
--input is given. data/README.md describes the output and how to get the videos.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments and prepares the corpus; the first of several processes prints a summary."""
    parser = invocation.parser(DESCRIPTION)
    parser.add_path("--input", help="folder of videos, searched recursively; required without --refilter")
    parser.add_path("--output", required=True, help="new folder, or that of a run to resume")
    parser.add_path(
        "--config", help="settings of the corpus; default: configs/nano/data.yaml, with --refilter those of the corpus"
    )
    parser.add_argument("--refilter", action="store_true", help="apply other limits to a corpus that is prepared")
    parser.add_settings("settings, such as frames=33 fps=25")
    given = parser.parse_intermixed_args(arguments)
    if given.input is None and not given.refilter:
        parser.error("the following arguments are required: --input")

    from fantasytalking.common.config import load_config, preset_path
    from fantasytalking.common.errors import ErrorCode, InputError
    from fantasytalking.common.processes import connect_processes
    from fantasytalking.data.prepare.config import PreparationConfig

    default = given.output / "data.yaml" if given.refilter else preset_path("nano", "data")
    if given.refilter and given.config is None and not default.is_file():
        raise InputError(
            f"'{given.output}' is no prepared corpus (it has no data.yaml), which --refilter needs; prepare one with "
            "--input",
            code=ErrorCode.missing_file,
            field="--output",
            value=str(given.output),
        )
    config = load_config(PreparationConfig, given.config or default, given.overrides)

    from transformers.utils import logging

    from fantasytalking.data.prepare.preparation import prepare_corpus, refilter_corpus

    if given.input is None:
        print(refilter_corpus(given.output, config))
        return
    logging.disable_progress_bar()
    state = connect_processes(cpu=config.device == "cpu")
    summary = prepare_corpus(given.input, given.output, config, state, state.device, refilter=given.refilter)
    if state.is_main_process:
        print(summary)
    state.destroy_process_group()
