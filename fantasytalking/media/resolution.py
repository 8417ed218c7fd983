"""Resolution buckets: the sizes of a model's images, and how other images are resized to them."""

from enum import Enum
from typing import NamedTuple


class ResizeMode(Enum):
    """How an image is brought into a bucket of another aspect ratio."""

    fit = "fit"
    """As crop, but of the size and place that brings the faces into the range that the model was trained on, where that
    is known. The border is repeated where the image ends too near to a face. For inference only."""
    crop = "crop"
    """The largest part of the bucket's aspect ratio, centered on the face."""
    letterbox = "letterbox"
    """The whole image, with black bars."""


class ResolutionBucket(NamedTuple):
    """Width and height of images in pixels."""

    width: int
    height: int
