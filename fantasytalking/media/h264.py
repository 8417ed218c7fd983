"""How pictures and sound are coded when they are written: H.264 tagged BT.709, AAC; the same input, the same bits."""

import platform
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from fantasytalking.common.errors import InputError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


def checked_frame_shape(frame: np.ndarray) -> tuple[int, ...]:
    """The shape that all frames must have, of the first of them.

    Raises:
        InputError: it is no RGB picture, or a side is odd.
    """
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise InputError(f"the first frame is {frame.dtype} {frame.shape}; give uint8 RGB frames of shape (H, W, 3)")
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        raise InputError(f"frames are {width}x{height}; H.264 takes even sides; use {width & ~1}x{height & ~1}")
    return frame.shape


def add_video_stream(
    container: Any, frame_rate: Fraction, shape: tuple[int, ...], crf: int, *, low_latency: bool = False
) -> Any:
    """Adds the picture's track; a live one gives every frame out at once, for a slightly larger file."""
    stream = container.add_stream("libx264", rate=frame_rate)
    stream.height, stream.width = shape[:2]
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    # 1 = BT.709 for matrix, primaries and transfer; range 1 = limited ("MPEG").
    context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
    # x264's output depends on the number of threads: a fixed one gives the same file on every machine.
    context.thread_count = 2
    stream.options = {"crf": str(crf), "preset": "medium"} | ({"tune": "zerolatency"} if low_latency else {})
    if platform.machine().lower() in ("x86_64", "amd64"):
        # With AVX-512 x264 165 was seen to differ from its own C code, and from run to run; every x86-64 has SSE 4.2.
        stream.options = {**stream.options, "x264-params": "asm=sse4.2"}
    return stream


def add_audio_stream(container: Any, sample_rate: int) -> Any:
    """Adds the sound's track."""
    stream = container.add_stream("aac", rate=sample_rate, layout="mono")
    stream.bit_rate = 96_000
    return stream


def to_yuv_frame(frame: np.ndarray, index: int) -> "VideoFrame":
    """Frame number `index` of a video, (H, W, 3) uint8 RGB, as H.264 takes it."""
    from av import VideoFrame
    from av.video.reformatter import ColorRange, Colorspace

    rgb = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    yuv = rgb.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
    yuv.pts = index
    return yuv


def audio_frame(audio: np.ndarray, begin: int, end: int, sample_rate: int) -> Any:
    """Samples `begin` .. `end` - 1 of `audio`, silence where it has none."""
    from av import AudioFrame

    block = np.zeros((1, end - begin), np.float32)
    known = audio[begin:end]
    block[0, : len(known)] = np.clip(known, -1, 1)
    frame = AudioFrame.from_ndarray(block, format="fltp", layout="mono")
    frame.sample_rate = sample_rate
    frame.pts = begin
    return frame
