"""Loss on clips that are not trained on; compared with the training loss it shows overfitting."""

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn

from fantasytalking.audio_tokens import AudioEncoderSpec, check_same_encoder
from fantasytalking.common.agreement import errors_on_all
from fantasytalking.data.collate import PortraitCollator, TrainingBatch
from fantasytalking.data.dataset import BucketBatchSampler, PortraitDataset
from fantasytalking.flow_matching import NUM_TRAIN_TIMESTEPS, LossNormalization, add_noise, flow_matching_loss
from fantasytalking.motion_normalizer import MotionNormalizer
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.metrics_log import append_log_line
from fantasytalking.training.rng import step_randomness

HOLDOUT_SIGMAS = (0.15, 0.35, 0.6, 0.85)
"""Noise levels of every clip, fixed so that runs with different noise distributions are comparable; for an expert,
positions in the range of its noise levels."""
HOLDOUT_NOISE_STEP = 2**48
"""Step number in the seed of the noise, outside those of training."""
HOLDOUT_LOG_FILE = "held_out.jsonl"


class HoldoutLoss:
    """Evaluates a fixed selection of clips with fixed noise and all conditions.

    Args:
        motion_normalizer: that of the training clips; None (unknown) keeps the intensities as prepared.
        audio_encoder: that of the training clips; None: unknown.

    Raises:
        InputError: a manifest is missing or damaged, or its clips have another audio encoder.
    """

    def __init__(
        self,
        config: TrainConfig,
        motion_normalizer: MotionNormalizer | None,
        audio_encoder: AudioEncoderSpec | None = None,
    ) -> None:
        self._config = config
        low, high = config.sigma_range
        self.sigmas = tuple(low + (high - low) * level for level in HOLDOUT_SIGMAS)
        """Noise levels of every clip."""
        self._dataset = PortraitDataset(*config.holdout.manifests, motion_normalizer=motion_normalizer)
        if audio_encoder is not None and self._dataset.audio_encoder is not None:
            check_same_encoder(
                self._dataset.audio_encoder,
                audio_encoder,
                "the audio tokens of holdout.manifests are those of",
                "prepare them with the audio_encoder of data.manifests",
            )
        self._collator = PortraitCollator(config.collate_config())
        batches = list(BucketBatchSampler(self._dataset.records, 1, seed=config.seed))
        self._indices = [index for (index,) in batches[: config.holdout.max_clips]]

    def evaluate(self, model: nn.Module, device: torch.device, dtype: torch.dtype) -> dict[str, list[float]]:
        """Returns the mean squared errors of the velocity, one per noise level of `sigmas`.

        Call on every process: the clips are divided between them.

        Args:
            model: wrapped or not.
            device, dtype: of the model's inputs.

        Returns:
            "everywhere" (whole frame), "lips" (under the lip mask) and "rest" (outside of it).

        Raises:
            InputError: a clip is damaged; raised on every process.
        """
        state = PartialState()
        # A sharded model needs all processes, so each evaluates equally many clips; repeated ones count once.
        turns = range(-(-len(self._indices) // state.num_processes))
        own = [(turn * state.num_processes + state.process_index) % len(self._indices) for turn in turns]
        measured = [(position, self._clip_errors(model, self._load(position), device, dtype)) for position in own]
        gathered = dict(gather_object(measured))
        everywhere, lips, rest = torch.stack([gathered[position] for position in sorted(gathered)]).mean(dim=0).tolist()
        return {"everywhere": everywhere, "lips": lips, "rest": rest}

    def _load(self, position: int) -> tuple[int, TrainingBatch]:
        """Returns a clip and its index in the dataset. A damaged one raises on all processes, none of which waits."""
        index = self._indices[position]
        # The CPU version of autocast rejects float16, the type of features.
        with errors_on_all(), torch.autocast("cpu", enabled=False):
            return index, self._collator([self._dataset[index]])
        raise AssertionError("errors_on_all raises what it catches")

    def _clip_errors(
        self, model: nn.Module, numbered_clip: tuple[int, TrainingBatch], device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        index, clip = numbered_clip
        noise = step_randomness(self._config.seed, HOLDOUT_NOISE_STEP, [index], clip.latents.shape[1:]).noise.to(device)
        batch = clip._replace(
            latents=clip.latents.to(device), conditions=clip.conditions.to(device), lip_mask=clip.lip_mask.to(device)
        )
        start = batch.num_given_frames
        sample, mask = batch.latents[:, :, start:], batch.lip_mask[:, :, start:]
        conditions, errors = batch.conditions.to(dtype=dtype), []
        for level in self.sigmas:
            sigmas = torch.full((1,), level, device=device)
            noisy = add_noise(batch.latents, noise, sigmas).to(dtype)
            velocity = model(noisy, sigmas * NUM_TRAIN_TIMESTEPS, conditions, return_dict=False)[0]
            parts = [
                flow_matching_loss(velocity[:, :, start:], sample, noise[:, :, start:], weight, LossNormalization.mask)
                for weight in (None, mask, 1 - mask)
            ]
            errors.append(torch.cat(parts))
        return torch.stack(errors, dim=1).cpu()


def log_holdout_errors(output: Path, step: int, errors: dict[str, list[float]], sigmas: Sequence[float]) -> str:
    """Appends the errors to held_out.jsonl in the folder `output` and returns them as one line of text."""
    append_log_line(output / HOLDOUT_LOG_FILE, {"step": step, "sigmas": list(sigmas), **errors})
    parts = ", ".join(f"{name} {' '.join(f'{value:.3f}' for value in values)}" for name, values in errors.items())
    return f"step {step}  held-out error at noise {' '.join(f'{sigma:g}' for sigma in sigmas)}: {parts}"


def holdout_scalars(errors: dict[str, list[float]], sigmas: Sequence[float]) -> dict[str, float]:
    """Returns the errors by tracker name."""
    return {
        f"held_out/{name}/{sigma:g}": value
        for name, values in errors.items()
        for sigma, value in zip(sigmas, values, strict=True)
    }
