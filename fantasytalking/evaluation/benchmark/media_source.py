"""What a reenacted video is made from, as a protocol names it: a portrait, or a stretch of a face that drives."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import existing_file, hash_file
from fantasytalking.evaluation.evaluation_clip import CropAndResize, EvaluationClip
from fantasytalking.media import Video, read_image

MAX_SOURCE_FACES = 16

CropBox = tuple[float, float, float, float]
"""left, top, width, height in heights of the picture."""


@dataclass(frozen=True)
class MediaSource:
    """A file below the folder of references and the part of it that counts."""

    file: str
    sha256: str
    crop: CropBox | None = None
    """None: all of the picture. Where a video shows several people, it is the one driving that lies in the crop."""
    start: float = 0.0
    """Seconds from the first frame of a video."""
    face: int = 0
    """Which of the people in a video drives, from the left."""
    faces: int = 1
    """How many people the video shows."""

    def verified_path(self, references: Path) -> Path:
        """The file, which is looked into.

        Raises:
            InputError: it is missing, or another file than the one that was frozen.
        """
        path = existing_file(references / PurePosixPath(self.file), "reference")
        if hash_file(path) != self.sha256:
            raise InputError(f"reference '{path}' is not the file that the protocol was made for")
        return path

    def portrait_clip(self, references: Path, name: str, fps: float, width: int, height: int) -> EvaluationClip:
        """A portrait as a clip of one frame of this size."""
        path = references / PurePosixPath(self.file)

        def frames() -> Video:
            picture = CropAndResize(self.crop, width, height).apply(read_image(path), path)
            return Video(picture[None], np.zeros(1), fps)

        def sound() -> Any:
            raise InputError(f"portrait '{path}' has no sound; leave out what hears")

        return EvaluationClip(name, frames, sound, path=path)

    def driver_clip(self, references: Path, name: str, fps: float, frames: int, height: int) -> EvaluationClip:
        """The stretch of a video; where it is cropped, it is brought to this height, so that no shape changes."""
        path = references / PurePosixPath(self.file)
        frame = (
            None if self.crop is None else CropAndResize(self.crop, round(height * self.crop[2] / self.crop[3]), height)
        )
        return EvaluationClip.from_file(path, name=name, fps=fps, start=self.start, transform=frame, frame_count=frames)


def parse_source(values: Any) -> MediaSource:
    """Reads a source of a manifest.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    crop = values["crop"]
    source = MediaSource(
        file=str(values["file"]),
        sha256=str(values["sha256"]),
        crop=None if crop is None else parse_crop(crop),
        start=float(values["start"]),
        face=int(values["face"]),
        faces=int(values["faces"]),
    )
    check_relative_path(source.file)
    if not (0 <= source.start < math.inf and re.fullmatch("[0-9a-f]{64}", source.sha256)):
        raise ValueError(f"'{source.file}' from {source.start} s, sha256 {source.sha256!r}")
    if not 0 <= source.face < source.faces <= MAX_SOURCE_FACES:
        raise ValueError(f"'{source.file}': face {source.face} of {source.faces}")
    return source


def check_relative_path(file: str) -> None:
    """A path within the folder of references.

    Raises:
        ValueError: it leads out of it.
    """
    place = PurePosixPath(file)
    if place.is_absolute() or ".." in place.parts:
        raise ValueError(f"a file of '{file}', which is not below the references")


def parse_crop(crop: Sequence[float]) -> CropBox:
    """Four numbers that a crop may have.

    Raises:
        ValueError, TypeError: they are none.
    """
    left, top, width, height = (float(share) for share in crop)
    if not (min(left, top) >= 0 and min(width, height) > 0 and max(left, top, width, height) < 100):
        raise ValueError(f"crop {crop}")
    return left, top, width, height
