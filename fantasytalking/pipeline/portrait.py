"""Prepares portraits: detects the faces and crops or pads the image to the model's size without distorting it.

The perception and imaging packages are imported on use, so that the pipeline loads without them.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_IMAGE_SIDE
from fantasytalking.face_range import FacePlacement, FaceRange, FaceRanges
from fantasytalking.latent_geometry import LatentGeometry
from fantasytalking.media.image import read_image, shrink_image, to_rgb
from fantasytalking.media.resolution import ResizeMode, ResolutionBucket
from fantasytalking.pipeline.face_fit import (
    CropWindow,
    fitting_window,
    framing_warning,
    zoomed_window,
)

if TYPE_CHECKING:
    from fantasytalking.media.framing import Framing

logger = logging.getLogger(__name__)

SUFFICIENT_FACE_FRACTION = 0.1
"""Face size, relative to the shorter side of the image, from which on a face is found."""
_CUT_TOLERANCE = 1.0
"""Pixels of the portrait by which the box of a face may exceed it."""


class Portrait(NamedTuple):
    """An image at the model's size, with its faces."""

    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB, of whole tokens: `LatentGeometry.token_pixels` divides H and W."""
    face_points: NDArray[np.float32]
    """(P, 5, 2) pixels of eyes, nose and mouth corners of each person, in the order of ArcFace's alignment."""
    face_boxes: NDArray[np.float32]
    """(P, 4) left, top, right, bottom of each face in pixels, around its landmarks."""
    outside_fraction: float = 0.0
    """Fraction of `pixels` that repeats the border of the image (resize mode `fit`)."""

    @property
    def placement(self) -> FacePlacement:
        """Size and place of the faces as fractions of the image."""
        height, width = self.pixels.shape[:2]
        return FacePlacement.from_boxes(self.face_boxes, width, height)

    def framing_warning(self, face_ranges: FaceRanges, resize_mode: ResizeMode) -> str | None:
        """Returns one line about faces outside the sizes and places that the model was trained on; None: inside.

        Args:
            face_ranges: of the model (`ModelFacts.face_ranges`).
            resize_mode: how the image became this portrait.
        """
        return framing_warning(self.placement, len(self.face_boxes), face_ranges, resize_mode, self.outside_fraction)


ImageInput = Portrait | NDArray[np.uint8] | Image.Image | str | Path


@dataclass(frozen=True)
class PortraitOptions:
    """How images become portraits."""

    sizes: Sequence[str]
    """N or WIDTHxHEIGHT; the size of nearest aspect ratio is used. The model's token must divide both sides."""
    resize_mode: ResizeMode = ResizeMode.fit
    face_index: int | Sequence[int] | None = None
    """Selected faces, from 1 at the left; several in the order of their audio. None: all faces."""
    min_face_fraction: float = 0.0
    """Zoom in until the smallest face has this fraction of the height (not with letterbox); 0: never."""
    face_ranges: FaceRanges = field(default_factory=dict)
    """Sizes and places of faces that the model knows, for resize mode `fit`."""

    def prepare(self, image: ImageInput, num_faces: int = 1) -> Portrait:
        """Returns the portrait of an image; a `Portrait` is returned unchanged.

        Args:
            num_faces: number of faces required where none is selected.

        Raises:
            InputError: as `open_image` and `prepare_portrait`.
        """
        opened = open_image(image)
        if isinstance(opened, Portrait):
            return opened
        return prepare_portrait(
            opened,
            parse_sizes(self.sizes),
            resize_mode=self.resize_mode,
            face_index=self.face_index,
            num_faces=num_faces,
            min_face_fraction=self.min_face_fraction,
            face_ranges=self.face_ranges,
        )


DEFAULT_PORTRAIT_OPTIONS = PortraitOptions(("512x512",))


def open_image(image: ImageInput) -> Portrait | NDArray[np.uint8]:
    """Returns the pixels of an image (H, W, 3), or a `Portrait` unchanged.

    Raises:
        InputError: the file is not an image.
    """
    if isinstance(image, Portrait):
        return image
    if isinstance(image, str | Path):
        return read_image(image, MAX_IMAGE_SIDE)
    return to_rgb(image, MAX_IMAGE_SIDE) if isinstance(image, Image.Image) else np.asarray(image)


