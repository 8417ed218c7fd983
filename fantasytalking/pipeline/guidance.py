"""Classifier-free guidance by text, audio and expression: which branches are computed, and how they are summed.

Axes: B batch, C channels, F latent frames, h and w latent height and width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fantasytalking.common.errors import InputError
from fantasytalking.models.cfg_branches import (
    CfgOrder,
    GuidanceBranch,
    cfg_branch_weights,
    cfg_branch_weights_with_expression,
)
from fantasytalking.models.guidance_embedder import MAX_GUIDANCE_SCALE

EXPRESSION_GUIDANCE_SCALE = 4.5
"""The paper's (FantasyPortrait, arXiv 2507.12956); its released code has 4."""
MIN_BRANCH_WEIGHT = 1e-9


@dataclass
class GuidanceSchedule:
    """A guidance scale over the steps: from `scale_start` to `scale_end` in a straight line over the first `stop` of
    them, then 1.

    A scale of 1 is no guidance: the model's own prediction.
    """

    scale_start: float = 5.0
    scale_end: float = 5.0
    stop: float = 1.0

    @classmethod
    def from_scale(cls, scale: "float | GuidanceSchedule") -> "GuidanceSchedule":
        """A schedule as it is; a number as the same scale at every step."""
        return scale if isinstance(scale, GuidanceSchedule) else cls(scale, scale)

    def scale_at(self, step: int, num_steps: int) -> float:
        """The scale at `step` of 0 .. `num_steps` - 1."""
        guided = round(self.stop * num_steps)
        if step >= guided:
            return 1.0
        return self.scale_start + (self.scale_end - self.scale_start) * step / max(1, guided - 1)

    def validate(self) -> None:
        """Holds scales and share in their limits.

        Raises:
            InputError: naming the value and the limit.
        """
        for name, scale in (("start", self.scale_start), ("end", self.scale_end)):
            if not 0 <= scale <= MAX_GUIDANCE_SCALE:
                raise InputError(
                    f"a guidance scale ({name}) is {scale}; it must be 0 to {MAX_GUIDANCE_SCALE:g} (useful: 3 to 7)"
                )
        if not 0 <= self.stop <= 1:
            raise InputError(f"the share of guided steps is {self.stop}; it must be 0 to 1")


@dataclass
class GuidanceConfig:
    """How a video is guided."""

    text: GuidanceSchedule = field(default_factory=GuidanceSchedule)
    audio: GuidanceSchedule = field(default_factory=GuidanceSchedule)
    order: CfgOrder = CfgOrder.text_first
    color_rescale: float = 0.0
    """Strength in [0, 1] of `color_rescale`; 0 = the formula as it stands."""
    batch_branches: bool | None = None
    """All branches in one call, so that they share what comes before they part, for as many times the memory; none:
    where memory allows."""
    expression: GuidanceSchedule = field(
        default_factory=lambda: GuidanceSchedule(EXPRESSION_GUIDANCE_SCALE, EXPRESSION_GUIDANCE_SCALE)
    )
    """Of the expressions that drive faces; without them it is not read."""

    def validate(self) -> None:
        """Holds the strength in its limits.

        Raises:
            InputError: naming the value and the limit.
        """
        if not 0 <= self.color_rescale <= 1:
            raise InputError(f"keep_colour is {self.color_rescale}; it must be 0 to 1")

    def validate_all(self) -> None:
        """Holds the schedules in theirs too, which a configuration's reading does by itself.

        Raises:
            InputError: naming the value and the limit.
        """
        for part in (self.text, self.audio, self.expression, self):
            part.validate()

    def pipeline_kwargs(self) -> dict[str, Any]:
        """As `FantasyTalkingPipeline` takes it."""
        return {
            "text_guidance": self.text,
            "audio_guidance": self.audio,
            "expression_guidance": self.expression,
            "formula": self.order,
            "keep_colour": self.color_rescale,
            "batch_branches": self.batch_branches,
        }


