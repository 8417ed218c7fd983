"""`fantasytalking train`: trains a stage.

Validation videos and nano's corpora come from rooms that training itself does not import; they are imported only when
they are needed, since they need the packages of the extra `data`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fantasytalking.commands.invocation import Invocation

if TYPE_CHECKING:
    from fantasytalking.inference.validation_sampler import PipelineValidationSampler
    from fantasytalking.training.config import TrainConfig

STAGES = {
    "stage1": "Stage 1, clip level: aligns audio with the motion of the whole scene (paper section 3.1).",
    "stage2": "Stage 2, frame level: aligns lips with the audio of their own moment (paper sections 3.1 and 3.2).",
    "stage3": (
        "Stage 3: distills the model of stage 2 to generate videos in four calls, guidance included (arXiv 2405.07510, "
        "2210.03142)."
    ),
    "portrait": (
        "Portrait stage: the expressions in a video drive faces, of one or several people at once (arXiv 2507.12956)."
    ),
}
"""The stages that have a configuration for every base model."""
_STAGE_DESCRIPTION = """
    {{command}}                                         nano, on the portrait world
    accelerate launch --config_file configs/accelerate/fsdp.yaml \\
        {{target}} --config configs/wan14b/{stage}.yaml [key=value ...]    full size

Run the same command again to resume. --dry-run prints the plan, the parameter counts and an estimate of the memory.
"""
_DESCRIPTION = """Trains the stage that a configuration describes.

    {command} --config configs/nano/stage1.yaml [key=value ...]                  nano, on the portrait world
    accelerate launch --config_file configs/accelerate/fsdp.yaml \\
        {target} --config configs/wan14b/stage2.yaml [key=value ...]    full size, on several GPUs

Stages: stage1 (clip-level audio), stage2 (frame-level audio), stage3 (few-step distillation), portrait (expressions).
Run the same command again to resume. --dry-run prints the plan, the parameter counts and an estimate of the memory.
"""


def main(arguments: Sequence[str], invocation: Invocation, stage: str | None = None) -> None:
    """Parses the arguments and trains.

    Args:
        stage: name of the default configuration, configs/nano/`stage`.yaml; None: --config must be given.
    """
    from fantasytalking.training.cli import train

    text = _DESCRIPTION if stage is None else f"{STAGES[stage]}\n{_STAGE_DESCRIPTION.format(stage=stage)}"
    train(stage, invocation.describe(text), _build_sampler, _build_corpus, arguments=arguments, prog=invocation.prog)


def _build_sampler(config: "TrainConfig") -> "PipelineValidationSampler":
    from fantasytalking.inference.validation_sampler import PipelineValidationSampler

    return PipelineValidationSampler(config)


def _build_corpus(config: "TrainConfig") -> None:
    from fantasytalking.nano.bootstrap_corpus import bootstrap_corpus

    bootstrap_corpus(config)
