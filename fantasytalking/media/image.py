"""Reading and writing still pictures."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write, existing_file

MAX_IMAGE_PIXELS = 100_000_000
"""Larger pictures are refused before their pixels are decoded."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")


def read_image(path: str | Path) -> np.ndarray:
    """Reads a still picture upright.

    EXIF rotation is applied; transparency is laid over white, as a page would show it; grey, palette and CMYK become
    RGB; 16-bit values are scaled to 8 bits; of an animation the first picture is taken. Colour profiles are ignored.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: no picture, damaged, or more than `MAX_IMAGE_PIXELS` pixels.
    """
    path = existing_file(path, "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures; the limit below decides
            image = Image.open(path, formats=_FORMATS)
        if image.width * image.height > MAX_IMAGE_PIXELS:
            raise InputError(
                f"image '{path}' is {image.width}x{image.height}; the limit is {MAX_IMAGE_PIXELS} pixels; scale it"
            )
        with image:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise InputError(f"image '{path}' is not a picture; give a {', '.join(_FORMATS)} file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"image '{path}' cannot be decoded: {error}; give an intact picture") from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        grey = np.clip((values + 128) // 257, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise InputError("image holds floating-point values without a stated range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def write_image(path: str | Path, array: np.ndarray) -> None:
    """Writes a (H, W, 3) uint8 RGB or (H, W) uint8 grey picture; the suffix chooses png, jpg, webp or bmp.

    Raises:
        InputError: wrong shape or type, an unknown suffix, or the output cannot be written.
    """
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] != 3)
        or not array.size
    ):
        raise InputError(f"the image is {array.dtype} {array.shape}; give uint8 of shape (H, W, 3) or (H, W)")
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".jpg", ".jpeg", ".webp", ".bmp"):
        raise InputError(f"'{path}' ends in '{suffix}'; images are written as .png, .jpg, .webp or .bmp")
    with atomic_write(path) as temporary:
        Image.fromarray(np.ascontiguousarray(array)).save(temporary, quality=95)
