"""Who is in the picture, what each of them says and what drives each face.

Sounds and drivers go to the faces in the order of the portrait's: the first sound to the first face. A face without a
sound of its own is silent while others speak; one without a driver moves as sound and prompt let it.

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
from fantasytalking.common.errors import InputError
from fantasytalking.pipeline.portrait import Portrait
from fantasytalking.pipeline.video_conditions import Timeline

MAX_HOLD_SECONDS = 0.2
"""A driver may end so much before the video does: its last frame is held."""


class DrivingExpression(NamedTuple):
    """The expression of one face over the frames of a video, at the rate of the video that is made."""

    features: Tensor
    """(N, D) float32: head, eye, emotion, mouth."""
    present: Tensor
    """(N,) bool, True where the face was seen."""
    boxes: Tensor
    """(N, 4) left, top, right, bottom in the driver's pixels; NaN where the face was not seen, but not at first."""
    name: str = "driver"
    """For messages."""

    def pad_or_trim(self, num_frames: int) -> "DrivingExpression":
        """Features and presence of so many frames: cut, or the last one held."""
        index = torch.arange(num_frames).clamp(max=len(self.features) - 1)
        return self._replace(features=self.features[index], present=self.present[index])


@dataclass(frozen=True)
class Speakers:
    """The people of one video."""

    portrait: Portrait
    waveforms: tuple[NDArray[np.float32], ...] = ()
    """Mono at 16 kHz, one for each of the first faces; none = nobody is heard."""
    driving_expressions: tuple[DrivingExpression, ...] = ()

    def __post_init__(self) -> None:
        """Holds that there is a face for every sound and every driver.

        Raises:
            InputError: there are more of them than faces.
        """
        faces = len(self.portrait.face_points)
        for name, given in (("sounds", self.waveforms), ("drivers", self.driving_expressions)):
            if len(given) > faces:
                raise InputError(f"{len(given)} {name} were given for {faces} face(s); give one for a face at most")

    @property
    def count(self) -> int:
        """P."""
        return len(self.portrait.face_points)

    def timeline(self, fps: float, temporal_stride: int) -> Timeline:
        """As long as the longest sound; without one, as the shortest driver.

        Args:
            fps: frames a second, of the drivers too.
            temporal_stride: frames of a latent frame.

        Raises:
            InputError: there is neither, a length outside its limits, or a driver that ends before the sound.
        """
        if self.waveforms:
            timing = Timeline.from_samples(max(len(samples) for samples in self.waveforms), fps, temporal_stride)
        elif self.driving_expressions:
            timing = Timeline.from_frames(
                min(len(driver.features) for driver in self.driving_expressions), fps, temporal_stride
            )
        else:
            raise InputError("neither a sound nor a driver was given; one of them tells how long the video is")
        for driver in self.driving_expressions:
            if len(driver.features) < timing.num_frames - round(MAX_HOLD_SECONDS * fps):
                raise InputError(
                    f"driver '{driver.name}' has {len(driver.features) / fps:.2f} s, the sound "
                    f"{timing.num_frames / fps:.2f} s; give a longer driver, or less of the sound: "
                    f"--seconds {len(driver.features) / fps:.2f}, in a training validation.max_seconds"
                )
        return timing

    def regions(self, background: BackgroundAttention) -> Tensor | None:
        """(P, 1, h, w) bool, which video tokens are whose; None where there is but one person, who has them all.

        Faces' boxes, widened by how far their drivers' faces move; by the most where there is no driver to tell.
        """
        if self.count == 1 and background is BackgroundAttention.everyone:
            return None
        height, width = self.portrait.pixels.shape[:2]
        boxes = torch.from_numpy(self.portrait.face_boxes)
        side = (boxes[:, 2:] - boxes[:, :2]) * MAX_BOX_EXPANSION
        wide = torch.cat([boxes[:, :2] - side, boxes[:, 2:] + side], dim=1)
        for number, driver in enumerate(self.driving_expressions):
            wide[number] = expand_boxes(boxes[number : number + 1], driver.boxes[None].to(boxes))[0]
        return regions_from_boxes(wide[:, None], height, width, background)

    def expression_features(self, num_frames: int) -> tuple[Tensor, Tensor]:
        """Features (1, P, N, D) and presence (1, P, N) of so many frames; nothing is present of who is not driven."""
        driven = [driver.pad_or_trim(num_frames) for driver in self.driving_expressions]
        features = torch.zeros(1, self.count, num_frames, driven[0].features.shape[1])
        present = torch.zeros(1, self.count, num_frames, dtype=torch.bool)
        for number, driver in enumerate(driven):
            features[0, number], present[0, number] = driver.features, driver.present
        return features, present


def mix_audio(waveforms: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """All sounds at once, (samples of the longest,); made quieter as a whole where the sum would leave [-1, 1]."""
    if len(waveforms) == 1:
        return waveforms[0]
    mixed = np.zeros(max(len(samples) for samples in waveforms), dtype=np.float32)
    for samples in waveforms:
        mixed[: len(samples)] += samples
    return mixed / max(1.0, float(np.abs(mixed).max()))