class StepGuidance(NamedTuple):
    """The guidance of one step."""

    weights: dict[GuidanceBranch, float]
    """Factors with which the branches sum to the guided prediction; they sum to 1, and none is 0."""
    color_reference: dict[GuidanceBranch, float]
    """The same without audio and expression guidance, whose colour is kept; empty where nothing is to be kept."""
    color_rescale: float
    scales: tuple[float, float]
    """Of text and audio at this step: what a distilled model is told in place of being called for every branch."""

    @property
    def branches(self) -> list[GuidanceBranch]:
        """What must be computed, in a fixed order."""
        return sorted({*self.weights, *self.color_reference})

    def combine(self, predictions: Mapping[GuidanceBranch, Tensor]) -> Tensor:
        """The guided prediction (B, C, F, h, w), float32."""
        guided = weighted_sum(predictions, self.weights)
        if not self.color_reference:
            return guided
        return rescale_color(guided, weighted_sum(predictions, self.color_reference), self.color_rescale)


class AvailableConditions(NamedTuple):
    """What a video is told at all: by what it is not told, nothing can guide it, and branches fall together."""

    prompt: bool = True
    """False also when prompt and negative prompt are the same."""
    audio: bool = True
    expression: bool = False


SPEECH_ONLY = AvailableConditions()


def guidance_at_step(
    config: GuidanceConfig, step: int, num_steps: int, available: AvailableConditions = SPEECH_ONLY
) -> StepGuidance:
    """What to compute at `step` and how to sum it."""
    text, audio = config.text.scale_at(step, num_steps), config.audio.scale_at(step, num_steps)
    expression = config.expression.scale_at(step, num_steps)
    weights = active_branch_weights(config.order, text, audio, expression, available)
    reference: dict[GuidanceBranch, float] = {}
    if config.color_rescale > 0:
        plain = active_branch_weights(config.order, text, 1.0, 1.0, available)
        reference = plain if plain != weights else {}
    return StepGuidance(weights, reference, config.color_rescale, (text, audio))


def active_branch_weights(
    order: CfgOrder, text: float, audio: float, expression: float = 1.0, available: AvailableConditions = SPEECH_ONLY
) -> dict[GuidanceBranch, float]:
    """The formula as a weighted sum of its branches, without those of weight 0."""
    path = cfg_branch_weights(order, text, audio)
    if available.expression:
        path = cfg_branch_weights_with_expression(order, text, audio, expression)
    weights: dict[GuidanceBranch, float] = {}
    for branch, weight in path:
        same = branch._replace(text=branch.text and available.prompt, audio=branch.audio and available.audio)
        weights[same] = weights.get(same, 0.0) + weight
    # Scales that cancel leave a rounding error, which is worth no call.
    return {branch: weight for branch, weight in weights.items() if abs(weight) > MIN_BRANCH_WEIGHT}


def weighted_sum(predictions: Mapping[GuidanceBranch, Tensor], weights: Mapping[GuidanceBranch, float]) -> Tensor:
    """Sum of the predictions times their weights, float32."""
    terms = [predictions[branch].float() * weight for branch, weight in weights.items()]
    return torch.stack(terms).sum(dim=0)


def rescale_color(guided: Tensor, reference: Tensor, strength: float) -> Tensor:
    """Gives every frame and channel of `guided` the mean and spread over the picture that `reference` has.

    Strong audio guidance tints and blurs the first frames. The mean of a latent channel over a frame is the frame's
    colour and brightness, its spread the contrast; where the picture moves (the mouth) is in neither. Because a step
    is linear in the prediction, equal means here are equal means in the denoised picture. The idea is the rescaling of
    arXiv 2305.08891 (section 3.4), there over a whole sample and without the mean, here for each frame and channel.

    Args:
        guided, reference: (B, C, F, h, w).
        strength: 1 = wholly, 0 = not at all.
    """
    picture = (-2, -1)
    spread = reference.std(dim=picture, keepdim=True) / guided.std(dim=picture, keepdim=True).clamp_min(1e-8)
    mean, wanted = guided.mean(dim=picture, keepdim=True), reference.mean(dim=picture, keepdim=True)
    return torch.lerp(guided, (guided - mean) * spread + wanted, strength)
