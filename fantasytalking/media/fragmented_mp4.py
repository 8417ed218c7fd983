"""Writes a fragmented MP4, which can be played while it is written, to a file or a pipe."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.os_errors import describe_os_error
from fantasytalking.media.h264 import (
    add_audio_stream,
    add_video_stream,
    audio_frame,
    check_frame_rate,
    check_same_shape,
    checked_frame_shape,
    to_yuv_frame,
)

FRAGMENT_SECONDS = 0.2
"""Length of a fragment: the delay with which a player sees what was written."""

# empty_moov: the header comes first; delay_moov: it contains the AAC delay, so that video and audio start together.
_MUXER_OPTIONS = {
    "movflags": "+empty_moov+delay_moov+default_base_moof",
    "frag_duration": str(round(FRAGMENT_SECONDS * 1e6)),
    "flush_packets": "1",
}


class FragmentedMp4Writer:
    """Encodes H.264 and AAC as `write_video` does, without lookahead, and writes them in fragments.

    Args:
        target: a path ending in .mp4, or a binary stream that need not seek (standard output).
        fps: frames per second, above 0 and up to 240.
        sample_rate: Hz of the audio.
        crf: x264's constant rate factor, as in `write_video`.

    Raises:
        InputError: `fps` is out of range.
    """

    def __init__(self, target: Path | BinaryIO, *, fps: float, sample_rate: int, crf: int = 16) -> None:
        check_frame_rate(fps)
        self._target, self._sample_rate, self._crf = target, sample_rate, crf
        self._frame_rate = Fraction(fps).limit_denominator(1001)
        self._shape: tuple[int, ...] = ()
        self._container: Any = None
        self._video_stream: Any = None
        self._audio_stream: Any = None
        self.num_frames = 0
        """Number of frames written so far."""

    def __enter__(self) -> "FragmentedMp4Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._container is None:
            return
        if kind is not None:
            # The encoders are not flushed: after a failure their last frames are not needed.
            self._container = None
            return
        with self._write_errors():
            self._container.mux(self._video_stream.encode(None))
            self._container.mux(self._audio_stream.encode(None))
            self._container.close()

    def samples_until(self, num_frames: int) -> int:
        """Returns the number of audio samples that belong to the first `num_frames` frames."""
        return round(num_frames / self._frame_rate * self._sample_rate)

    def write(self, frame: NDArray[np.uint8], audio: NDArray[np.float32]) -> None:
        """Adds a frame with its audio.

        Args:
            frame: (H, W, 3) uint8 RGB with even height and width.
            audio: (samples,) in [-1, 1], samples `samples_until(num_frames)` to `samples_until(num_frames + 1)`;
                missing samples are silent.

        Raises:
            InputError: a side is odd, the size changes, or the target cannot be written (its reader has closed it).
        """
        with self._write_errors():
            if self._container is None:
                self._open(frame)
            check_same_shape(frame, self._shape, self.num_frames)
            begin, end = (self.samples_until(count) for count in (self.num_frames, self.num_frames + 1))
            self._container.mux(self._video_stream.encode(to_yuv_frame(frame, self.num_frames)))
            block = audio_frame(audio, 0, end - begin, self._sample_rate)
            block.pts = begin
            self._container.mux(self._audio_stream.encode(block))
            self.num_frames += 1

    def _open(self, frame: NDArray[np.uint8]) -> None:
        import av

        self._shape = checked_frame_shape(frame)
        target = str(self._target) if isinstance(self._target, Path) else self._target
        self._container = av.open(target, "w", format="mp4", options=_MUXER_OPTIONS)
        self._video_stream = add_video_stream(
            self._container, self._frame_rate, self._shape, self._crf, low_latency=True
        )
        self._audio_stream = add_audio_stream(self._container, self._sample_rate)

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        import av

        try:
            yield
        except (av.FFmpegError, OSError) as error:
            if isinstance(self._target, Path) and describe_os_error(error.errno) is not None:
                raise
            name = f"'{self._target}'" if isinstance(self._target, Path) else "the video to its reader"
            reason = error.strerror or type(error).__name__
            raise InputError(
                f"cannot write {name} ({reason}); keep the reader open, or choose another output",
                code=ErrorCode.output_exists,
                field="target",
                value=str(self._target),
            ) from error
