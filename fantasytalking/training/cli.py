"""Command line of training: every stage is the same command with another default YAML."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fantasytalking.common.command_parser import CommandParser
from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.processes import launched_processes
from fantasytalking.common.terminal_log import TerminalFormatter
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.gpus import GPUS

if TYPE_CHECKING:
    from fantasytalking.training.trainer import ValidationSampler

TORCH_WARNING_OF_EVERY_PROCESS = "Mismatch dtype between input and weight"
"""Start of torch's warning about `rms_norm` in autocast, which only the first process passes on."""


def train(
    config_name: str | None,
    description: str,
    build_validation_sampler: "Callable[[TrainConfig], ValidationSampler] | None" = None,
    build_corpus: Callable[[TrainConfig], None] | None = None,
    *,
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Parses the command line, then trains or, with --dry-run, prints the plan.

    Args:
        config_name: name of the default YAML: configs/nano/`config_name`.yaml; None: there is no default.
        build_validation_sampler: builds the sampler of the validation videos if the run has any; passed in, since
            training imports no pipeline.
        build_corpus: creates a missing corpus if possible; passed in as well.
        arguments: the command line; None: that of this process.
        prog: the program's name in help; None: the file name of the script.

    Raises:
        InputError: an argument, the configuration, the clips or the weights cannot be used.
        SystemExit: a stop signal ended the run; its code is 128 plus the signal's number.
    """
    parser = CommandParser(prog, description)
    default = f"default: configs/nano/{config_name}.yaml" if config_name else "required; there is no default"
    parser.add_path("--config", help=f"YAML of a stage; {default}")
    parser.add_argument("--dry-run", action="store_true", help="print settings, parameters and memory; no training")
    parser.add_argument(
        "--gpu", metavar="NAME", help=f"with --dry-run, estimate the time on {', '.join(GPUS)} (default: no estimate)"
    )
    parser.add_argument(
        "--clip-size", metavar="WxHxFRAMES", help="with --dry-run, size of the largest clips (default: the corpus')"
    )
    parser.add_settings("settings: batch_size=4 stage.steps=1000")
    options = parser.parse_intermixed_args(arguments)
    if options.config is None and config_name is None:
        raise InputError(
            "--config is missing; give the YAML of a stage, as in --config configs/nano/stage1.yaml",
            code=ErrorCode.missing_value,
            field="--config",
        )
    config = load_config(TrainConfig, options.config or preset_path("nano", str(config_name)), options.overrides)
    world_size = launched_processes()
    # Imported here, so that a wrong option is reported at once.
    if options.dry_run:
        from fantasytalking.training.compute_estimate import describe_time
        from fantasytalking.training.memory_estimate import ClipSize, describe_plan

        size = None if options.clip_size is None else ClipSize.parse(options.clip_size)
        if _is_first_process():
            sys.stdout.write(describe_plan(config, world_size, size) + "\n")
            if options.gpu is not None:
                sys.stdout.write(describe_time(config, world_size, options.gpu, size) + "\n")
        return
    configure_logging()
    from fantasytalking.training.model_setup import check_initial_weights_exist
    from fantasytalking.training.stop_request import TrainingInterrupted
    from fantasytalking.training.trainer import Trainer

    check_initial_weights_exist(config.stage.init_from)  # before a corpus is created, which takes long
    if build_corpus is not None and not all(Path(manifest).is_file() for manifest in config.data.manifests):
        build_corpus(config)  # needs packages that a training node with a corpus may lack
    check_manifests_exist(config)
    validation_sampler = (
        build_validation_sampler(config)
        if build_validation_sampler is not None and config.validation.interval
        else None
    )
    try:
        Trainer(config, validation_sampler).train()
    except TrainingInterrupted as interrupted:
        if _is_first_process():
            sys.stderr.write(f"{interrupted}\n")
        sys.exit(interrupted.exit_code)


def check_manifests_exist(config: TrainConfig) -> None:
    """Validates that every manifest exists.

    Raises:
        InputError: one does not; the message names the command that creates it.
    """
    for manifest in config.data.manifests:
        if not Path(manifest).is_file():
            encoder = " expression_encoder=FOLDER" if config.stage.expression is not None else ""
            cure = (
                "fantasytalking build-nano"
                if config.model == "nano" and not encoder
                else f"fantasytalking prepare --config {_data_config(config.model)} "
                f"--input VIDEOS --output {Path(manifest).parent}{encoder}"
            )
            raise InputError(
                f"manifest '{manifest}' does not exist; prepare the corpus with: {cure}",
                code=ErrorCode.missing_file,
                field="data.manifests",
                value=manifest,
            )


def _data_config(model: str) -> str:
    """The YAML of preparation in a message; that of a model.yaml of one's own is not known."""
    return "DATA.yaml" if model.endswith((".yaml", ".yml")) else f"configs/{model}/data.yaml"


def _is_first_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def configure_logging() -> None:
    """Logs the package's own messages to stdout: warnings of every process, the rest of the first process only."""
    is_first = _is_first_process()
    if not is_first:
        warnings.filterwarnings("ignore", message=TORCH_WARNING_OF_EVERY_PROCESS)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(TerminalFormatter("%(message)s"))
    package = logging.getLogger("fantasytalking")
    package.addHandler(handler)
    package.setLevel(logging.INFO if is_first else logging.WARNING)
    package.propagate = False
