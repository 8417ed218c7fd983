"""Reads the headers of image files: what decoding would take, and what a file is that cannot be decoded."""

import re
import struct
from pathlib import Path

from PIL import Image, TiffImagePlugin
from PIL.TiffImagePlugin import TiffImageFile

_DECODED_BYTES = 4
"""Memory per pixel of an image in Pillow."""
_CODEC_BYTES = {"WEBP": 12, "AVIF": 16}
"""Memory per pixel of decoders that decode all at once, and of their copies."""
_JPEG_COEFFICIENT_BYTES = 6
"""Memory per pixel of a JPEG in several scans, such as a progressive one, whose coefficients are kept until the end."""
_JPEG2000_COMPONENT_BYTES = 5
"""Memory per pixel and component of a tile."""
_JPEG2000_HEADER_BYTES = 1 << 20
"""Beginning of a JPEG 2000 file in which the size of its tiles is looked for."""

_HEAD_BYTES = 512
_KINDS = (
    (rb"....ftyp(hei|hev|hee|mif1|msf1)", "is HEIC, the format of some phones"),
    (rb"....ftyp(crx)", "is a camera's raw image"),
    (rb"(FUJIFILMCCD-RAW|IIRO|IIU\0|....HEAPCCDR)", "is a camera's raw image"),
    (rb"(....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI |\0\0\x01[\xb3\xba]|FLV\x01|\x30\x26\xb2\x75)", "is a video"),
    (rb"(RIFF....WAVE|ID3|fLaC|OggS|FORM....AIF|\.snd)", "is a sound"),
    (rb"(\xff\x0a|\0\0\0\x0cJXL )", "is JPEG XL"),
    (
        rb"(II\*\0|MM\0\*|II\+\0|MM\0\+)",
        "is a TIFF of a kind that is not read, such as floating-point colors or a camera's raw image",
    ),
    (rb"(v/1\x01|#\?RADIANCE|#\?RGBE)", "is a high-dynamic-range image"),
    (rb"%PDF", "is a PDF document"),
    (rb"%!PS", "is a PostScript document"),
    (rb"PK\x03\x04", "is a ZIP archive or an office document"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg[^>]*>\s*)?<svg", "is SVG, a drawing without pixels"),
    (rb"\s*<(!doctype )?html", "is a web page"),
    (rb"version https://git-lfs", "is a pointer of Git LFS, not the image itself"),
)


def decoding_bytes(path: Path, image: Image.Image, full_size: tuple[int, int]) -> int:
    """Estimates the memory in bytes that decoding an opened image takes.

    Args:
        path: its file.
        image: the image, whose size is the one it will be decoded at.
        full_size: width and height of the file.
    """
    pixels = image.width * image.height
    memory = pixels * (_DECODED_BYTES + _CODEC_BYTES.get(image.format or "", 0))
    if image.format == "JPEG":
        memory += full_size[0] * full_size[1] * _JPEG_COEFFICIENT_BYTES
    elif image.format == "JPEG2000":
        memory += _jpeg2000_tile_bytes(path)
    elif isinstance(image, TiffImageFile):
        memory += _tiff_block_bytes(image)
    return memory


def _tiff_block_bytes(image: TiffImageFile) -> int:
    """Returns the size of a tile or strip, which is decoded whole and may exceed the image."""
    tags = image.tag_v2
    rows = tags.get(TiffImagePlugin.ROWSPERSTRIP, image.height)
    width, height = (tags.get(tag) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    sizes = (rows, image.width if width is None else width, height or 0, *bits)
    if not all(isinstance(size, int) for size in sizes):
        raise ValueError("the size of its tiles is not a number")
    return (width or image.width) * (height or min(image.height, rows)) * sum(bits) // 8


def _jpeg2000_tile_bytes(path: Path) -> int:
    """Returns the memory of a tile of the codestream, whose sizes may differ from those that the file declares."""
    with path.open("rb") as file:
        head = file.read(_JPEG2000_HEADER_BYTES)
    largest = 0
    for found in re.finditer(rb"\xff\x4f\xff\x51.{4}(.{34})", head, re.DOTALL):  # SOC, SIZ
        right, bottom, left, top, tile_width, tile_height, _, _, components = struct.unpack(">8IH", found[1])
        pixels = min(tile_width, max(0, right - left)) * min(tile_height, max(0, bottom - top))
        largest = max(largest, pixels * components * _JPEG2000_COMPONENT_BYTES)
    return largest


def describe_unreadable(path: Path) -> str:
    """Returns what a file is that is not a supported image, as the end of a sentence about it."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        return "is empty (0 bytes)"
    kinds = (kind for pattern, kind in _KINDS if re.match(pattern, head, re.DOTALL | re.IGNORECASE))
    return next(kinds, "is not in a supported format")
