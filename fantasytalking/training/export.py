"""Turns a checkpoint of a run into an adapter, as the end of the run does with its last one."""

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint import FileSystemReader

from fantasytalking.checkpoints.adapter import save_adapter_state
from fantasytalking.common.config import load_config
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.data.corpus_motion import fit_motion_normalizer, prepared_motion_normalizer
from fantasytalking.face_range import face_ranges_to_dict, load_face_ranges
from fantasytalking.motion_normalizer import MotionNormalizer
from fantasytalking.training.checkpointer import (
    EMA_SHARDS_FOLDER,
    EMA_WEIGHTS_FILE,
    TRAINED_WEIGHTS_FILE,
    CheckpointManager,
    TrainingProgress,
)
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.corpus_audio import load_corpus_encoder
from fantasytalking.training.model_setup import build_model
from fantasytalking.training.sharded_state import MODEL_KEY, TRAINED_SHARDS_FOLDER

_FSDP_FOLDER, _DEEPSPEED_FOLDER = "pytorch_model_fsdp_0", "pytorch_model"
"""Folders that accelerate writes the weights of sharded models into."""


class ExportedWeights(Enum):
    """Which weights of a checkpoint become the adapter."""

    auto = "auto"
    """The moving average if there is one, as at the end of a run."""
    trained = "trained"
    """The trained weights themselves."""


def export_checkpoint(
    run: Path, output: Path, step: int | None = None, weights: ExportedWeights = ExportedWeights.auto
) -> str:
    """Writes an adapter folder from a checkpoint and returns what was written, in one line.

    Needs the base and the initial weights of the run, in main memory but not on a GPU.

    Args:
        run: output folder of the run.
        output: a new folder, or an adapter that is replaced.
        step: step of the checkpoint; None: the newest.
        weights: which of its weights.

    Raises:
        InputError: the run has no such checkpoint, or its base, initial weights or clips are missing.
    """
    config = _run_config(run)
    checkpoints = CheckpointManager(run, keep_last_n=1)
    folder = checkpoints.latest() if step is None else checkpoints.of_step(step)
    if folder is None:
        raise InputError(
            f"'{run}' has no checkpoint; give the output folder of a run that has written one",
            code=ErrorCode.missing_file,
            field="--run",
            value=str(run),
        )
    progress = TrainingProgress.load(folder)
    model, provenance = build_model(config, torch.float32)
    shapes = {name: value for name, value in model.named_parameters() if name in set(provenance.trained_names)}
    stored = _read_weights(folder, shapes, weights)
    with torch.no_grad():
        for name, parameter in shapes.items():
            parameter.copy_(stored[name])
    adapter_config, base_names = provenance.adapter_config(config, progress.step)
    audio_encoder = load_corpus_encoder(run)
    adapter_config.audio_encoder = None if audio_encoder is None else audio_encoder.to_dict()
    adapter_config.face_ranges = face_ranges_to_dict(load_face_ranges(run))
    save_adapter_state(
        *(model.state_dict(), output, adapter_config, config, base_names),
        motion_normalizer=_motion_normalizer(run, config),
        dtype=torch.float16 if config.stage.save_float16 else None,
    )
    return f"wrote '{output}': {', '.join(adapter_config.modules)} after step {progress.step}"


def _run_config(run: Path) -> TrainConfig:
    """The configuration of a run, without what concerns speed only and may be impossible on this machine."""
    path = run / "train.yaml"
    if not path.is_file():
        raise InputError(
            f"'{run}' is not the output folder of a training run (it has no train.yaml); give one",
            code=ErrorCode.missing_file,
            field="--run",
            value=str(run),
        )
    config = load_config(TrainConfig, path)
    return replace(config, attention_backend=None, compile=False, gradient_checkpointing=False)


def _motion_normalizer(run: Path, config: TrainConfig) -> MotionNormalizer | None:
    """That of the run; runs of earlier releases keep none, so that it comes from their clips."""
    kept = MotionNormalizer.load_if_present(run)
    if kept is not None:
        return kept
    find = fit_motion_normalizer if config.data.refit_motion_normalizer else prepared_motion_normalizer
    return find(config.data.manifests)


def _read_weights(folder: Path, wanted: Mapping[str, Tensor], weights: ExportedWeights) -> Mapping[str, Tensor]:
    if weights is ExportedWeights.auto and (folder / EMA_WEIGHTS_FILE).is_file():
        found: Mapping[str, Tensor] = load_file(folder / EMA_WEIGHTS_FILE)
    elif weights is ExportedWeights.auto and (folder / EMA_SHARDS_FOLDER).is_dir():
        found = _read_shards(folder / EMA_SHARDS_FOLDER, wanted, "")
    elif (folder / TRAINED_WEIGHTS_FILE).is_file():
        found = load_file(folder / TRAINED_WEIGHTS_FILE)
    elif (folder / TRAINED_SHARDS_FOLDER).is_dir():
        found = _read_shards(folder / TRAINED_SHARDS_FOLDER, wanted, f"{MODEL_KEY}.")
    elif (folder / _FSDP_FOLDER).is_dir():
        found = _read_shards(folder / _FSDP_FOLDER, wanted, "model.")
    else:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        found = get_fp32_state_dict_from_zero_checkpoint(folder, tag=_DEEPSPEED_FOLDER, exclude_frozen_parameters=True)
    if not found.keys() >= wanted.keys():
        raise InputError(
            f"checkpoint '{folder}' lacks '{min(wanted.keys() - found.keys())}', which train.yaml trains; export with "
            "the release that wrote it",
            code=ErrorCode.shape_mismatch,
            field="--run",
            value=str(folder),
        )
    return found


def _read_shards(folder: Path, wanted: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Reads tensors of a distributed checkpoint, whatever processes wrote it."""
    known = FileSystemReader(folder).read_metadata().state_dict_metadata
    tensors = {name: torch.empty_like(value) for name, value in wanted.items() if f"{prefix}{name}" in known}
    renamed = {f"{prefix}{name}": value for name, value in tensors.items()}
    distributed_checkpoint.load(renamed, checkpoint_id=folder, no_dist=True)
    return tensors
