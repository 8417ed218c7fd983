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

from fantasytalking.attention_regions import MOST_EXCURSION, Background, box_regions, widen_boxes
from fantasytalking.common.errors import InputError
from fantasytalking.pipeline.portrait import Portrait
from fantasytalking.pipeline.video_conditions import Timing

HELD_SECONDS = 0.2
"""A driver may end so much before the video does: its last frame is held."""


class Driver(NamedTuple):
    """The expression of one face over the frames of a video, at the rate of the video that is made."""

    features: Tensor
    """(N, D) float32: head, eye, emotion, mouth."""
    present: Tensor
    """(N,) bool, True where the face was seen."""
    boxes: Tensor
    """(N, 4) left, top, right, bottom in the driver's pixels; NaN where the face was not seen, but not at first."""
    name: str = "driver"
    """For messages."""

    def of_length(self, frames: int) -> "Driver":
        """Features and presence of so many frames: cut, or the last one held."""
        index = torch.arange(frames).clamp(max=len(self.features) - 1)
        return self._replace(features=self.features[index], present=self.present[index])


@dataclass(frozen=True)
class People:
    """The people of one video."""

    portrait: Portrait
    sounds: tuple[NDArray[np.float32], ...] = ()
    """Mono at 16 kHz, one for each of the first faces; none = nobody is heard."""
    drivers: tuple[Driver, ...] = ()

    def __post_init__(self) -> None:
        """Holds that there is a face for every sound and every driver.

        Raises:
            InputError: there are more of them than faces.
        """
        faces = len(self.portrait.points)
        for name, given in (("sounds", self.sounds), ("drivers", self.drivers)):
            if len(given) > faces:
                raise InputError(f"{len(given)} {name} were given for {faces} face(s); give one for a face at most")

    @property
    def count(self) -> int:
        """P."""
        return len(self.portrait.points)

    def timing(self, fps: float, stride: int) -> Timing:
        """As long as the longest sound; without one, as the shortest driver.

        Args:
            fps: frames a second, of the drivers too.
            stride: frames of a latent frame.

        Raises:
            InputError: there is neither, a length outside its limits, or a driver that ends before the sound.
        """
        if self.sounds:
            timing = Timing.of(max(len(samples) for samples in self.sounds), fps, stride)
        elif self.drivers:
            timing = Timing.of_frames(min(len(driver.features) for driver in self.drivers), fps, stride)
        else:
            raise InputError("neither a sound nor a driver was given; one of them tells how long the video is")
        for driver in self.drivers:
            if len(driver.features) < timing.frames - round(HELD_SECONDS * fps):
                raise InputError(
                    f"driver '{driver.name}' has {len(driver.features) / fps:.2f} s, the sound "
                    f"{timing.frames / fps:.2f} s; give a longer driver, or less of the sound: "
                    f"--seconds {len(driver.features) / fps:.2f}, in a training validation.seconds"
                )
        return timing

    def regions(self, background: Background) -> Tensor | None:
        """(P, 1, h, w) bool, which video tokens are whose; None where there is but one person, who has them all.

        Faces' boxes, widened by how far their drivers' faces move; by the most where there is no driver to tell.
        """
        if self.count == 1 and background is Background.everyone:
            return None
        height, width = self.portrait.pixels.shape[:2]
        boxes = torch.from_numpy(self.portrait.boxes)
        side = (boxes[:, 2:] - boxes[:, :2]) * MOST_EXCURSION
        wide = torch.cat([boxes[:, :2] - side, boxes[:, 2:] + side], dim=1)
        for number, driver in enumerate(self.drivers):
            wide[number] = widen_boxes(boxes[number : number + 1], driver.boxes[None].to(boxes))[0]
        return box_regions(wide[:, None], height, width, background)

    def expression(self, frames: int) -> tuple[Tensor, Tensor]:
        """Features (1, P, N, D) and presence (1, P, N) of so many frames; nothing is present of who is not driven."""
        driven = [driver.of_length(frames) for driver in self.drivers]
        features = torch.zeros(1, self.count, frames, driven[0].features.shape[1])
        present = torch.zeros(1, self.count, frames, dtype=torch.bool)
        for number, driver in enumerate(driven):
            features[0, number], present[0, number] = driver.features, driver.present
        return features, present


def mix(sounds: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """All sounds at once, (samples of the longest,); made quieter as a whole where the sum would leave [-1, 1]."""
    if len(sounds) == 1:
        return sounds[0]
    mixed = np.zeros(max(len(samples) for samples in sounds), dtype=np.float32)
    for samples in sounds:
        mixed[: len(samples)] += samples
    return mixed / max(1.0, float(np.abs(mixed).max()))
