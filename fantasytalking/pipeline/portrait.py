"""Any picture to the model's picture: the face found, the picture cropped around it or padded, never distorted.

The perception and imaging packages are imported where they are used, so that the pipeline itself loads without them.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fantasytalking import media
from fantasytalking.data.settings import Bucket, Fit
from fantasytalking.errors import InputError

MAX_SIDE = 4096
"""Larger pictures are shrunk to this before the face is looked for: no model draws that many pixels."""


class Portrait(NamedTuple):
    """A picture as the model takes it."""

    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB, H and W multiples of 16."""
    points: NDArray[np.float32]
    """(5, 2) pixels of eyes, nose and corners of the mouth, in the order of ArcFace's alignment."""


ImageInput = Portrait | NDArray[np.uint8] | Image.Image | str | Path


def open_picture(image: ImageInput) -> Portrait | NDArray[np.uint8]:
    """A picture's pixels (H, W, 3), or the portrait that is ready.

    Raises:
        InputError: the file is no picture.
    """
    if isinstance(image, Portrait):
        return image
    if isinstance(image, str | Path):
        return media.read_image(image)
    return np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)


def frame_portrait(
    image: NDArray[np.uint8],
    sizes: Sequence[Bucket],
    *,
    fit: Fit = Fit.crop,
    face: int | None = None,
    least_face: float = 0.0,
) -> Portrait:
    """Brings a picture to the size of `sizes` whose aspect ratio is nearest, as data preparation does.

    Args:
        image: (H, W, 3) uint8 RGB.
        fit: crop takes the largest part of that ratio, centred on the face; letterbox takes all, with black bars.
        face: which of several faces, from 1 at the left; None = the only one.
        least_face: with crop, go nearer until the face has this share of the picture's height (0 = never). Training
            leaves smaller faces out.

    Raises:
        InputError: no face, several and none chosen, or a number that there is not.
    """
    import cv2

    from fantasytalking.data.prepare_framing import Framing
    from fantasytalking.perception.face_crop import five_points
    from fantasytalking.perception.face_track import detect_faces

    shrink = MAX_SIDE / max(image.shape[:2])
    if shrink < 1:
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    faces = detect_faces(image)
    chosen = faces[_choice(len(faces), face)]
    framing = Framing.choose(image.shape[1], image.shape[0], list(sizes), fit)
    x0, y0, x1, y1 = chosen.box.tolist()
    landmarks = chosen.landmarks
    if fit is Fit.crop and (y1 - y0) * framing.scale < least_face * framing.bucket.height:
        left, top, right, bottom = _nearer((image.shape[0], image.shape[1]), chosen.box, framing.bucket, least_face)
        image = np.ascontiguousarray(image[top:bottom, left:right])
        landmarks = landmarks - np.array([left, top, 0], np.float32)
        x0, x1, y0, y1 = x0 - left, x1 - left, y0 - top, y1 - top
        framing = Framing(right - left, bottom - top, framing.bucket, fit)
    offset = framing.offset(((x0 + x1) / 2, (y0 + y1) / 2))
    pixels = framing.frame(framing.resize(image), offset)
    return Portrait(pixels, five_points(framing.move(landmarks, offset)))


def portrait_of(
    image: ImageInput, height: int | None, width: int | None, *, fit: Fit = Fit.crop, face: int | None = None
) -> Portrait:
    """Any picture as a portrait of one size; None = 512 pixels, or those of a portrait that is ready.

    Raises:
        InputError: no picture, no such face in it, an impossible size, or another one than the ready portrait's.
    """
    picture = open_picture(image)
    if not isinstance(picture, Portrait):
        return frame_portrait(picture, parse_sizes([f"{width or 512}x{height or 512}"]), fit=fit, face=face)
    if (height, width) not in ((None, None), picture.pixels.shape[:2]):
        raise InputError(f"height and width are {height} and {width}; the portrait is {picture.pixels.shape[:2]}")
    return picture


def parse_sizes(texts: Sequence[str]) -> list[Bucket]:
    """'512' or '848x480' (width x height) as sizes.

    Raises:
        InputError: none, not such a text, or not multiples of 16 from 32 to 2048.
    """
    sizes = []
    for text in texts:
        match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
        size = Bucket(int(match[1]), int(match[2] or match[1])) if match else None
        if size is None or any(side % 16 or not 32 <= side <= 2048 for side in size):
            raise InputError(f"size '{text}': give N or WIDTHxHEIGHT in multiples of 16 from 32 to 2048, as in 512x512")
        sizes.append(size)
    if not sizes:
        raise InputError("sizes is empty; give at least one, as in 512x512")
    return sizes


def _choice(found: int, face: int | None) -> int:
    if not found:
        raise InputError("no face was found in the picture; give one that shows a face from the front, well lit")
    if face is None and found > 1:
        raise InputError(
            f"{found} faces were found in the picture; choose one: --face 1 (left) to --face {found} (right)"
        )
    if face is not None and not 1 <= face <= found:
        raise InputError(
            f"face {face} was asked for and {found} found; give --face 1 to {found}, counted from the left"
        )
    return (face or 1) - 1


def _nearer(
    shape: tuple[int, int], box: NDArray[np.floating], bucket: Bucket, share: float
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the part in which the face has `share` of the height, moved into the picture."""
    height, width = shape
    x0, y0, x1, y1 = box.tolist()
    tall = (y1 - y0) / share
    wide = tall * bucket.width / bucket.height
    shrink = min(1.0, width / wide, height / tall)
    rows, columns = max(16, round(tall * shrink)), max(16, round(wide * shrink))
    left = min(max(0, round((x0 + x1 - columns) / 2)), max(0, width - columns))
    top = min(max(0, round((y0 + y1 - rows) / 2)), max(0, height - rows))
    return left, top, min(width, left + columns), min(height, top + rows)
