"""Encodes video as H.264 tagged BT.709 and audio as AAC; equal input gives equal bytes."""

import platform
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_FPS

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


def check_frame_rate(fps: float) -> None:
    """Raises `InputError` if `fps` is not above 0 and up to `MAX_FPS`."""
    if not 0 < fps <= MAX_FPS:
        raise InputError(
            f"fps is {fps}; it must be above 0 and up to {MAX_FPS:g} frames per second",
            code=ErrorCode.out_of_range,
            field="fps",
            value=fps,
        )


def checked_frame_shape(frame: np.ndarray) -> tuple[int, ...]:
    """Returns the shape (H, W, 3) of the first frame, which all frames must have.

    Raises:
        InputError: the frame is not a uint8 RGB image, or a side is odd.
    """
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise InputError(
            f"the first frame is {frame.dtype} {frame.shape}; give uint8 RGB frames of shape (H, W, 3)",
            code=ErrorCode.shape_mismatch,
            field="frames",
            value=frame.shape,
        )
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        raise InputError(
            f"frames are {width}x{height}; H.264 needs even sides; use {width & ~1}x{height & ~1}",
            code=ErrorCode.out_of_range,
            field="frames",
            value=frame.shape,
        )
    return frame.shape


def check_same_shape(frame: np.ndarray, shape: tuple[int, ...], index: int) -> None:
    """Raises `InputError` if frame number `index` is not uint8 of the first frame's `shape`."""
    if frame.shape != shape or frame.dtype != np.uint8:
        raise InputError(
            f"frame {index} is {frame.dtype} {frame.shape}, the first frame is uint8 {shape}; give equal frames",
            code=ErrorCode.shape_mismatch,
            field="frames",
            value=frame.shape,
        )


def add_video_stream(
    container: Any, frame_rate: Fraction, shape: tuple[int, ...], crf: int, *, low_latency: bool = False
) -> Any:
    """Adds the video track; with `low_latency` every frame is emitted at once, for a slightly larger file."""
    stream = container.add_stream("libx264", rate=frame_rate)
    stream.height, stream.width = shape[:2]
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    # 1 = BT.709 for matrix, primaries and transfer; range 1 = limited ("MPEG").
    context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
    # x264's output depends on the number of threads: a fixed number gives the same file on every machine.
    context.thread_count = 2
    stream.options = {"crf": str(crf), "preset": "medium"} | ({"tune": "zerolatency"} if low_latency else {})
    if platform.machine().lower() in ("x86_64", "amd64"):
        # With AVX-512, x264 165 differed from its own C code and between runs; every x86-64 processor has SSE 4.2.
        stream.options = {**stream.options, "x264-params": "asm=sse4.2"}
    return stream


def add_audio_stream(container: Any, sample_rate: int) -> Any:
    """Adds the mono audio track."""
    stream = container.add_stream("aac", rate=sample_rate, layout="mono")
    stream.bit_rate = 96_000
    return stream


def to_yuv_frame(frame: np.ndarray, index: int) -> "VideoFrame":
    """Converts frame number `index` of a video, (H, W, 3) uint8 RGB, to yuv420p, BT.709, limited range."""
    from av import VideoFrame
    from av.video.reformatter import ColorRange, Colorspace

    rgb = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    yuv = rgb.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
    yuv.pts = index
    return yuv


def audio_frame(audio: np.ndarray, begin: int, end: int, sample_rate: int) -> Any:
    """Returns samples `begin` to `end` - 1 of `audio` as a frame; missing samples are silent."""
    from av import AudioFrame

    block = np.zeros((1, end - begin), np.float32)
    known = audio[begin:end]
    block[0, : len(known)] = np.clip(known, -1, 1)
    frame = AudioFrame.from_ndarray(block, format="fltp", layout="mono")
    frame.sample_rate = sample_rate
    frame.pts = begin
    return frame
