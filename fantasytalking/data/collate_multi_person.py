"""Collates the expressions, the speech and the regions of several people per clip.

Axes: B clips, P people, N video frames, F latent frames, h and w tokens of a latent frame, T audio tokens, D and C
channels.
"""

import math
from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor

from fantasytalking.attention_regions import BackgroundAttention, expand_boxes, regions_from_boxes
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.conditions import ExpressionCondition
from fantasytalking.data.dataset import Sample
from fantasytalking.latent_geometry import LatentGeometry


class RegionBoxes(Enum):
    """Selects the face boxes from which the people's regions are computed."""

    still = "still"
    """The boxes of the first frame, expanded by the motion of each face in the clip, as inference does."""
    tracked = "tracked"
    """The boxes of every frame."""


def collate_expression(
    samples: Sequence[Sample], boxes: RegionBoxes, geometry: LatentGeometry, background: BackgroundAttention
) -> ExpressionCondition:
    """Collates the expressions of a batch with scale 1; clips with fewer people are padded with absent people.

    Raises:
        InputError: a clip has no expressions, or expressions of another width or length than the first clip.
    """
    features, present = [], []
    for sample in samples:
        expression, seen = sample.features.expression, sample.features.expression_present
        if expression is None or seen is None:
            raise _missing_feature(sample, "expression", "expression features, which the stage trains")
        features.append(expression.float())
        present.append(seen)
    _check_same_shape(features, samples, "expression")
    people = max(len(value) for value in features)
    return ExpressionCondition(
        features=_pad_people(features, people),
        present=_pad_people(present, people),
        regions=_pad_people([clip_regions(sample, boxes, geometry, background) for sample in samples], people),
        scale=torch.ones(len(samples)),
    )


def collate_speakers(
    samples: Sequence[Sample], boxes: RegionBoxes, geometry: LatentGeometry, background: BackgroundAttention
) -> tuple[list[Tensor], Tensor, Tensor] | None:
    """Collates the speech of a batch in which at least one clip has separate audio per person; None if no clip has.

    A clip with a single audio track counts as one speaker to whom all video tokens attend.

    Returns:
        Audio tokens (B, T, C) per speaker, whether each clip has the speaker (B, P) bool, and regions (B, P, F, h, w)
        bool.

    Raises:
        InputError: a clip has no boxes, or audio of another length than the first clip.
    """
    if all(sample.features.speakers is None for sample in samples):
        return None
    tokens, regions = [], []
    for sample in samples:
        speakers, record = sample.features.speakers, sample.record
        grid = geometry.token_grid(len(sample.features.frame_times), record.height, record.width)
        tokens.append(sample.features.audio[None].float() if speakers is None else speakers.float())
        everywhere = torch.ones(1, *grid, dtype=torch.bool)
        regions.append(everywhere if speakers is None else clip_regions(sample, boxes, geometry, background))
    _check_same_shape(tokens, samples, "speakers")
    people = max(len(value) for value in tokens)
    speaks = torch.tensor([[person < len(value) for person in range(people)] for value in tokens])
    return list(_pad_people(tokens, people).unbind(dim=1)), speaks, _pad_people(regions, people)


def clip_regions(
    sample: Sample, boxes: RegionBoxes, geometry: LatentGeometry, background: BackgroundAttention
) -> Tensor:
    """Returns the regions (P, F, h, w) bool: the video tokens of each person of a clip.

    Raises:
        InputError: the clip has no boxes, or its size is not a multiple of a token's side.
    """
    tracked = sample.features.boxes
    if tracked is None:
        raise _missing_feature(sample, "boxes", "face boxes")
    if boxes is RegionBoxes.still:
        tracked = expand_boxes(tracked[:, 0], tracked)[:, None].expand_as(tracked)
    return regions_from_boxes(tracked, sample.record.height, sample.record.width, geometry, background)


def check_latent_shape(sample: Sample, geometry: LatentGeometry) -> None:
    """Checks that the VAE whose strides `geometry` states has encoded a clip.

    Raises:
        InputError: the latents have another shape.
    """
    record, found = sample.record, tuple(sample.features.latents.shape[1:])
    expected = geometry.latent_shape(len(sample.features.frame_times), record.height, record.width)
    if found != expected:
        raise InputError(
            f"'latents' of clip '{record.clip}' has {found} frames, rows and columns; {expected} belong to its "
            f"{len(sample.features.frame_times)} frames of {record.width}x{record.height} pixels with the base that "
            "trains; prepare the corpus with this base",
            code=ErrorCode.shape_mismatch,
            field="latents",
            value=found,
        )


def stack_faces(faces: Sequence[Tensor]) -> Tensor:
    """Stacks (N, 512) face embeddings to (B, N, 512) float32; clips with fewer faces repeat them.

    Each face is repeated equally often, so that attention to the faces does not change.
    """
    count = math.lcm(*(len(face) for face in faces))
    return torch.stack([face.repeat(count // len(face), 1) for face in faces]).float()


def _pad_people(values: Sequence[Tensor], max_people: int) -> Tensor:
    """Pads (P, ...) tensors to (B, max_people, ...) with zeros or False for absent people."""
    filled = values[0].new_zeros(len(values), max_people, *values[0].shape[1:])
    for row, value in zip(filled, values, strict=True):
        row[: len(value)] = value
    return filled


def _check_same_shape(values: Sequence[Tensor], samples: Sequence[Sample], name: str) -> None:
    for value, sample in zip(values, samples, strict=True):
        if value.shape[1:] != values[0].shape[1:]:
            raise shape_mismatch(name, sample, tuple(value.shape), samples[0], tuple(values[0].shape))


def shape_mismatch(
    name: str, sample: Sample, shape: tuple[int, ...], first: Sample, first_shape: tuple[int, ...]
) -> InputError:
    """Returns the error about a feature whose shape is not that of the first clip of the batch."""
    return InputError(
        f"'{name}' of clip '{sample.record.clip}' has shape {shape}, that of clip '{first.record.clip}' {first_shape}; "
        "a batch needs clips of one bucket, prepared with the same encoders",
        code=ErrorCode.shape_mismatch,
        field=name,
        value=sample.record.clip,
    )


def _missing_feature(sample: Sample, name: str, feature: str) -> InputError:
    return InputError(
        f"clip '{sample.record.clip}' has no {feature}; prepare the corpus with an expression encoder",
        code=ErrorCode.missing_value,
        field=name,
        value=sample.record.clip,
    )
