"""Any picture to the model's picture: the faces found, the picture cropped around them or padded, never distorted.

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
from fantasytalking.common.errors import InputError
from fantasytalking.media.resolution import ResizeMode, ResolutionBucket

MAX_IMAGE_SIDE = 4096
"""Larger pictures are shrunk to this before the face is looked for: no model draws that many pixels."""
GROUP_CROP_MARGIN = 1.25
"""Size of the nearest crop around several faces, in sizes of what is around them all."""


class Portrait(NamedTuple):
    """A picture as the model takes it."""

    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB, H and W multiples of 16."""
    face_points: NDArray[np.float32]
    """(P, 5, 2) pixels of eyes, nose and corners of the mouth of each person, in the order of ArcFace's alignment."""
    face_boxes: NDArray[np.float32]
    """(P, 4) left, top, right, bottom of each face in pixels, around its landmarks."""


ImageInput = Portrait | NDArray[np.uint8] | Image.Image | str | Path


def open_image(image: ImageInput) -> Portrait | NDArray[np.uint8]:
    """A picture's pixels (H, W, 3), or the portrait that is ready.

    Raises:
        InputError: the file is no picture.
    """
    if isinstance(image, Portrait):
        return image
    if isinstance(image, str | Path):
        return media.read_image(image)
    return np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)


def prepare_portrait(
    image: NDArray[np.uint8],
    sizes: Sequence[ResolutionBucket],
    *,
    fit: ResizeMode = ResizeMode.crop,
    face_index: int | Sequence[int] | None = None,
    num_faces: int = 1,
    min_face_fraction: float = 0.0,
) -> Portrait:
    """Brings a picture to the size of `sizes` whose aspect ratio is nearest, as data preparation does.

    Args:
        image: (H, W, 3) uint8 RGB.
        fit: crop takes the largest part of that ratio, centred on the faces; letterbox takes all, with black bars.
        face_index: which of several faces, from 1 at the left; several stand in the portrait in the order given. None =
            all.
        num_faces: how many faces there must be where none is chosen.
        min_face_fraction: with crop, go nearer until the smallest face has this share of the picture's height (0 =
            never), but never so near that one is cut. Training leaves smaller faces out.

    Raises:
        InputError: no face, others than `num_faces` and none chosen, a number that there is not, or faces too far
            apart.
    """
    from fantasytalking.media.framing import Framing
    from fantasytalking.perception.face_crop import five_points
    from fantasytalking.perception.face_detection import landmark_box
    from fantasytalking.perception.face_track import detect_faces

    image = _limit_size(image)
    faces = detect_faces(image)
    chosen = [faces[number] for number in _select_faces(len(faces), face_index, num_faces)]
    landmarks = np.stack([one.landmarks for one in chosen])
    boxes = np.stack([one.box for one in chosen]).astype(np.float64)
    framing = Framing.for_nearest_bucket(image.shape[1], image.shape[0], list(sizes), fit)
    smallest = float((boxes[:, 3] - boxes[:, 1]).min())
    if fit is ResizeMode.crop and smallest * framing.scale < min_face_fraction * framing.bucket.height:
        left, top, right, bottom = _zoomed_crop(
            (image.shape[0], image.shape[1]), boxes, framing.bucket, min_face_fraction
        )
        image = np.ascontiguousarray(image[top:bottom, left:right])
        landmarks = landmarks - np.array([left, top, 0], np.float32)
        boxes = boxes - np.array([left, top, left, top])
        framing = Framing(right - left, bottom - top, framing.bucket, fit)
    x0, y0, x1, y1 = _enclosing_box(boxes)
    offset = framing.offset(((x0 + x1) / 2, (y0 + y1) / 2))
    pixels = framing.crop_or_pad(framing.resize(image), offset)
    moved = framing.transform_points(landmarks, offset)
    portrait = Portrait(pixels, five_points(moved), landmark_box(moved).astype(np.float32))
    _check_faces_inside(portrait)
    return portrait


def portrait_from_image(
    image: ImageInput,
    height: int | None,
    width: int | None,
    *,
    fit: ResizeMode = ResizeMode.crop,
    face_index: int | Sequence[int] | None = None,
    num_faces: int = 1,
) -> Portrait:
    """Any picture as a portrait of one size; None = 512 pixels, or those of a portrait that is ready.

    Raises:
        InputError: no picture, no such face in it, an impossible size, or another one than the ready portrait's.
    """
    picture = open_image(image)
    if not isinstance(picture, Portrait):
        return prepare_portrait(
            picture,
            parse_sizes([f"{width or 512}x{height or 512}"]),
            fit=fit,
            face_index=face_index,
            num_faces=num_faces,
        )
    if (height, width) not in ((None, None), picture.pixels.shape[:2]):
        raise InputError(f"height and width are {height} and {width}; the portrait is {picture.pixels.shape[:2]}")
    return picture


