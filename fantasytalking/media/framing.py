"""Resizes and crops images to resolution buckets, around the face or with black bars."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.media.resolution import ResizeMode, ResolutionBucket


@dataclass(frozen=True)
class Framing:
    """How pictures of one size go into one bucket: scaled, then cropped or set between black bars."""

    width: int
    """Pixels of the source."""
    height: int
    bucket: ResolutionBucket
    resize_mode: ResizeMode
    """crop or letterbox."""

    def __post_init__(self) -> None:
        assert self.resize_mode is not ResizeMode.fit, "fit chooses a part of the picture, which is then cropped"

    @classmethod
    def for_nearest_bucket(
        cls, width: int, height: int, buckets: list[ResolutionBucket], resize_mode: ResizeMode
    ) -> "Framing":
        """Takes the bucket of nearest aspect ratio; of equals the first."""
        aspect = math.log(width / height)
        nearest = min(buckets, key=lambda bucket: abs(math.log(bucket.width / bucket.height) - aspect))
        return cls(width, height, nearest, resize_mode)

    @property
    def scale(self) -> float:
        """Pixels of the prepared picture for one of the source."""
        ratios = (self.bucket.width / self.width, self.bucket.height / self.height)
        return max(ratios) if self.resize_mode is ResizeMode.crop else min(ratios)

    @property
    def scaled_size(self) -> tuple[int, int]:
        """(width, height) of the source after scaling: it covers the bucket (crop) or fits in it (letterbox)."""
        bound = max if self.resize_mode is ResizeMode.crop else min
        width = bound(self.bucket.width, round(self.width * self.scale))
        height = bound(self.bucket.height, round(self.height * self.scale))
        return max(1, width), max(1, height)

    def resize(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A source frame (height, width, 3) at `scaled_size`: averaged when it shrinks, bicubic when it grows."""
        if (frame.shape[1], frame.shape[0]) == self.scaled_size:
            return np.ascontiguousarray(frame)
        interpolation = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC
        return cv2.resize(frame, self.scaled_size, interpolation=interpolation).astype(np.uint8, copy=False)

    def offset(self, center: tuple[float, float]) -> tuple[int, int]:
        """Where the bucket's left upper corner lies in the scaled picture (negative with bars).

        The crop is centred on `center` (x, y in source pixels) as far as the picture goes.
        """
        offsets = []
        for middle, source, scaled, wanted in zip(
            center, (self.width, self.height), self.scaled_size, self.bucket, strict=True
        ):
            if scaled <= wanted:
                offsets.append((scaled - wanted) // 2)
            else:
                offsets.append(min(max(0, round(middle * scaled / source - wanted / 2)), scaled - wanted))
        return offsets[0], offsets[1]

    def crop_or_pad(self, scaled: NDArray[np.uint8], offset: tuple[int, int]) -> NDArray[np.uint8]:
        """The prepared pictures (..., bucket height, bucket width, 3) of scaled ones; bars are black."""
        (x, y), (width, height) = offset, self.bucket
        part = scaled[..., max(0, y) : max(0, y) + height, max(0, x) : max(0, x) + width, :]
        if part.shape[-3:-1] == (height, width):
            return np.ascontiguousarray(part)
        picture = np.zeros((*scaled.shape[:-3], height, width, 3), dtype=np.uint8)
        picture[..., max(0, -y) : max(0, -y) + part.shape[-3], max(0, -x) : max(0, -x) + part.shape[-2], :] = part
        return picture

    def transform_points(self, points: NDArray[np.floating], offset: tuple[int, int]) -> NDArray[np.float32]:
        """(..., 2 or 3) points in source pixels, in pixels of the prepared picture; depth is scaled as x is."""
        horizontal, vertical = self.scaled_size[0] / self.width, self.scaled_size[1] / self.height
        axes = points.shape[-1]
        scale = np.array([horizontal, vertical, horizontal])[:axes]
        return (points * scale - np.array([*offset, 0])[:axes]).astype(np.float32)