def prepare_portrait(
    image: NDArray[np.uint8],
    sizes: Sequence[ResolutionBucket],
    *,
    resize_mode: ResizeMode = ResizeMode.crop,
    face_index: int | Sequence[int] | None = None,
    num_faces: int = 1,
    min_face_fraction: float = 0.0,
    face_ranges: FaceRanges | None = None,
) -> Portrait:
    """Returns an image at the size of `sizes` with the nearest aspect ratio, resized as data preparation does.

    Args:
        image: (H, W, 3) uint8 RGB.
        resize_mode: crop keeps the largest part of that ratio, centered on the faces; letterbox adds black bars; fit
            keeps the largest part in which the faces have a size and a place of `face_ranges`, and repeats the border
            of the image where they are too large or too near to it. Where the range is not known, or the crop has it,
            fit does as crop.
        face_index: selected faces, from 1 at the left; several appear in the portrait in this order. None: all.
        num_faces: number of faces required where none is selected.
        min_face_fraction: with crop or fit, zoom in until the smallest face has this fraction of the height (0:
            never), but never so far that a face is cut. Training leaves smaller faces out.
        face_ranges: sizes and places of faces that the model knows, by number of faces; None: none.

    Raises:
        InputError: there is no face, another number than `num_faces` with none selected, no face of a selected index,
            or several faces do not fit whole, as far as the image shows them.
    """
    from fantasytalking.media.framing import Framing
    from fantasytalking.perception.face_crop import five_points
    from fantasytalking.perception.face_detection import landmark_box
    from fantasytalking.perception.face_track import detect_faces

    image = shrink_image(image, MAX_IMAGE_SIDE)
    faces = detect_faces(image)
    if not faces:
        _raise_no_face(image)
    selected = [faces[number] for number in _select_faces(len(faces), face_index, num_faces)]
    landmarks = np.stack([one.landmarks for one in selected])
    boxes = np.stack([one.box for one in selected]).astype(np.float64)
    corners = np.clip(boxes, 0, (image.shape[1], image.shape[0]) * 2).reshape(-1, 2)  # of what the image shows of them
    margins = ResizeMode.crop if resize_mode is ResizeMode.fit else resize_mode
    framing = Framing.for_nearest_bucket(image.shape[1], image.shape[0], list(sizes), margins)
    window = None
    if margins is ResizeMode.crop:
        face_range = (face_ranges or {}).get(len(boxes)) if resize_mode is ResizeMode.fit else None
        window = _crop_window(image.shape, boxes, framing, face_range, min_face_fraction)
    outside_fraction = 0.0
    if window is not None:
        left, top, right, bottom = window
        outside_fraction = window.outside_fraction(image.shape)
        image = window.extract(image)
        landmarks = landmarks - np.array([left, top, 0], np.float32)
        boxes, corners = boxes - np.array([left, top, left, top]), corners - np.array([left, top])
        framing = Framing(right - left, bottom - top, framing.bucket, margins)
    x0, y0, x1, y1 = _enclosing_box(boxes)
    offset = framing.offset(((x0 + x1) / 2, (y0 + y1) / 2))
    pixels = framing.crop_or_pad(framing.resize(image), offset)
    if len(boxes) > 1:
        _check_faces_inside(framing.transform_points(corners, offset), framing.bucket)
    moved = framing.transform_points(landmarks, offset)
    return Portrait(pixels, five_points(moved), landmark_box(moved).astype(np.float32), outside_fraction)


def _crop_window(
    shape: tuple[int, ...],
    boxes: NDArray[np.float64],
    framing: "Framing",
    face_range: FaceRange | None,
    min_face_fraction: float,
) -> CropWindow | None:
    """The part of an image to which it is cropped first; None: the whole."""
    size = (shape[0], shape[1])
    if face_range is not None:
        return fitting_window(size, boxes, framing.bucket, face_range, min_face_fraction)
    smallest = float((boxes[:, 3] - boxes[:, 1]).min())
    if smallest * framing.scale < min_face_fraction * framing.bucket.height:
        return zoomed_window(size, boxes, framing.bucket, min_face_fraction)
    return None


def portrait_from_image(
    image: ImageInput,
    height: int | None,
    width: int | None,
    resize_mode: ResizeMode = ResizeMode.fit,
    face_index: int | Sequence[int] | None = None,
    num_faces: int = 1,
    face_ranges: FaceRanges | None = None,
) -> Portrait:
    """Returns the portrait of an image at one size; None: 512 pixels, or the size of a `Portrait`.

    Raises:
        InputError: as `PortraitOptions.prepare`, or the size is not that of the `Portrait`.
    """
    if isinstance(image, Portrait) and (height, width) not in ((None, None), image.pixels.shape[:2]):
        raise InputError(
            f"height and width are {height} and {width}; the portrait is {image.pixels.shape[:2]}",
            code=ErrorCode.conflict,
            field="height",
            value=height,
        )
    options = PortraitOptions(
        [f"{width or 512}x{height or 512}"], resize_mode, face_index, face_ranges=face_ranges or {}
    )
    return report_framing(options.prepare(image, num_faces), image, options)


def report_framing(portrait: Portrait, image: ImageInput, options: PortraitOptions) -> Portrait:
    """Returns the portrait, after a warning where `options` could not bring its faces to what the model knows.

    Args:
        portrait: what `options` made of `image`.
        image: not reported if it is a `Portrait`, since whoever prepared it knew.
        options: how it was prepared.
    """
    warning = portrait.framing_warning(options.face_ranges, options.resize_mode)
    if warning is not None and not isinstance(image, Portrait):
        logger.warning(warning)
    return portrait


