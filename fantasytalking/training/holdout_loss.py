"""The error on clips that are not trained on, beside which the training loss shows whether a run learns by heart."""

from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn

from fantasytalking.data.collate import PortraitCollator, TrainingBatch
from fantasytalking.data.dataset import BucketBatchSampler, PortraitDataset
from fantasytalking.flow_matching import NUM_TRAIN_TIMESTEPS, LossNormalization, add_noise, flow_matching_loss
from fantasytalking.motion_normalizer import MotionNormalizer
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.metrics_log import append_log_line
from fantasytalking.training.rng import step_randomness

HOLDOUT_SIGMAS = (0.15, 0.35, 0.6, 0.85)
"""Noise levels, the same for every clip, so that runs of other distributions can be compared."""
HOLDOUT_NOISE_STEP = 2**48
"""Stands for the step in the seed of the noise."""
HOLDOUT_LOG_FILE = "held_out.jsonl"


class HoldoutLoss:
    """A fixed choice of clips with fixed noise, every condition given.

    Args:
        motion: constants of the clips that are trained on; None = unknown, motion stays as it was prepared.

    Raises:
        InputError: a manifest is missing or damaged.
    """

    def __init__(self, config: TrainConfig, motion_normalizer: MotionNormalizer | None) -> None:
        self._config = config
        self._dataset = PortraitDataset(*config.holdout.manifests, motion_normalizer=motion_normalizer)
        self._collator = PortraitCollator(
            config.data.collate_config(config.stage.alignment, config.stage.expression is not None)
        )
        batches = list(BucketBatchSampler(self._dataset.records, 1, seed=config.seed))
        self._indices = [index for (index,) in batches[: config.holdout.max_clips]]

    def evaluate(self, model: nn.Module, device: torch.device, dtype: torch.dtype) -> dict[str, list[float]]:
        """Mean squared errors of the velocity, one a noise level of `HOLDOUT_SIGMAS`.

        Args:
            model: wrapped or not. Every process must call this: the clips are divided between them.
            device, dtype: of what the model is given.

        Returns:
            {"everywhere", "lips", "rest"}: of the whole picture, under the lip mask and outside of it.

        Raises:
            InputError: a clip is damaged.
        """
        state = PartialState()
        # All measure equally many, since a sharded model needs them all; what is measured twice counts once.
        turns = range(-(-len(self._indices) // state.num_processes))
        own = [(turn * state.num_processes + state.process_index) % len(self._indices) for turn in turns]
        measured = [(place, self._clip_errors(model, self._indices[place], device, dtype)) for place in own]
        found = dict(gather_object(measured))
        everywhere, lips, rest = torch.stack([found[place] for place in sorted(found)]).mean(dim=0).tolist()
        return {"everywhere": everywhere, "lips": lips, "rest": rest}

    def _clip_errors(self, model: nn.Module, index: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        with torch.autocast(device.type, enabled=False):  # which on a CPU knows no half precision, as features are in
            clip = self._collator([self._dataset[index]])
        noise = step_randomness(self._config.seed, HOLDOUT_NOISE_STEP, [index], clip.latents.shape[1:]).noise.to(device)
        batch = TrainingBatch(clip.latents.to(device), clip.conditions.to(device), clip.lip_mask.to(device))
        given, errors = batch.conditions.to(dtype=dtype), []
        for level in HOLDOUT_SIGMAS:
            sigmas = torch.full((1,), level, device=device)
            noisy = add_noise(batch.latents, noise, sigmas).to(dtype)
            velocity = model(noisy, sigmas * NUM_TRAIN_TIMESTEPS, given, return_dict=False)[0]
            masks = (None, batch.lip_mask, 1 - batch.lip_mask)
            own = [flow_matching_loss(velocity, batch.latents, noise, mask, LossNormalization.mask) for mask in masks]
            errors.append(torch.cat(own))
        return torch.stack(errors, dim=1).cpu()


def log_holdout_errors(output: Path, step: int, errors: dict[str, list[float]]) -> str:
    """Adds what was measured to the run's held_out.jsonl; gives it as a person reads it."""
    append_log_line(output / HOLDOUT_LOG_FILE, {"step": step, "sigmas": HOLDOUT_SIGMAS, **errors})
    told = ", ".join(f"{name} {' '.join(f'{value:.3f}' for value in values)}" for name, values in errors.items())
    return f"step {step}  held-out error at noise {' '.join(map(str, HOLDOUT_SIGMAS))}: {told}"


def holdout_scalars(errors: dict[str, list[float]]) -> dict[str, float]:
    """As trackers take it."""
    return {
        f"held_out/{name}/{sigma}": value
        for name, values in errors.items()
        for sigma, value in zip(HOLDOUT_SIGMAS, values, strict=True)
    }
