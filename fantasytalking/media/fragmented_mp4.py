"""A video that is played while it is being made: fragmented mp4, to a file or to a pipe."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import InputError
from fantasytalking.media.h264 import add_audio_stream, add_video_stream, audio_frame, checked_frame_shape, to_yuv_frame

FRAGMENT_SECONDS = 0.2
"""A player sees what was written up to so long before."""

# empty_moov: what a player must know stands first; delay_moov: with the delay of AAC in it, so that picture and sound
# begin together.
_MUXER_OPTIONS = {
    "movflags": "+empty_moov+delay_moov+default_base_moof",
    "frag_duration": str(round(FRAGMENT_SECONDS * 1e6)),
    "flush_packets": "1",
}


class FragmentedMp4Writer:
    """H.264 and AAC as `write_video` codes them, without looking ahead, given out in fragments.

    Args:
        target: a path ending in .mp4, or a binary stream that need not seek (standard output).
        fps: frames a second.
        sample_rate: of the sound.
        crf: as of `write_video`.
    """

    def __init__(self, target: Path | BinaryIO, *, fps: float, sample_rate: int, crf: int = 16) -> None:
        if not 0 < fps <= 240:
            raise InputError(f"fps is {fps}; videos are written at above 0 and up to 240 frames a second")
        self._target, self._sample_rate, self._crf = target, sample_rate, crf
        self._frame_rate = Fraction(fps).limit_denominator(1001)
        self._shape: tuple[int, ...] = ()
        self._container: Any = None
        self._video_stream: Any = None
        self._audio_stream: Any = None
        self.num_frames = 0
        """Written so far."""

    def __enter__(self) -> "FragmentedMp4Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._container is None:
            return
        if kind is not None:
            # The encoders are not emptied: after a failure nobody wants their last frames.
            self._container = None
            return
        with self._write_errors():
            self._container.mux(self._video_stream.encode(None))
            self._container.mux(self._audio_stream.encode(None))
            self._container.close()

    def samples_until(self, num_frames: int) -> int:
        """Of sound that belong to the first `num_frames` frames."""
        return round(num_frames / self._frame_rate * self._sample_rate)

    def write(self, frame: NDArray[np.uint8], audio: NDArray[np.float32]) -> None:
        """Adds a frame with its sound.

        Args:
            frame: (H, W, 3) RGB; sides must be even.
            audio: (samples,) in [-1, 1], `samples_until(num_frames)` to `samples_until(num_frames + 1)`; silence
                beyond.

        Raises:
            InputError: odd or changing sizes, or the target cannot be written to (its reader has gone).
        """
        with self._write_errors():
            if self._container is None:
                self._open(frame)
            if frame.shape != self._shape or frame.dtype != np.uint8:
                raise InputError(f"frame {self.num_frames + 1} is {frame.dtype} {frame.shape}, not uint8 {self._shape}")
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
            name = f"'{self._target}'" if isinstance(self._target, Path) else "the video to its reader"
            reason = error.strerror or type(error).__name__
            raise InputError(f"cannot write {name}: {reason}; keep it open, or choose another --output") from error
