"""Stage 3: piecewise rectified flow (PeRFlow, Yan et al., arXiv 2405.07510) with guidance folded in.

The trajectory from noise to sample is cut into K windows. Within a window the guided teacher is integrated by small
steps; the student learns, in one forward pass conditioned on the guidance scales (Meng et al., arXiv 2210.03142), the
straight line from the start of the window to its end. K student steps then replace K x `teacher_steps_per_window`
guided teacher steps.

Teacher and student share one network: without its LoRA and without guidance scales, it is the teacher.

Axes: B clips, F latent frames, h and w latent height and width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fantasytalking.checkpoints.lora import lora_disabled
from fantasytalking.conditions import Conditions
from fantasytalking.data.collate import TrainingBatch
from fantasytalking.flow_matching import NUM_TRAIN_TIMESTEPS, add_noise, shift_sigmas, velocity_loss
from fantasytalking.models.cfg_branches import GuidanceBranch, cfg_branch_weights
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.training.losses import StepLoss, is_masked, loss_weight
from fantasytalking.training.rng import StepRandomness
from fantasytalking.training.stage_config import DistillationConfig, LossConfig


class SegmentSample(NamedTuple):
    """Window, position in it and guidance scales of each clip."""

    start: Tensor
    """(B,) start of the window before the shift, float64: 1 = noise, 0 = sample."""
    fraction: Tensor
    """(B,) where the student is evaluated, in noise levels: 0 = start of the window, 1 = its end."""
    guidance_scales: Tensor
    """(B, 2) text and audio guidance scales."""


class DistillationObjective:
    """Regresses the student's velocity to the straight line between the ends of the teacher's trajectory in a window.

    Implements `fantasytalking.training.objectives.Objective`.
    """

    uses_teacher = True

    def __init__(self, config: DistillationConfig, loss: LossConfig) -> None:
        self._config, self._loss = config, loss

    def add_modules(self, model: FantasyTalkingTransformer3DModel) -> None:
        """Adds the guidance embedder."""
        model.add_guidance_embedder(self._config.to_spec())

    def compute_loss(
        self, model: nn.Module, batch: TrainingBatch, randomness: StepRandomness, dtype: torch.dtype
    ) -> StepLoss:
        """Returns the loss of a micro-batch; see `Objective.compute_loss`."""
        config, conditions = self._config, batch.conditions.to(dtype=dtype)

        # Teacher: from the start of the window to its end
        segments = sample_segments(randomness, config)
        begin, end = (shift_sigmas(segments.start - i / config.num_windows, config.flow_shift).float() for i in (0, 1))
        window_start = add_noise(batch.latents, randomness.noise, begin)
        with torch.no_grad(), lora_disabled(model):
            window_end = self.integrate_teacher(model, window_start, conditions, segments, dtype)
        velocity = (window_start - window_end) / _broadcast(begin - end)

        # Student: one evaluation on the straight line between them
        sigmas = torch.lerp(begin, end, segments.fraction.float())
        noisy = (window_start - _broadcast(begin - sigmas) * velocity).to(dtype)
        conditions = conditions._replace(guidance=segments.guidance_scales.to(dtype))
        prediction = model(noisy, sigmas * NUM_TRAIN_TIMESTEPS, conditions, return_dict=False)[0]
        weight = loss_weight(batch.lip_mask, randomness, self._loss)
        start = batch.num_given_frames
        weight = None if weight is None else weight[:, :, start:]
        loss = velocity_loss(prediction[:, :, start:], velocity[:, :, start:], weight, self._loss.normalization)
        return StepLoss(loss, sigmas, is_masked(randomness, self._loss))

    def integrate_teacher(
        self, model: nn.Module, noisy: Tensor, conditions: Conditions, segments: SegmentSample, dtype: torch.dtype
    ) -> Tensor:
        """Returns the latents (B, Z, F, h, w) at the end of the window, from `noisy` by Euler steps of the guided
        model.

        They are the steps that the pipeline takes for a video of `num_windows` x `teacher_steps_per_window` steps. Keys
        and values are not cached between steps as in the pipeline: the cache identifies tensors by object identity,
        which the hooks of sharded models do not preserve, and would save a few percent.
        """
        config = self._config
        text, audio = segments.guidance_scales.unbind(dim=1)
        weights = cfg_branch_weights(config.guidance_order, text, audio)
        branches = [(branch_conditions(conditions, branch), weight) for branch, weight in weights]
        stride = 1 / (config.num_windows * config.teacher_steps_per_window)
        latents = noisy
        for step in range(config.teacher_steps_per_window):
            sigma, next_sigma = (
                shift_sigmas(segments.start - (step + i) * stride, config.flow_shift).float() for i in (0, 1)
            )
            velocity = torch.zeros_like(latents)
            for branch, weight in branches:
                prediction = model(latents.to(dtype), sigma * NUM_TRAIN_TIMESTEPS, branch, return_dict=False)[0]
                velocity = velocity + _broadcast(weight) * prediction.float()
            latents = latents + _broadcast(next_sigma - sigma) * velocity
        return latents


def sample_segments(randomness: StepRandomness, config: DistillationConfig) -> SegmentSample:
    """Returns uniform windows, positions and guidance scales, with `window_start_fraction` of the clips at fraction
    0."""
    position = randomness.sigma_uniform.double() * config.num_windows
    window = position.floor().clamp_max(config.num_windows - 1)
    inside = position - window
    start = config.window_start_fraction
    fraction = ((inside - start) / max(1 - start, 1e-6)).clamp(0, 1)
    ranges = randomness.guidance_uniform.new_tensor([config.text_guidance_range, config.audio_guidance_range])
    low, high = ranges.unbind(dim=1)
    return SegmentSample(1 - window / config.num_windows, fraction, torch.lerp(low, high, randomness.guidance_uniform))


def branch_conditions(conditions: Conditions, branch: GuidanceBranch) -> Conditions:
    """Returns the conditions of a guidance branch: without text zeros, as in dropout; without audio a scale of 0."""
    if not branch.text:
        conditions = conditions._replace(prompt_embeds=torch.zeros_like(conditions.prompt_embeds))
    if not branch.audio:
        conditions = conditions._replace(
            condition_scale=conditions.condition_scale * conditions.condition_scale.new_tensor([0.0, 1.0])
        )
    return conditions


def _broadcast(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1, 1)