def parse_sizes(specs: Sequence[str]) -> list[ResolutionBucket]:
    """Returns the sizes of texts such as '512' or '848x480' (width x height).

    Whether a model has whole tokens at a size is checked by `check_sizes`.

    Raises:
        InputError: there is none, one has another form, or a side is not from 32 to 2048 pixels.
    """
    sizes = []
    for text in specs:
        match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
        size = ResolutionBucket(int(match[1]), int(match[2] or match[1])) if match else None
        if size is None or any(not 32 <= side <= 2048 for side in size):
            raise InputError(
                f"size '{text}': give N or WIDTHxHEIGHT from 32 to 2048 pixels, as in 512x512",
                code=ErrorCode.invalid_choice if size is None else ErrorCode.out_of_range,
                field="sizes",
                value=text,
            )
        sizes.append(size)
    if not sizes:
        raise InputError(
            "sizes is empty; give at least one, as in 512x512", code=ErrorCode.missing_value, field="sizes"
        )
    return sizes


def check_sizes(specs: Sequence[str], geometry: LatentGeometry) -> None:
    """Checks that a model has whole tokens at every size of `specs`, as `parse_sizes` reads them.

    Raises:
        InputError: a side is not a multiple of the model's token, or as `parse_sizes`.
    """
    for text, size in zip(specs, parse_sizes(specs), strict=True):
        geometry.check_size(size.height, size.width, "sizes", text)


def check_portrait_size(portrait: Portrait, geometry: LatentGeometry) -> None:
    """Checks that a model has whole tokens at the size of a portrait.

    Raises:
        InputError: a side is not a multiple of the model's token.
    """
    height, width = portrait.pixels.shape[:2]
    geometry.check_size(height, width, "height" if height % geometry.token_pixels else "width", f"{width}x{height}")


def _select_faces(num_found: int, face_index: int | Sequence[int] | None, num_faces: int) -> list[int]:
    """Positions of the selected faces among those found, from the left."""
    if face_index is None:
        if num_found != num_faces:
            _raise_face_count(num_found, num_faces)
        return list(range(num_found))
    numbers = [face_index] if isinstance(face_index, int) else list(face_index)
    for number in numbers:
        if not 1 <= number <= num_found:
            raise InputError(
                f"face {number} was selected and {num_found} found; give --face-index 1 to {num_found}, counted from "
                "the left",
                code=ErrorCode.no_face,
                field="face_index",
                value=number,
            )
    if len(set(numbers)) < len(numbers):
        raise InputError(
            f"a face was selected twice: {', '.join(map(str, numbers))}; give each --face-index once",
            code=ErrorCode.conflict,
            field="face_index",
            value=numbers,
        )
    return [number - 1 for number in numbers]


def _raise_no_face(image: NDArray[np.uint8]) -> NoReturn:
    from fantasytalking.perception.face_detection import find_small_face

    message = "no face was found in the image; give one that shows a face from the front, well lit"
    small, (height, width) = find_small_face(image), image.shape[:2]
    if small is not None:
        message = (
            f"the face in the image is too small: {small.size:.0f} pixels of {width}x{height}, "
            f"{small.size / min(height, width):.1%} of the shorter side; {SUFFICIENT_FACE_FRACTION:.0%} or more are "
            f"needed; crop the image to at most {small.size / SUFFICIENT_FACE_FRACTION:.0f} of these pixels around the "
            f"face, {small.x / width:.0%} from the left and {small.y / height:.0%} from the top"
        )
    raise InputError(message, code=ErrorCode.no_face, field="image", value=0)


def _raise_face_count(num_found: int, num_faces: int) -> None:
    found = f"{num_found} {'face was' if num_found == 1 else 'faces were'} found in the image"
    options = f"--face-index 1 (left) to --face-index {num_found} (right)"
    if num_faces == 1:
        message = f"{found}; select one: {options}"
    elif num_found < num_faces:
        message = f"{found} and {num_faces} are needed, one per audio or driving video; give fewer, or another image"
    else:
        message = (
            f"{found} and {num_faces} are needed; select them in the order of their audio and driving videos: "
            f"{options}, {num_faces} times"
        )
    raise InputError(message, code=ErrorCode.no_face, field="image", value=num_found)


def _enclosing_box(boxes: NDArray[np.floating]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom around all of (P, 4) boxes."""
    (x0, y0), (x1, y1) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
    return x0, y0, x1, y1


def _check_faces_inside(corners: NDArray[np.floating], size: ResolutionBucket) -> None:
    """Raises where one of several faces is cut by the crop, given the corners (2 P, 2) of their boxes in it."""
    if corners.min() < -_CUT_TOLERANCE or (corners > np.array(size) + _CUT_TOLERANCE).any():
        raise InputError(
            f"the {len(corners) // 2} faces do not fit whole into a crop of {size.width}x{size.height}; give a wider "
            "--size, or resize_mode=letterbox",
            code=ErrorCode.conflict,
            field="sizes",
            value=f"{size.width}x{size.height}",
        )
