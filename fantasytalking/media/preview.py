"""Writes animated previews of a video (GIF or WebP) for pages and documents that do not play MP4."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.common.limits import MAX_PREVIEW_BYTES, MAX_PREVIEW_FPS, MAX_PREVIEW_FRAMES

PREVIEW_SUFFIXES = (".gif", ".webp")
WEBP_QUALITY = 80


def write_preview(path: str | Path, frames: Iterable[NDArray[np.uint8]], *, fps: float) -> None:
    """Writes an endless animation without audio; the suffix selects GIF (256 colors per frame) or WebP.

    Args:
        path: output file that ends in .gif or .webp, written completely or not at all.
        frames: (H, W, 3) uint8 RGB frames of one size, at most `MAX_PREVIEW_FRAMES`.
        fps: frames per second, above 0 and up to `MAX_PREVIEW_FPS`. GIF rounds the duration of a frame to 10 ms.

    Raises:
        InputError: the suffix or `fps` is not supported, there is no frame or too many, a frame has another size or is
            not uint8 RGB, or the output cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in PREVIEW_SUFFIXES:
        raise InputError(
            f"'{path}' ends in '{suffix}'; previews are written as {' or '.join(PREVIEW_SUFFIXES)}",
            code=ErrorCode.invalid_choice,
            field="path",
            value=suffix,
        )
    if not 0 < fps <= MAX_PREVIEW_FPS:
        raise InputError(
            f"fps is {fps}; previews have above 0 and up to {MAX_PREVIEW_FPS:g} frames per second",
            code=ErrorCode.out_of_range,
            field="fps",
            value=fps,
        )
    import imageio.v3 as imageio

    stacked = np.stack(_checked_frames(frames))
    options: dict[str, Any] = {"quality": WEBP_QUALITY} if suffix == ".webp" else {}
    encoded = imageio.imwrite(
        "<bytes>",
        stacked,
        plugin="pillow",
        extension=suffix,
        is_batch=True,
        duration=1000 / fps,
        loop=0,
        **options,
    )
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded)


def _checked_frames(frames: Iterable[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    checked: list[NDArray[np.uint8]] = []
    for frame in frames:
        if (
            frame.dtype != np.uint8
            or frame.ndim != 3
            or frame.shape[2] != 3
            or frame.shape != (checked or [frame])[0].shape
        ):
            raise InputError(
                f"frame {len(checked)} is {frame.dtype} {frame.shape}; give uint8 RGB frames of one shape (H, W, 3)",
                code=ErrorCode.shape_mismatch,
                field="frames",
                value=frame.shape,
            )
        if len(checked) == MAX_PREVIEW_FRAMES or frame.nbytes * (len(checked) + 1) > MAX_PREVIEW_BYTES:
            raise InputError(
                f"there are more than {len(checked)} frames of {frame.shape[1]}x{frame.shape[0]}; the limits are "
                f"{MAX_PREVIEW_FRAMES} frames and {MAX_PREVIEW_BYTES / 2**30:g} GiB; reduce the length, fps or height",
                code=ErrorCode.out_of_range,
                field="frames",
                value=len(checked),
            )
        checked.append(frame)
    if not checked:
        raise InputError("there is no frame to write; give at least one", code=ErrorCode.missing_value, field="frames")
    return checked
