"""Sources of a reenacted video in a protocol: a portrait, or a segment of a driving video."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import existing_file, hash_file
from fantasytalking.evaluation.evaluation_clip import CropAndResize, EvaluationClip
from fantasytalking.media import Video, read_image

MAX_SOURCE_FACES = 16

CropBox = tuple[float, float, float, float]
"""left, top, width, height in heights of the image."""


@dataclass(frozen=True)
class MediaSource:
    """A file below the folder of references, and the crop and face of it that are used."""

    file: str
    sha256: str
    crop: CropBox | None = None
    """None = the whole image. In a video of several people, the crop contains the one who drives."""
    start: float = 0.0
    """Seconds from the first frame of a video."""
    face: int = 0
    """Index from the left of the person in a video who drives."""
    faces: int = 1
    """Number of people in the video."""

    def verified_path(self, references: Path) -> Path:
        """Returns the path of the file after comparing its hash.

        Raises:
            InputError: the file is missing, or is not the one that was frozen.
        """
        path = existing_file(references / PurePosixPath(self.file), "reference")
        if hash_file(path) != self.sha256:
            raise InputError(
                f"reference '{path}' is not the file that the protocol was made for; restore it or freeze again",
                code=ErrorCode.conflict,
                field="sha256",
                value=self.file,
            )
        return path

    def portrait_clip(self, references: Path, name: str, fps: float, width: int, height: int) -> EvaluationClip:
        """Returns a portrait as a clip of one frame of this size."""
        path = references / PurePosixPath(self.file)

        def frames() -> Video:
            image = CropAndResize(self.crop, width, height).apply(read_image(path), path)
            return Video(image[None], np.zeros(1), fps)

        def no_audio() -> Any:
            raise InputError(
                f"portrait '{path}' has no audio; leave out metrics that need it",
                code=ErrorCode.unsupported,
                field="audio",
                value=str(path),
            )

        return EvaluationClip(name, frames, no_audio, path=path)

    def driver_clip(self, references: Path, name: str, fps: float, frames: int, height: int) -> EvaluationClip:
        """Returns the segment of a video; a crop is resized to `height` with its own aspect ratio."""
        path = references / PurePosixPath(self.file)
        transform = (
            None if self.crop is None else CropAndResize(self.crop, round(height * self.crop[2] / self.crop[3]), height)
        )
        return EvaluationClip.from_file(
            path, name=name, fps=fps, start=self.start, transform=transform, frame_count=frames
        )


def parse_source(values: Any) -> MediaSource:
    """Parses a source of a manifest.

    Raises:
        ValueError, KeyError, TypeError: the values are not a source.
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
    """Checks that a path stays within the folder of references.

    Raises:
        ValueError: the path is absolute or leads out of the folder.
    """
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"file '{file}' is not below the references")


def parse_crop(crop: Sequence[float]) -> CropBox:
    """Parses a crop.

    Raises:
        ValueError, TypeError: the values are not a crop.
    """
    left, top, width, height = (float(fraction) for fraction in crop)
    if not (min(left, top) >= 0 and min(width, height) > 0 and max(left, top, width, height) < 100):
        raise ValueError(f"crop {crop}")
    return left, top, width, height
