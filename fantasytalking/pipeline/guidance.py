"""Classifier-free guidance by text, audio and expression: the branches to compute, and their weighted sum.

Axes: B batch, C channels, F latent frames, h and w latent height and width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from fantasytalking.common.validation import check_ranges
from fantasytalking.models.cfg_branches import (
    CfgOrder,
    GuidanceBranch,
    add_condition_guidance,
    cfg_branch_weights,
)
from fantasytalking.models.experts import Expert
from fantasytalking.models.guidance_embedder import MAX_GUIDANCE_SCALE

EXPRESSION_GUIDANCE_SCALE = 4.5
"""Default of the paper (FantasyPortrait, arXiv 2507.12956); its released code has 4."""
MIN_BRANCH_WEIGHT = 1e-9
"""Scales that cancel leave a rounding error of this size, which is not worth a call of the model."""
GUIDANCE_CONDITIONS = ("text", "audio", "expression")
"""Fields of `GuidanceConfig` that hold a schedule."""


@dataclass
class GuidanceSchedule:
    """A guidance scale per step: linear from `scale_start` to `scale_end` over the first `stop` of the steps, then 1.

    A scale of 1 means no guidance.
    """

    scale_start: float = 5.0
    """Scale at the first step, in [0, 100]."""
    scale_end: float = 5.0
    """Scale at the last guided step, in [0, 100]."""
    stop: float = 1.0
    """Fraction of the steps that are guided, in [0, 1]."""

    @classmethod
    def from_scale(cls, scale: "float | GuidanceSchedule") -> "GuidanceSchedule":
        """Returns a schedule unchanged, and a number as a constant schedule."""
        return scale if isinstance(scale, GuidanceSchedule) else cls(scale, scale)

    def scale_at(self, step: int, num_steps: int) -> float:
        """Returns the scale at `step`, in 0 .. `num_steps` - 1."""
        guided = round(self.stop * num_steps)
        if step >= guided:
            return 1.0
        return self.scale_start + (self.scale_end - self.scale_start) * step / max(1, guided - 1)

    def check(self, prefix: str) -> None:
        """Validates scales and fraction.

        Args:
            prefix: path of the schedule in the configuration, with a dot at its end.

        Raises:
            InputError: a value is outside its range.
        """
        scales = (0.0, MAX_GUIDANCE_SCALE)
        check_ranges(self, {"scale_start": scales, "scale_end": scales, "stop": (0, 1)}, prefix)


@dataclass
class GuidanceConfig:
    """Classifier-free guidance of a video."""

    text: GuidanceSchedule = field(default_factory=GuidanceSchedule)
    """Scale of the prompt (useful: 3 to 7)."""
    audio: GuidanceSchedule = field(default_factory=GuidanceSchedule)
    """Scale of the audio (useful: 3 to 7)."""
    order: CfgOrder = CfgOrder.text_first
    """The condition that is dropped first."""
    color_rescale: float = 0.0
    """Strength of `rescale_color` in [0, 1]; 0: no rescaling."""
    batch_branches: bool | None = None
    """Whether all branches run in one call, which shares the common layers for a multiple of the memory; null: where
    memory allows."""
    expression: GuidanceSchedule = field(
        default_factory=lambda: GuidanceSchedule(EXPRESSION_GUIDANCE_SCALE, EXPRESSION_GUIDANCE_SCALE)
    )
    """Scale of the driving expressions; unused without them."""
    text_2: float | None = None
    """Scale of the prompt, in [0, 100], at the steps of the low-noise expert, for a base that has two (diffusers'
    guidance_scale_2); null: as `text`."""
    conditions: dict[str, GuidanceSchedule] = field(default_factory=dict)
    """Scales of registered conditions by name; 1 for those that are missing."""

    def schedule(self, name: str) -> GuidanceSchedule:
        """Returns the schedule of a condition beside text and audio."""
        return self.expression if name == "expression" else self.conditions.get(name, GuidanceSchedule(1.0, 1.0))

    def validate(self) -> None:
        """Validates the strength and the schedules.

        Raises:
            InputError: a value is outside its range.
        """
        for name in GUIDANCE_CONDITIONS:
            getattr(self, name).check(f"guidance.{name}.")
        for name, schedule in self.conditions.items():
            schedule.check(f"guidance.conditions.{name}.")
        check_ranges(self, {"color_rescale": (0, 1), "text_2": (0, MAX_GUIDANCE_SCALE)}, "guidance.")

    def for_expert(self, expert: Expert) -> "GuidanceConfig":
        """Returns the guidance of the steps that an expert predicts."""
        if expert is Expert.high or self.text_2 is None:
            return self
        return replace(self, text=GuidanceSchedule.from_scale(self.text_2))


class StepGuidance(NamedTuple):
    """Guidance of one denoising step."""

    weights: dict[GuidanceBranch, float]
    """Weight of each branch in the guided prediction; the weights sum to 1, and none is 0."""
    color_reference: dict[GuidanceBranch, float]
    """Weights without audio and expression guidance, whose color statistics are kept; empty: no rescaling."""
    color_rescale: float
    scales: tuple[float, float]
    """Scales of text and audio, the inputs of a distilled model in place of one call per branch."""

    @property
    def branches(self) -> list[GuidanceBranch]:
        """Branches to compute, in a fixed order."""
        return sorted({*self.weights, *self.color_reference})

    def combine(self, predictions: Mapping[GuidanceBranch, Tensor]) -> Tensor:
        """Returns the guided prediction (B, C, F, h, w) in float32."""
        guided = weighted_sum(predictions, self.weights)
        if not self.color_reference:
            return guided
        return rescale_color(guided, weighted_sum(predictions, self.color_reference), self.color_rescale)


class AvailableConditions(NamedTuple):
    """Conditions that a video has: an absent one cannot guide it, and branches that differ only in it coincide."""

    prompt: bool = True
    """Whether prompt and negative prompt differ."""
    audio: bool = True
    further: tuple[str, ...] = ()
    """Names of further conditions, such as expression, in the order in which their guidance is added."""


SPEECH_ONLY = AvailableConditions()


def guidance_at_step(
    config: GuidanceConfig, step: int, num_steps: int, available: AvailableConditions = SPEECH_ONLY
) -> StepGuidance:
    """Returns the branches to compute at `step`, with their weights."""
    text, audio = config.text.scale_at(step, num_steps), config.audio.scale_at(step, num_steps)
    further = {name: config.schedule(name).scale_at(step, num_steps) for name in available.further}
    weights = active_branch_weights(config.order, text, audio, further, available)
    reference: dict[GuidanceBranch, float] = {}
    if config.color_rescale > 0:
        plain = active_branch_weights(config.order, text, 1.0, dict.fromkeys(further, 1.0), available)
        reference = plain if plain != weights else {}
    return StepGuidance(weights, reference, config.color_rescale, (text, audio))


def active_branch_weights(
    order: CfgOrder,
    text: float,
    audio: float,
    further: Mapping[str, float] = MappingProxyType({}),
    available: AvailableConditions = SPEECH_ONLY,
) -> dict[GuidanceBranch, float]:
    """Returns the weights of the branches, without branches of weight 0.

    Args:
        text, audio: guidance scales.
        further: guidance scales of the further conditions of `available`.
    """
    path = cfg_branch_weights(order, text, audio)
    for name in available.further:
        path = add_condition_guidance(path, name, further[name])
    weights: dict[GuidanceBranch, float] = {}
    for branch, weight in path:
        same = branch._replace(text=branch.text and available.prompt, audio=branch.audio and available.audio)
        weights[same] = weights.get(same, 0.0) + weight
    return {branch: weight for branch, weight in weights.items() if abs(weight) > MIN_BRANCH_WEIGHT}


def weighted_sum(predictions: Mapping[GuidanceBranch, Tensor], weights: Mapping[GuidanceBranch, float]) -> Tensor:
    """Returns the weighted sum of the predictions in float32."""
    terms = [predictions[branch].float() * weight for branch, weight in weights.items()]
    return torch.stack(terms).sum(dim=0)


def rescale_color(guided: Tensor, reference: Tensor, strength: float) -> Tensor:
    """Rescales each frame and channel of `guided` to the spatial mean and standard deviation of `reference`.

    Strong audio guidance tints and blurs the first frames. The mean of a latent channel over a frame is the frame's
    color and brightness, its standard deviation the contrast; motion (the mouth) is in neither. Because a step is
    linear in the prediction, equal means here are equal means in the denoised frame. The idea is the rescaling of
    arXiv 2305.08891 (section 3.4), which is applied to a whole sample and without the mean; here it is per frame and
    channel.

    Args:
        guided, reference: (B, C, F, h, w).
        strength: in [0, 1]; 0: no rescaling.
    """
    axes = (-2, -1)
    spread = reference.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True).clamp_min(1e-8)
    mean, reference_mean = guided.mean(dim=axes, keepdim=True), reference.mean(dim=axes, keepdim=True)
    return torch.lerp(guided, (guided - mean) * spread + reference_mean, strength)
