"""What each of several people brings to a batch: an expression, a sound, and their region of the picture.

Axes: B clips, P people, N video frames, F latent frames, h and w tokens of a latent frame, D and C channels.
"""

import math
from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor

from fantasytalking.attention_regions import BackgroundAttention, expand_boxes, regions_from_boxes
from fantasytalking.common.errors import InputError
from fantasytalking.conditions import ExpressionCondition
from fantasytalking.data.dataset import Sample


class RegionBoxes(Enum):
    """From which boxes the people's regions are made."""

    still = "still"
    """The first frame's, widened by how far each face moves in the clip: what inference knows of a portrait."""
    tracked = "tracked"
    """Those of every frame."""


def collate_expression(
    samples: Sequence[Sample], boxes: RegionBoxes, background: BackgroundAttention
) -> ExpressionCondition:
    """The expressions of a batch, gates open; a clip of fewer people than another is filled with absent ones.

    Raises:
        InputError: a clip without expressions, or with expressions of another width or length than the first.
    """
    features, present = [], []
    for sample in samples:
        expression, seen = sample.features.expression, sample.features.expression_present
        if expression is None or seen is None:
            raise InputError(
                f"clip '{sample.record.clip}' tells of no expression and the stage trains it; prepare the corpus with "
                "an expression encoder"
            )
        features.append(expression.float())
        present.append(seen)
    _check_same_shape(features, samples, "expression")
    people = max(len(value) for value in features)
    return ExpressionCondition(
        features=_pad_people(features, people),
        present=_pad_people(present, people),
        regions=_pad_people([clip_regions(sample, boxes, background) for sample in samples], people),
        scale=torch.ones(len(samples)),
    )


def collate_speakers(
    samples: Sequence[Sample], boxes: RegionBoxes, background: BackgroundAttention
) -> tuple[list[Tensor], Tensor, Tensor] | None:
    """The sounds of a batch in which some clip has one of each person; None where no clip has.

    A clip that has its one sound alone is a speaker whom the whole picture hears.

    Returns:
        Tokens (B, T, C) of every speaker, whether a clip has that speaker (B, P) bool, and regions (B, P, F, h, w).

    Raises:
        InputError: clips without boxes, or with sounds of other lengths than the first.
    """
    if all(sample.features.speakers is None for sample in samples):
        return None
    sounds, regions = [], []
    for sample in samples:
        told, frames = sample.features.speakers, sample.features.latents.shape[1]
        grid = (frames, sample.record.height // 16, sample.record.width // 16)
        sounds.append(sample.features.audio[None].float() if told is None else told.float())
        whole = torch.ones(1, *grid, dtype=torch.bool)
        regions.append(whole if told is None else clip_regions(sample, boxes, background))
    _check_same_shape(sounds, samples, "speakers")
    people = max(len(value) for value in sounds)
    heard = torch.tensor([[person < len(value) for person in range(people)] for value in sounds])
    return list(_pad_people(sounds, people).unbind(dim=1)), heard, _pad_people(regions, people)


def clip_regions(sample: Sample, boxes: RegionBoxes, background: BackgroundAttention) -> Tensor:
    """(P, F, h, w) bool: which video tokens of a clip are whose.

    Raises:
        InputError: the clip has no boxes, or a size that is no multiple of 16 pixels.
    """
    tracked = sample.features.boxes
    if tracked is None:
        raise InputError(
            f"clip '{sample.record.clip}' has no boxes of its people's faces; prepare the corpus with an expression "
            "encoder"
        )
    if boxes is RegionBoxes.still:
        tracked = expand_boxes(tracked[:, 0], tracked)[:, None].expand_as(tracked)
    return regions_from_boxes(tracked, sample.record.height, sample.record.width, background)


def stack_faces(faces: Sequence[Tensor]) -> Tensor:
    """(N, 512) each -> (B, N, 512) float32; a clip of fewer faces than another repeats its own.

    All of them equally often, so that attention to them stays what it was.
    """
    count = math.lcm(*(len(face) for face in faces))
    return torch.stack([face.repeat(count // len(face), 1) for face in faces]).float()


def _pad_people(values: Sequence[Tensor], max_people: int) -> Tensor:
    """(P, ...) each -> (B, people, ...), zeros or False for people that are not there."""
    filled = values[0].new_zeros(len(values), max_people, *values[0].shape[1:])
    for row, value in zip(filled, values, strict=True):
        row[: len(value)] = value
    return filled


def _check_same_shape(values: Sequence[Tensor], samples: Sequence[Sample], name: str) -> None:
    for value, sample in zip(values, samples, strict=True):
        if value.shape[1:] != values[0].shape[1:]:
            raise InputError(
                f"'{name}' of '{sample.record.clip}' has shape {tuple(value.shape)}, of '{samples[0].record.clip}' "
                f"{tuple(values[0].shape)}; a batch takes clips of one bucket, prepared with the same encoders"
            )
