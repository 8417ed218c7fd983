"""Reads and writes still images."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write, existing_file
from fantasytalking.common.limits import MAX_IMAGE_PIXELS

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_WRITTEN_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read_image(path: str | Path) -> np.ndarray:
    """Reads a still image upright.

    EXIF rotation is applied. Transparency is blended with white, as on a page. Gray, palette and CMYK images are
    converted to RGB, and 16-bit values are scaled to 8 bits. The first frame of an animation is read. Color profiles
    are ignored.

    Pillow is used directly: it limits the formats and reads the size before it decodes, which imageio does not expose.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: the file is not a supported image, is damaged, or has more than `MAX_IMAGE_PIXELS` pixels.
    """
    path = existing_file(path, "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about large images; the limit below decides
            image = Image.open(path, formats=_FORMATS)
        if image.width * image.height > MAX_IMAGE_PIXELS:
            raise InputError(
                f"image '{path}' is {image.width}x{image.height}; the limit is {MAX_IMAGE_PIXELS} pixels; downscale it",
                code=ErrorCode.out_of_range,
                field="image",
                value=(image.width, image.height),
            )
        with image:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise InputError(
            f"image '{path}' is not in a supported format; give one of {', '.join(_FORMATS)}",
            code=ErrorCode.unreadable_media,
            field="image",
            value=str(path),
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"image '{path}' has more than {MAX_IMAGE_PIXELS} pixels; downscale it",
            code=ErrorCode.out_of_range,
            field="image",
            value=str(path),
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"image '{path}' cannot be decoded ({error}); give an intact image",
            code=ErrorCode.unreadable_media,
            field="image",
            value=str(path),
        ) from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        gray = np.clip((values + 128) // 257, 0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.mode == "F":
        raise InputError(
            "the image has floating-point values without a declared range; save it with 8 or 16 bits",
            code=ErrorCode.unsupported,
            field="image",
            value=image.mode,
        )
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))
    return np.asarray(image.convert("RGB"))


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
