"""Reads and writes still images."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write, bounded_file
from fantasytalking.common.limits import MAX_IMAGE_BYTES, MAX_IMAGE_MEMORY_BYTES, MAX_IMAGE_PIXELS
from fantasytalking.media.image_headers import decoding_bytes, describe_unreadable

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM", "PSD")
"""Formats that are read, as Pillow names them: those that Pillow itself decodes, in C, by the file's first bytes."""
_WRITTEN_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_STRIP_PIXELS = 1 << 20
"""Pixels that are converted at a time."""


def read_image(path: str | Path, max_side: int | None = None) -> NDArray[np.uint8]:
    """Reads a still image upright.

    EXIF rotation is applied. Transparency is blended with white, as on a page. Gray, palette and CMYK images are
    converted to RGB, and 16-bit values are scaled to 8 bits; floating-point values count from 0 (black) to 1 (white).
    The first frame of an animation is read. Color profiles are ignored.

    Pillow is used directly: it limits the formats and reads the size before it decodes, which imageio does not expose.

    Args:
        path: image file.
        max_side: larger images are shrunk to this longer side, by area, as far as possible while they are decoded;
            None keeps the size.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: the file is not a supported image, is damaged, has more than `MAX_IMAGE_BYTES` bytes, decodes to
            more than `MAX_IMAGE_PIXELS` pixels or takes more than `MAX_IMAGE_MEMORY_BYTES` bytes to decode.
    """
    path = bounded_file(path, "image", MAX_IMAGE_BYTES, "save it compressed")
    with _decoding_errors(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about large images; the limit below decides
            image = Image.open(path, formats=IMAGE_FORMATS)
        with image:
            full_size = image.size
            if max_side is not None:
                _decode_smaller(image, max_side)
            _check_cost(path, image, full_size)
            return to_rgb(image, max_side)


def _decode_smaller(image: Image.Image, max_side: int) -> None:
    """Lets the JPEG decoder leave out every other, fourth or eighth pixel, as long as `max_side` pixels remain."""
    longer = max(image.size)
    image.draft(None, (-(-image.width * max_side // longer), -(-image.height * max_side // longer)))


def _check_cost(path: Path, image: Image.Image, full_size: tuple[int, int]) -> None:
    """Checks what decoding takes by the header, before anything is allocated."""
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise InputError(
            f"image '{path}' is {image.width}x{image.height}; the limit is {MAX_IMAGE_PIXELS} pixels; downscale it",
            code=ErrorCode.out_of_range,
            field="image",
            value=image.size,
        )
    memory = decoding_bytes(path, image, full_size)
    if memory > MAX_IMAGE_MEMORY_BYTES:
        raise InputError(
            f"image '{path}' of {full_size[0]}x{full_size[1]} pixels takes {memory / 2**30:.1f} GiB to decode; the "
            f"limit is {MAX_IMAGE_MEMORY_BYTES / 2**30:g} GiB; downscale it",
            code=ErrorCode.out_of_range,
            field="image",
            value=full_size,
        )


def to_rgb(image: Image.Image, max_side: int | None = None) -> NDArray[np.uint8]:
    """Converts a Pillow image as `read_image` does."""
    image.load()  # before its size and orientation, which a TIFF changes here
    factor = 1 if max_side is None else max(1, max(image.size) // max_side)
    width, height = (-(-side // factor) for side in image.size)
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    upright = np.empty((width, height, 3) if orientation in range(5, 9) else (height, width, 3), np.uint8)
    stored = _to_stored_orientation(upright, orientation)
    rows = factor * max(1, _STRIP_PIXELS // (image.width * factor))
    for top in range(0, image.height, rows):
        strip = _strip_to_rgb(image.crop((0, top, image.width, min(top + rows, image.height))))
        stored[top // factor : top // factor + rows // factor] = strip if factor == 1 else strip.reduce(factor)
    return upright if max_side is None else shrink_image(upright, max_side)


def _to_stored_orientation(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Returns a view of an upright image in the order in which a file of this EXIF orientation stores it."""
    match orientation:
        case 2:
            return upright[:, ::-1]
        case 3:
            return upright[::-1, ::-1]
        case 4:
            return upright[::-1]
        case 5:
            return upright.swapaxes(0, 1)
        case 6:
            return np.rot90(upright)
        case 7:
            return np.rot90(upright, 2).swapaxes(0, 1)
        case 8:
            return np.rot90(upright, 3)
        case _:
            return upright


def shrink_image(image: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    """Returns an image (H, W, C) whose longer side is at most `max_side`, shrunk by area."""
    import cv2

    scale = max_side / max(image.shape[:2])
    if scale >= 1:
        return image
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


@contextmanager
def _decoding_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        raise InputError(
            f"image '{path}' {describe_unreadable(path)}; give one of {', '.join(IMAGE_FORMATS)}",
            code=ErrorCode.unreadable_media,
            field="image",
            value=str(path),
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"image '{path}' has far more than {MAX_IMAGE_PIXELS} pixels, the limit; downscale it",
            code=ErrorCode.out_of_range,
            field="image",
            value=str(path),
        ) from error
    except (OSError, SyntaxError, ValueError, RuntimeError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"image '{path}' cannot be decoded ({str(error) or type(error).__name__}); give an intact image",
            code=ErrorCode.unreadable_media,
            field="image",
            value=str(path),
        ) from error


def _strip_to_rgb(image: Image.Image) -> Image.Image:
    """Converts a part of an image to RGB."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip((values + 128) // 257, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        shades = np.asarray(image)
        if not (shades.min() >= 0 and shades.max() <= 1):  # also if one is NaN
            raise InputError(
                f"the image has floating-point values from {shades.min():g} to {shades.max():g}; 0 (black) to 1 "
                "(white) are read; save it with 8 or 16 bits",
                code=ErrorCode.unsupported,
                field="image",
                value=image.mode,
            )
        return Image.fromarray(np.rint(shades * 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def write_image(path: str | Path, array: np.ndarray) -> None:
    """Writes a (H, W, 3) uint8 RGB or (H, W) uint8 gray image; the suffix selects PNG, JPEG, WebP or BMP.

    Raises:
        InputError: the shape or dtype is wrong, the suffix is not supported, or the output cannot be written.
    """
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] != 3)
        or not array.size
    ):
        raise InputError(
            f"the image is {array.dtype} {array.shape}; give uint8 of shape (H, W, 3) or (H, W)",
            code=ErrorCode.shape_mismatch,
            field="array",
            value=array.shape,
        )
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITTEN_SUFFIXES:
        raise InputError(
            f"'{path}' ends in '{suffix}'; images are written as {', '.join(_WRITTEN_SUFFIXES)}",
            code=ErrorCode.invalid_choice,
            field="path",
            value=suffix,
        )
    import imageio.v3 as imageio

    # Encoded in memory: on a full disk imageio reports the same error a second time, with a traceback.
    encoded = imageio.imwrite("<bytes>", array, plugin="pillow", extension=suffix, is_batch=False, quality=95)
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded)
