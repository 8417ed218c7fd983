"""The people of a video: their audio, their driving expressions and their regions of the image.

Audio and driving expressions belong to the faces in the order of the portrait: the first audio to the first face. A
face without audio is silent while others speak; a face without a driving expression moves freely.

Axes: P people, N frames, F latent frames, H and W pixels, h and w video tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fantasytalking.attention_regions import MAX_BOX_EXPANSION, BackgroundAttention, expand_boxes, regions_from_boxes
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.latent_geometry import LatentGeometry
from fantasytalking.pipeline.portrait import Portrait
from fantasytalking.pipeline.timeline import Timeline

MAX_HOLD_SECONDS = 0.2
"""Seconds by which a driving video may end before the video; its last frame is held."""


class DrivingExpression(NamedTuple):
    """Expression features of one face per frame, at the frame rate of the generated video."""

    features: Tensor
    """(N, D) float32: head, eye, emotion, mouth."""
    present: Tensor
    """(N,) bool, True where the face is visible."""
    boxes: Tensor
    """(N, 4) left, top, right, bottom in pixels of the driving video; NaN where the face is not visible (but never in
    the first frame)."""
    name: str = "driving expression"
    """Names the expression in messages."""

    def pad_or_trim(self, num_frames: int) -> "DrivingExpression":
        """Returns features and presence of `num_frames` frames: trimmed, or with the last frame held."""
        index = torch.arange(num_frames).clamp(max=len(self.features) - 1)
        return self._replace(features=self.features[index], present=self.present[index])


@dataclass(frozen=True)
class Speakers:
    """The people of one video."""

    portrait: Portrait
    waveforms: tuple[NDArray[np.float32], ...] = ()
    """Mono at 16 kHz, one per face from the first face on; empty: nobody speaks."""
    driving_expressions: tuple[DrivingExpression, ...] = ()

    def __post_init__(self) -> None:
        """Validates that there is a face for each audio and each driving expression.

        Raises:
            InputError: there are more of them than faces.
        """
        for name, values in (("audio", self.waveforms), ("driving_video", self.driving_expressions)):
            if len(values) > self.count:
                raise InputError(
                    f"{name} has {len(values)} entries for {self.count} face(s); give at most one per face",
                    code=ErrorCode.conflict,
                    field=name,
                    value=len(values),
                )

    @property
    def count(self) -> int:
        """Number of people P."""
        return len(self.portrait.face_points)

    def timeline(self, fps: float, temporal_stride: int) -> Timeline:
        """Returns the timeline of the longest audio or, without audio, of the shortest driving expression.

        Args:
            fps: frames per second, also of the driving expressions.
            temporal_stride: frames per latent frame.

        Raises:
            InputError: there is neither, a length is outside its limits, or a driving expression ends before the audio.
        """
        if self.waveforms:
            timeline = Timeline.from_samples(max(len(samples) for samples in self.waveforms), fps, temporal_stride)
        elif self.driving_expressions:
            num_frames = min(len(driving.features) for driving in self.driving_expressions)
            timeline = Timeline.from_frames(num_frames, fps, temporal_stride)
        else:
            raise InputError(
                "neither audio nor a driving video was given; one of them is needed, since it sets the video's length",
                code=ErrorCode.missing_value,
                field="audio",
            )
        for driving in self.driving_expressions:
            if len(driving.features) < timeline.num_frames - round(MAX_HOLD_SECONDS * fps):
                seconds = len(driving.features) / fps
                raise InputError(
                    f"driving video '{driving.name}' lasts {seconds:.2f} s, the audio {timeline.num_frames / fps:.2f} "
                    f"s; give a longer driving video, or use less of the audio: --max-seconds {seconds:.2f} (in a "
                    "training configuration: validation.max_seconds)",
                    code=ErrorCode.conflict,
                    field="driving_video",
                    value=driving.name,
                )
        return timeline

    def regions(self, geometry: LatentGeometry, background: BackgroundAttention) -> Tensor | None:
        """Returns the video tokens of each person (P, 1, h, w) bool; None: a single person has all tokens.

        A region is the box of the face, expanded by how far the driving face moves, or by the maximum where nothing
        drives the face.
        """
        if self.count == 1 and background is BackgroundAttention.everyone:
            return None
        height, width = self.portrait.pixels.shape[:2]
        boxes = torch.from_numpy(self.portrait.face_boxes)
        side = (boxes[:, 2:] - boxes[:, :2]) * MAX_BOX_EXPANSION
        expanded = torch.cat([boxes[:, :2] - side, boxes[:, 2:] + side], dim=1)
        for index, driving in enumerate(self.driving_expressions):
            expanded[index] = expand_boxes(boxes[index : index + 1], driving.boxes[None].to(boxes))[0]
        return regions_from_boxes(expanded[:, None], height, width, geometry, background)

    def expression_features(self, num_frames: int) -> tuple[Tensor, Tensor]:
        """Returns features (1, P, N, D) and presence (1, P, N) bool; nothing is present for faces without a driver."""
        driven = [driving.pad_or_trim(num_frames) for driving in self.driving_expressions]
        features = torch.zeros(1, self.count, num_frames, driven[0].features.shape[1])
        present = torch.zeros(1, self.count, num_frames, dtype=torch.bool)
        for index, driving in enumerate(driven):
            features[0, index], present[0, index] = driving.features, driving.present
        return features, present


def mix_audio(waveforms: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Returns the sum of several waveforms (samples of the longest,), scaled down where it would leave [-1, 1]."""
    if len(waveforms) == 1:
        return waveforms[0]
    mixed = np.zeros(max(len(samples) for samples in waveforms), dtype=np.float32)
    for samples in waveforms:
        mixed[: len(samples)] += samples
    return mixed / max(1.0, float(np.abs(mixed).max()))
