"""Command line of training: every stage is the same command with another default YAML."""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.training.config import TrainConfig

if TYPE_CHECKING:
    from fantasytalking.training.trainer import ValidationSampler


def train(
    config_name: str,
    description: str,
    build_validation_sampler: "Callable[[TrainConfig], ValidationSampler] | None" = None,
    build_corpus: Callable[[TrainConfig], None] | None = None,
) -> None:
    """Parses the command line, then trains or, with --dry-run, prints the plan.

    Args:
        config_name: name of the default YAML: configs/nano/`config_name`.yaml.
        build_validation_sampler: builds the sampler of the validation videos if the run has any; passed in, since
            training imports no pipeline.
        build_corpus: creates a missing corpus if possible; passed in as well.

    Raises:
        InputError: an argument, the configuration, the clips or the weights cannot be used.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help=f"default: configs/nano/{config_name}.yaml")
    parser.add_argument("--dry-run", action="store_true", help="print settings, parameters and memory; no training")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings: batch_size=4 stage.steps=1000")
    arguments = parser.parse_args()
    config = load_config(TrainConfig, arguments.config or preset_path("nano", config_name), arguments.overrides)
    # Imported here, so that a wrong option is reported at once.
    if arguments.dry_run:
        from fantasytalking.training.memory_estimate import describe_plan

        sys.stdout.write(describe_plan(config) + "\n")
        return
    _configure_logging()
    from fantasytalking.training.model_setup import check_initial_weights_exist
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
    Trainer(config, validation_sampler).train()


def check_manifests_exist(config: TrainConfig) -> None:
    """Validates that every manifest exists.

    Raises:
        InputError: one does not; the message names the command that creates it.
    """
    for manifest in config.data.manifests:
        if not Path(manifest).is_file():
            encoder = " expression_encoder=FOLDER" if config.stage.expression is not None else ""
            cure = (
                "python scripts/build_nano.py"
                if config.model == "nano" and not encoder
                else f"python scripts/prepare_data.py --config configs/{config.model}/data.yaml "
                f"--input VIDEOS --output {Path(manifest).parent}{encoder}"
            )
            raise InputError(
                f"manifest '{manifest}' does not exist; prepare the corpus with: {cure}",
                code=ErrorCode.missing_file, field="data.manifests", value=manifest,
            )  # fmt: skip


def _configure_logging() -> None:
    """Logs the package's own messages to stdout: warnings of every process, the rest of the first process only."""
    is_first = int(os.environ.get("RANK", "0")) == 0
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    package = logging.getLogger("fantasytalking")
    package.addHandler(handler)
    package.setLevel(logging.INFO if is_first else logging.WARNING)
    package.propagate = False