def parse_sizes(specs: Sequence[str]) -> list[ResolutionBucket]:
    """'512' or '848x480' (width x height) as sizes.

    Raises:
        InputError: none, not such a text, or not multiples of 16 from 32 to 2048.
    """
    sizes = []
    for text in specs:
        match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
        size = ResolutionBucket(int(match[1]), int(match[2] or match[1])) if match else None
        if size is None or any(side % 16 or not 32 <= side <= 2048 for side in size):
            raise InputError(f"size '{text}': give N or WIDTHxHEIGHT in multiples of 16 from 32 to 2048, as in 512x512")
        sizes.append(size)
    if not sizes:
        raise InputError("sizes is empty; give at least one, as in 512x512")
    return sizes


def _limit_size(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    scale = MAX_IMAGE_SIDE / max(image.shape[:2])
    if scale >= 1:
        return image
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _select_faces(num_found: int, face_index: int | Sequence[int] | None, num_faces: int) -> list[int]:
    """Places of the chosen faces among those found, from the left."""
    if not num_found:
        raise InputError("no face was found in the picture; give one that shows a face from the front, well lit")
    if face_index is None:
        if num_found != num_faces:
            _raise_face_count(num_found, num_faces)
        return list(range(num_found))
    numbers = [face_index] if isinstance(face_index, int) else list(face_index)
    for number in numbers:
        if not 1 <= number <= num_found:
            raise InputError(
                f"face {number} was asked for and {num_found} found; give --face 1 to {num_found}, counted from the "
                "left"
            )
    if len(set(numbers)) < len(numbers):
        raise InputError(f"the same face was asked for twice: {', '.join(map(str, numbers))}; give each --face once")
    return [number - 1 for number in numbers]


def _raise_face_count(num_found: int, num_faces: int) -> None:
    if num_faces == 1:
        raise InputError(
            f"{num_found} faces were found in the picture; choose one: --face 1 (left) to --face {num_found} (right)"
        )
    if num_found < num_faces:
        raise InputError(
            f"{num_found} {'face was' if num_found == 1 else 'faces were'} found in the picture and {num_faces} are "
            "needed, one "
            "for each sound or driver; give fewer of them, or another picture"
        )
    raise InputError(
        f"{num_found} faces were found in the picture and {num_faces} are needed; choose them in the order of their "
        "sounds "
        f"and drivers: --face 1 (left) to --face {num_found} (right), {num_faces} times"
    )


def _enclosing_box(boxes: NDArray[np.floating]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom around all of (P, 4) boxes."""
    (x0, y0), (x1, y1) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
    return x0, y0, x1, y1


def _zoomed_crop(
    shape: tuple[int, int], boxes: NDArray[np.floating], bucket: ResolutionBucket, face_fraction: float
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the part in which the smallest face has `face_fraction` of the height, or all just
    fit."""
    height, width = shape
    x0, y0, x1, y1 = _enclosing_box(boxes)
    tall = float((boxes[:, 3] - boxes[:, 1]).min()) / face_fraction
    if len(boxes) > 1:
        tall = max(tall, GROUP_CROP_MARGIN * (y1 - y0), GROUP_CROP_MARGIN * (x1 - x0) * bucket.height / bucket.width)
    wide = tall * bucket.width / bucket.height
    shrink = min(1.0, width / wide, height / tall)
    rows, columns = max(16, round(tall * shrink)), max(16, round(wide * shrink))
    left = min(max(0, round((x0 + x1 - columns) / 2)), max(0, width - columns))
    top = min(max(0, round((y0 + y1 - rows) / 2)), max(0, height - rows))
    return left, top, min(width, left + columns), min(height, top + rows)


def _check_faces_inside(portrait: Portrait) -> None:
    """Holds that none of several faces was cropped away."""
    height, width = portrait.pixels.shape[:2]
    middles = (portrait.face_boxes[:, :2] + portrait.face_boxes[:, 2:]) / 2
    if len(middles) > 1 and not bool(((middles > 0) & (middles < (width, height))).all()):
        raise InputError(
            f"the {len(middles)} faces do not all fit into a crop of {width}x{height}; give a wider --size, or "
            "fit=letterbox"
        )
