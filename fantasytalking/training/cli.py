"""What the training scripts share: they differ in their default YAML alone."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import InputError
from fantasytalking.training.config import TrainConfig

if TYPE_CHECKING:
    from fantasytalking.training.trainer import ValidationSampler


def train(
    config_name: str | None,
    description: str,
    build_validation_sampler: "Callable[[TrainConfig], ValidationSampler] | None" = None,
    build_corpus: Callable[[TrainConfig], None] | None = None,
    *,
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Parses the command line, then trains or, with --dry-run, tells the plan.

    Args:
        config_name: name of the default YAML: configs/nano/`config_name`.yaml; None: there is no default.
        build_validation_sampler: gives what makes the validation videos, when there are to be any; brought from above,
            since training knows no pipeline.
        build_corpus: makes the corpus where it is not there and can be made; brought from above as well.
        arguments: the command line; None: that of this process.
        prog: the program's name in help; None: the file name of the script.

    Raises:
        InputError: anything given that cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = f"default: configs/nano/{config_name}.yaml" if config_name else "a stage's YAML; must be given"
    parser.add_argument("--config", type=Path, help=default)
    parser.add_argument("--dry-run", action="store_true", help="tell the plan: settings, parameters, memory; no step")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, as in batch=4 stage.steps=1000")
    given = parser.parse_args(arguments)
    if given.config is None and config_name is None:
        raise InputError("--config is not given; give a stage's YAML, as in --config configs/nano/stage1.yaml")
    config = load_config(TrainConfig, given.config or preset_path("nano", str(config_name)), given.overrides)
    # Only now, so that a wrong option is told at once.
    if given.dry_run:
        from fantasytalking.training.memory_estimate import describe_plan

        sys.stdout.write(describe_plan(config) + "\n")
        return
    _configure_logging()
    from fantasytalking.training.model_setup import check_initial_weights_exist
    from fantasytalking.training.trainer import Trainer

    check_initial_weights_exist(config.stage.init_from)  # before a corpus is made, which takes long
    if build_corpus is not None and not all(Path(manifest).is_file() for manifest in config.data.manifests):
        build_corpus(config)  # a training node, where there is a corpus, needs none of what makes one
    check_manifests_exist(config)
    sample = (
        build_validation_sampler(config)
        if build_validation_sampler is not None and config.validation.interval
        else None
    )
    Trainer(config, sample).train()


def check_manifests_exist(config: TrainConfig) -> None:
    """Holds that every manifest is there.

    Raises:
        InputError: one is not; names the command that makes it.
    """
    for manifest in config.data.manifests:
        if not Path(manifest).is_file():
            driven = " expression_encoder=FOLDER" if config.stage.expression is not None else ""
            cure = (
                "fantasytalking build-nano"
                if config.model == "nano" and not driven
                else f"fantasytalking prepare --config configs/{config.model}/data.yaml "
                f"--input VIDEOS --output {Path(manifest).parent}{driven}"
            )
            raise InputError(f"there is no corpus at '{manifest}'; make and prepare it with: {cure}")


def _configure_logging() -> None:
    """The project's own lines on stdout, of the first process only."""
    first = int(os.environ.get("RANK", "0")) == 0
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    package = logging.getLogger("fantasytalking")
    package.addHandler(handler)
    package.setLevel(logging.INFO if first else logging.WARNING)
    package.propagate = False
