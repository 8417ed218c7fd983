"""Fits frames of any shape into resolution buckets, by cropping around the face or with black bars."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.data.prepare.config import ResizeMode, ResolutionBucket
from fantasytalking.data.prepare.plan import RelativeCrop


def crop_frame(frame: NDArray[np.uint8], crop: RelativeCrop | None) -> NDArray[np.uint8]:
    """Crops a frame (H, W, 3); the crop is limited to the frame and at least 16 pixels wide and high."""
    if crop is None:
        return frame
    height, width = frame.shape[:2]
    x0, y0 = min(round(crop.left * height), width - 16), min(round(crop.top * height), height - 16)
    x1 = min(width, x0 + max(16, round(crop.width * height)))
    y1 = min(height, y0 + max(16, round(crop.height * height)))
    return np.ascontiguousarray(frame[max(0, y0) : y1, max(0, x0) : x1])


@dataclass(frozen=True)
class Framing:
    """The mapping of frames of one size to one bucket: scaling, then cropping or black bars."""

    width: int
    """Width of the source in pixels."""
    height: int
    """Height of the source in pixels."""
    bucket: ResolutionBucket
    resize_mode: ResizeMode

    @classmethod
    def for_nearest_bucket(
        cls, width: int, height: int, buckets: list[ResolutionBucket], resize_mode: ResizeMode
    ) -> "Framing":
        """Selects the bucket with the nearest aspect ratio; the first of equally near ones."""
        aspect = math.log(width / height)
        nearest = min(buckets, key=lambda bucket: abs(math.log(bucket.width / bucket.height) - aspect))
        return cls(width, height, nearest, resize_mode)

    @property
    def scale(self) -> float:
        """Pixels of the prepared frame per pixel of the source."""
        ratios = (self.bucket.width / self.width, self.bucket.height / self.height)
        return max(ratios) if self.resize_mode is ResizeMode.crop else min(ratios)

    @property
    def scaled_size(self) -> tuple[int, int]:
        """(width, height) of the scaled source: it covers the bucket (crop) or fits into it (letterbox)."""
        bound = max if self.resize_mode is ResizeMode.crop else min
        width = bound(self.bucket.width, round(self.width * self.scale))
        height = bound(self.bucket.height, round(self.height * self.scale))
        return max(1, width), max(1, height)

    def resize(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resizes a source frame (height, width, 3) to `scaled_size`: by area if smaller, bicubic if larger."""
        if (frame.shape[1], frame.shape[0]) == self.scaled_size:
            return np.ascontiguousarray(frame)
        interpolation = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC
        return cv2.resize(frame, self.scaled_size, interpolation=interpolation).astype(np.uint8, copy=False)

    def offset(self, center: tuple[float, float]) -> tuple[int, int]:
        """Returns the top left corner (x, y) of the bucket in the scaled frame; negative with bars.

        The crop is centered on `center` (x, y in source pixels) as far as the frame allows.
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
        """Returns the prepared frames (..., bucket height, bucket width, 3) of scaled frames; bars are black."""
        (x, y), (width, height) = offset, self.bucket
        part = scaled[..., max(0, y) : max(0, y) + height, max(0, x) : max(0, x) + width, :]
        if part.shape[-3:-1] == (height, width):
            return np.ascontiguousarray(part)
        padded = np.zeros((*scaled.shape[:-3], height, width, 3), dtype=np.uint8)
        padded[..., max(0, -y) : max(0, -y) + part.shape[-3], max(0, -x) : max(0, -x) + part.shape[-2], :] = part
        return padded

    def transform_points(self, points: NDArray[np.floating], offset: tuple[int, int]) -> NDArray[np.float32]:
        """Converts (..., 2 or 3) points from source pixels to pixels of the prepared frame; depth is scaled as x."""
        horizontal, vertical = self.scaled_size[0] / self.width, self.scaled_size[1] / self.height
        axes = points.shape[-1]
        scale = np.array([horizontal, vertical, horizontal])[:axes]
        return (points * scale - np.array([*offset, 0])[:axes]).astype(np.float32)
