"""Classifier-free guidance by text, audio and expression: which branches are computed, and how they are summed.

Axes: B batch, C channels, F latent frames, h and w latent height and width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fantasytalking.common.errors import InputError
from fantasytalking.models.cfg_branches import Branch, Formula, driven_path_weights, path_weights
from fantasytalking.models.guidance_embedder import MAX_SCALE

EXPRESSION_SCALE = 4.5
"""The paper's (FantasyPortrait, arXiv 2507.12956); its released code has 4."""
ROUNDING = 1e-9


@dataclass
class ScaleSchedule:
    """A guidance scale over the steps: from `start` to `end` in a straight line over the first `share` of them, then 1.

    A scale of 1 is no guidance: the model's own prediction.
    """

    start: float = 5.0
    end: float = 5.0
    share: float = 1.0

    @classmethod
    def of(cls, scale: "float | ScaleSchedule") -> "ScaleSchedule":
        """A schedule as it is; a number as the same scale at every step."""
        return scale if isinstance(scale, ScaleSchedule) else cls(scale, scale)

    def at(self, step: int, steps: int) -> float:
        """The scale at `step` of 0 .. `steps` - 1."""
        guided = round(self.share * steps)
        if step >= guided:
            return 1.0
        return self.start + (self.end - self.start) * step / max(1, guided - 1)

    def validate(self) -> None:
        """Holds scales and share in their limits.

        Raises:
            InputError: naming the value and the limit.
        """
        for name, scale in (("start", self.start), ("end", self.end)):
            if not 0 <= scale <= MAX_SCALE:
                raise InputError(
                    f"a guidance scale ({name}) is {scale}; it must be 0 to {MAX_SCALE:g} (useful: 3 to 7)"
                )
        if not 0 <= self.share <= 1:
            raise InputError(f"the share of guided steps is {self.share}; it must be 0 to 1")


@dataclass
class GuidanceConfig:
    """How a video is guided."""

    text: ScaleSchedule = field(default_factory=ScaleSchedule)
    audio: ScaleSchedule = field(default_factory=ScaleSchedule)
    formula: Formula = Formula.text_first
    keep_colour: float = 0.0
    """Strength in [0, 1] of `keep_colour`; 0 = the formula as it stands."""
    batched: bool | None = None
    """All branches in one call, so that they share what comes before they part, for as many times the memory; none:
    where memory allows."""
    expression: ScaleSchedule = field(default_factory=lambda: ScaleSchedule(EXPRESSION_SCALE, EXPRESSION_SCALE))
    """Of the expressions that drive faces; without them it is not read."""

    def validate(self) -> None:
        """Holds the strength in its limits.

        Raises:
            InputError: naming the value and the limit.
        """
        if not 0 <= self.keep_colour <= 1:
            raise InputError(f"keep_colour is {self.keep_colour}; it must be 0 to 1")

    def validate_all(self) -> None:
        """Holds the schedules in theirs too, which a configuration's reading does by itself.

        Raises:
            InputError: naming the value and the limit.
        """
        for part in (self.text, self.audio, self.expression, self):
            part.validate()

    def arguments(self) -> dict[str, Any]:
        """As `FantasyTalkingPipeline` takes it."""
        return {
            "text_guidance": self.text,
            "audio_guidance": self.audio,
            "expression_guidance": self.expression,
            "formula": self.formula,
            "keep_colour": self.keep_colour,
            "batch_branches": self.batched,
        }


class StepGuidance(NamedTuple):
    """The guidance of one step."""

    weights: dict[Branch, float]
    """Factors with which the branches sum to the guided prediction; they sum to 1, and none is 0."""
    reference: dict[Branch, float]
    """The same without audio and expression guidance, whose colour is kept; empty where nothing is to be kept."""
    keep_colour: float
    scales: tuple[float, float]
    """Of text and audio at this step: what a distilled model is told in place of being called for every branch."""

    @property
    def branches(self) -> list[Branch]:
        """What must be computed, in a fixed order."""
        return sorted({*self.weights, *self.reference})

    def combine(self, predictions: Mapping[Branch, Tensor]) -> Tensor:
        """The guided prediction (B, C, F, h, w), float32."""
        guided = weighted_sum(predictions, self.weights)
        if not self.reference:
            return guided
        return keep_colour(guided, weighted_sum(predictions, self.reference), self.keep_colour)


class Told(NamedTuple):
    """What a video is told at all: by what it is not told, nothing can guide it, and branches fall together."""

    prompt: bool = True
    """False also when prompt and negative prompt are the same."""
    sound: bool = True
    expression: bool = False


TALKING = Told()


def step_guidance(config: GuidanceConfig, step: int, steps: int, told: Told = TALKING) -> StepGuidance:
    """What to compute at `step` and how to sum it."""
    text, audio = config.text.at(step, steps), config.audio.at(step, steps)
    expression = config.expression.at(step, steps)
    weights = branch_weights(config.formula, text, audio, expression, told)
    reference: dict[Branch, float] = {}
    if config.keep_colour > 0:
        plain = branch_weights(config.formula, text, 1.0, 1.0, told)
        reference = plain if plain != weights else {}
    return StepGuidance(weights, reference, config.keep_colour, (text, audio))


def branch_weights(
    formula: Formula, text: float, audio: float, expression: float = 1.0, told: Told = TALKING
) -> dict[Branch, float]:
    """The formula as a weighted sum of its branches, without those of weight 0."""
    path = path_weights(formula, text, audio)
    if told.expression:
        path = driven_path_weights(formula, text, audio, expression)
    weights: dict[Branch, float] = {}
    for branch, weight in path:
        same = branch._replace(text=branch.text and told.prompt, audio=branch.audio and told.sound)
        weights[same] = weights.get(same, 0.0) + weight
    # Scales that cancel leave a rounding error, which is worth no call.
    return {branch: weight for branch, weight in weights.items() if abs(weight) > ROUNDING}


def weighted_sum(predictions: Mapping[Branch, Tensor], weights: Mapping[Branch, float]) -> Tensor:
    """Sum of the predictions times their weights, float32."""
    terms = [predictions[branch].float() * weight for branch, weight in weights.items()]
    return torch.stack(terms).sum(dim=0)


def keep_colour(guided: Tensor, reference: Tensor, strength: float) -> Tensor:
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
