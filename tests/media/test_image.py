"""Reading and writing still images of every mode, and refusing files that are not images."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

import fantasytalking.media.image as image_module
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


def png(width: int, height: int, bits: int, color_type: int, pixels: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header declares a huge image."""
    return png(width, height, 8, 2, zlib.compress(b"\0" * 1000))


def uniform_png(side: int, bits: int, color_type: int, pixel_bytes: int) -> bytes:
    row, packer = b"\0" * (1 + side * pixel_bytes), zlib.compressobj(1)
    return png(side, side, bits, color_type, b"".join([packer.compress(row) for _ in range(side)] + [packer.flush()]))


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


def test_floating_point_images_count_from_black_to_white(tmp_path: Path, picture: np.ndarray) -> None:
    gray = picture[..., 0].astype(np.float32)
    Image.fromarray(gray / 255).save(tmp_path / "a.tif")
    assert np.array_equal(read_image(tmp_path / "a.tif"), np.repeat(picture[..., :1], 3, axis=2))
    for values in (gray, gray / 255 - 0.1, np.full((4, 5), np.nan, np.float32)):
        Image.fromarray(values).save(tmp_path / "a.tif")
        with raises_input_error(ErrorCode.unsupported, "image", "F"):
            read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".avif", ".jp2", ".j2k", ".tif", ".ppm", ".gif", ".bmp", ".mpo"])
def test_formats_of_other_programs_are_read(tmp_path: Path, picture: np.ndarray, suffix: str) -> None:
    options = {"save_all": True, "append_images": [Image.new("RGB", (60, 40))]} if suffix == ".mpo" else {}
    Image.fromarray(picture).save(tmp_path / f"a{suffix}", **options)
    assert np.abs(read_image(tmp_path / f"a{suffix}").astype(int) - picture).mean() < 4


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path, picture: np.ndarray) -> None:
    frames = [Image.fromarray(np.roll(picture, 20 * number, axis=1)) for number in range(3)]
    for suffix in (".gif", ".png", ".webp", ".avif"):
        frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
        assert np.abs(read_image(tmp_path / f"a{suffix}").astype(int) - picture).mean() < 4


OTHER_FILES = {
    "HEIC": b"\0\0\0\x18ftypheic",
    "video": b"\0\0\0\x18ftypisom",
    "sound": b"RIFF\0\0\0\0WAVEfmt ",
    "SVG": b"<?xml version='1.0'?>\n<svg xmlns=''>",
    "TIFF": b"II*\0\x08\0\0\0\0\0\0\0\0\0",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\n",
    "empty": b"",
    "not in a supported format": b"hello",
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_what_is_no_image_is_named_with_the_formats_that_are_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.jpg").write_bytes(OTHER_FILES[kind])
    with raises_input_error(ErrorCode.unreadable_media, "image", str(tmp_path / "a.jpg")) as caught:
        read_image(tmp_path / "a.jpg")
    assert kind in str(caught.value) and "JPEG, PNG" in str(caught.value)


def converted_whole(path: Path) -> np.ndarray:
    """The image as Pillow converts it in one piece."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I"):
        gray = np.clip((np.asarray(image).astype(np.int64) + 128) // 257, 0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


MODES = ["1", "L", "LA", "P", "P with transparency", "RGB", "RGBA", "I;16", "CMYK"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_strips_are_the_same_pixels_as_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, orientation: int
) -> None:
    monkeypatch.setattr(image_module, "_STRIP_PIXELS", 400)
    noise = np.random.default_rng(0).integers(0, 256, (47, 60, 4), np.uint8)
    source = Image.fromarray(noise)
    options = {}
    if mode == "I;16":
        source = Image.fromarray(noise.view(np.uint16)[..., 0].copy())
    elif mode == "P with transparency":
        source, options = source.convert("RGB").quantize(20), {"transparency": bytes(range(0, 200, 10))}
    else:
        source = source.convert(mode)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"a.{'tif' if mode == 'CMYK' else 'png'}"
    source.save(path, exif=exif, **options)
    expected = converted_whole(path)
    assert np.array_equal(read_image(path), expected)
    with Image.open(path) as file:
        assert np.array_equal(image_module.to_rgb(file), expected)
    assert np.array_equal(read_image(path, 35), image_module.shrink_image(expected, 35))


def test_large_images_are_shrunk_while_they_are_decoded(tmp_path: Path) -> None:
    y, x = np.mgrid[0:300, 0:1001]
    smooth = np.stack([x // 4, y * 255 // 300, 255 - x // 4], -1).astype(np.uint8)
    for suffix in (".png", ".jpg"):
        write_image(tmp_path / f"a{suffix}", smooth)
        for side in (1001, 700, 300, 100):
            small = read_image(tmp_path / f"a{suffix}", side)
            assert max(small.shape[:2]) == side
            expected = cv2.resize(smooth, small.shape[1::-1], interpolation=cv2.INTER_AREA)
            assert np.abs(small.astype(int) - expected).mean() < 3


MEMORY_OF_READING = """
import resource, sys
from fantasytalking.media import read_image
import cv2
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    assert max(read_image(path, 4096).shape) <= 4096
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
def test_small_files_of_large_images_take_little_memory(tmp_path: Path) -> None:
    (tmp_path / "gray.png").write_bytes(uniform_png(10_000, 16, 0, 2))
    (tmp_path / "rgba.png").write_bytes(uniform_png(10_000, 8, 6, 4))
    Image.new("L", (12_000, 12_000)).save(tmp_path / "a.jpg")
    frames = [Image.new("RGB", (1000, 1000), (shade, 0, 0)) for shade in range(0, 240, 12)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], method=0)
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    run = subprocess.run([sys.executable, "-c", MEMORY_OF_READING, *paths], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 600e6


def tiled_tiff(side: int, tile: int) -> bytes:
    """A TIFF of `side` pixels whose tile has `tile` pixels a side."""
    pixels = zlib.compress(b"\0" * 100)
    tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def jpeg2000_with_tile(picture: np.ndarray, side: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG2000")
    head, size, rest = buffer.getvalue().partition(b"\xff\x4f\xff\x51")
    return head + size + rest[:4] + struct.pack(">8I", side, side, 0, 0, side, side, 0, 0) + rest[36:]


def test_what_decoding_takes_is_checked_before(
    tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    for content, size in ((tiled_tiff(64, 40_000), (64, 64)), (jpeg2000_with_tile(picture, 30_000), (60, 40))):
        path.write_bytes(content)
        with raises_input_error(ErrorCode.out_of_range, "image", size):
            read_image(path)
    Image.new("RGB", (8000, 7000)).save(path, "JPEG")
    monkeypatch.setattr(image_module, "MAX_IMAGE_PIXELS", 8000 * 7000 // 4)
    assert read_image(path, 4000).shape == (3500, 4000, 3), "decoded at half its size"
    with raises_input_error(ErrorCode.out_of_range, "image", (8000, 7000)):
        read_image(path)
    monkeypatch.setattr(image_module, "MAX_IMAGE_BYTES", 100)
    with raises_input_error(ErrorCode.out_of_range, "image", path.stat().st_size):
        read_image(path)


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
