"""Reading and writing still images of every mode, and refusing files that are not images."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.media import read_image, write_image
from tests.helpers.errors import raises_input_error


@pytest.fixture
def picture() -> np.ndarray:
    y, x = np.mgrid[0:40, 0:60]
    return np.stack([x * 4, y * 6, 255 - x * 2 - y], -1).astype(np.uint8)


def test_png_is_read_back_exactly(tmp_path: Path, picture: np.ndarray) -> None:
    write_image(tmp_path / "a.png", picture)
    assert np.array_equal(read_image(tmp_path / "a.png"), picture)
    write_image(tmp_path / "gray.png", picture[..., 0])
    assert np.array_equal(read_image(tmp_path / "gray.png"), np.repeat(picture[..., :1], 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
@pytest.mark.parametrize("size", [(40, 60, 3), (40, 60), (40, 3), (5, 4), (40, 3, 3), (1, 1, 3)])
def test_files_have_the_bytes_that_pillow_writes(tmp_path: Path, suffix: str, size: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    write_image(tmp_path / f"a{suffix}", image)
    Image.fromarray(image).save(tmp_path / f"pillow{suffix}", quality=95)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"pillow{suffix}").read_bytes()


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_applied(tmp_path: Path, picture: np.ndarray, orientation: int, turn: int) -> None:
    image = Image.fromarray(picture)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=98)
    upright = read_image(tmp_path / "a.jpg")
    assert upright.shape == np.rot90(picture, turn).shape
    assert np.abs(upright.astype(int) - np.rot90(picture, turn)).mean() < 6


def test_transparency_is_blended_with_white(tmp_path: Path, picture: np.ndarray) -> None:
    alpha = np.full((*picture.shape[:2], 1), 255, np.uint8)
    alpha[:, :30] = 0
    Image.fromarray(np.concatenate([picture, alpha], -1)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert (image[:, :30] == 255).all()
    assert np.array_equal(image[:, 30:], picture[:, 30:])


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, picture: np.ndarray, mode: str) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    Image.fromarray(picture).convert(mode).save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.shape == picture.shape and image.dtype == np.uint8
    assert np.abs(image.mean() - picture.mean()) < 25


def test_sixteen_bits_are_scaled(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture[..., 0].astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png")[..., 0], picture[..., 0])


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header declares a huge image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def damaged(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


def test_files_that_are_not_images_are_refused_in_one_line(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "a.png"
    contents = [
        (b"", ErrorCode.unreadable_media, str(path)),
        (b"no picture", ErrorCode.unreadable_media, str(path)),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ErrorCode.unreadable_media, str(path)),
        (bomb(11000, 10000), ErrorCode.out_of_range, (11000, 10000)),
        (bomb(60000, 60000), ErrorCode.out_of_range, str(path)),
        (damaged(picture), ErrorCode.unreadable_media, str(path)),
    ]
    for content, code, value in contents:
        path.write_bytes(content)
        with raises_input_error(code, "image", value) as error:
            read_image(path)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError):
        read_image(tmp_path / "missing.png")


def test_floating_point_images_are_refused(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture[..., 0].astype(np.float32)).save(tmp_path / "a.tif")
    with raises_input_error(ErrorCode.unsupported, "image", "F"):
        read_image(tmp_path / "a.tif")


def test_arrays_that_are_not_images_are_refused(tmp_path: Path, picture: np.ndarray) -> None:
    for path, array, code, field, value in (
        ("a.png", picture / 255, ErrorCode.shape_mismatch, "array", (40, 60, 3)),
        ("a.exe", picture, ErrorCode.invalid_choice, "path", ".exe"),
        ("a.png", picture[..., :2], ErrorCode.shape_mismatch, "array", (40, 60, 2)),
        ("a.png", picture[:0], ErrorCode.shape_mismatch, "array", (0, 60, 3)),
    ):
        with raises_input_error(code, field, value):
            write_image(tmp_path / path, array)
    assert list(tmp_path.iterdir()) == []
