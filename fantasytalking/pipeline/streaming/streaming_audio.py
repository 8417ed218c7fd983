"""What each window of a stream hears: wav2vec2 over a bounded stretch of sound, read no further than it must be.

A video that is made whole normalises its sound over its whole length. A stream cannot: every window's stretch is
normalised by itself, with up to `LEFT_CONTEXT_SECONDS` of what came before, about as long as what wav2vec2 was trained
on. Frame 0, which every window begins with, keeps what the first window heard.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fantasytalking.audio_windows import (
    RELEASED_WINDOW_MARGIN,
    AudioWindows,
    cut_windows,
    released_token_ranges,
    timed_frame_windows,
    tokens_per_window,
)
from fantasytalking.common.errors import InputError
from fantasytalking.encoders.wav2vec import WAV2VEC_SAMPLE_RATE, WAV2VEC_STRIDE, AudioEncoder, token_count
from fantasytalking.media.audio_stream import AudioSampleQueue
from fantasytalking.pipeline.streaming.window_history import CausalWindow
from fantasytalking.pipeline.video_conditions import Timeline

LEFT_CONTEXT_SECONDS = 8.0
LOOKAHEAD_SECONDS = 0.5
"""Of sound after a window's last frame, for wav2vec2's sake; what a window hears itself ends within a fifth of it."""


class StreamingAudioEncoder:
    """The sound of a stream as the model hears it.

    Args:
        encoder: wav2vec2.
        samples: at 16 kHz.
        fps: frames a second.
        temporal_stride: frames of a latent frame.
        rule, span: of the audio windows, as in `AdapterConfig`.
    """

    def __init__(
        self,
        encoder: AudioEncoder,
        samples: AudioSampleQueue,
        fps: float,
        temporal_stride: int,
        window_rule: str,
        window_seconds: float,
    ) -> None:
        self.encoder, self.samples, self.fps, self.temporal_stride = encoder, samples, fps, temporal_stride
        self.window_rule, self.window_seconds = window_rule, window_seconds
        self._first_frame_window: AudioWindows | None = None
        self._released_window_length = 0

    def wait_for_frames(self, num_latent_frames: int) -> Timeline | None:
        """Waits for the sound of that many latent frames; gives the video's timing when it ends with them, else None.

        Raises:
            InputError: there is no sound at all.
        """
        shown = self._padded_frames(num_latent_frames)
        # One frame more and a half are needed to know that there is one more.
        seconds = max(shown / self.fps + LOOKAHEAD_SECONDS, (shown + 1.5) / self.fps)
        self.samples.wait_for(math.ceil(seconds * WAV2VEC_SAMPLE_RATE))
        if not self.samples.ended:
            return None
        if not self.samples.available:
            raise InputError("the sound is empty; give one with samples")
        timing = Timeline(
            max(1, round(self.samples.available / WAV2VEC_SAMPLE_RATE * self.fps)), self.fps, self.temporal_stride
        )
        return timing if timing.num_latent_frames <= num_latent_frames else None

    def encode_window(self, window: CausalWindow) -> AudioWindows:
        """(1, L, tokens, D) and mask: what the latent frames of a window hear."""
        first_token, features = self._encode_features(window)
        if self.window_rule == "official":
            heard = self._released_windows(window, first_token, features)
        else:
            heard = self._timed_windows(window, first_token, features)
        if self._first_frame_window is None:
            self._first_frame_window = AudioWindows(*(part[:, :1] for part in heard))
            return heard
        return AudioWindows(*(torch.cat(parts, dim=1) for parts in zip(self._first_frame_window, heard, strict=True)))

    def _padded_frames(self, num_latent_frames: int) -> int:
        return 1 + self.temporal_stride * (num_latent_frames - 1)

    def _encode_features(self, window: CausalWindow) -> tuple[int, Tensor]:
        """Number of the first token, and tokens (1, T, D) up to the end of the window.

        As for a video that is made whole, sound that ends before its last latent frame is followed by silence, and none
        that comes after it is heard.
        """
        begin = max(0.0, self._padded_frames(window.start) / self.fps - LEFT_CONTEXT_SECONDS)
        first_token = math.floor(begin * WAV2VEC_SAMPLE_RATE / WAV2VEC_STRIDE)
        until = self._padded_frames(window.end) / self.fps
        last = round((until if window.is_last else until + LOOKAHEAD_SECONDS) * WAV2VEC_SAMPLE_RATE)
        if self.window_rule == "seconds":
            last = max(last, (tokens_per_window(self.window_seconds) + 1) * WAV2VEC_STRIDE)
        samples: NDArray[np.float32] = self.samples.take(first_token * WAV2VEC_STRIDE, last)
        samples = np.pad(samples, (0, max(0, last - first_token * WAV2VEC_STRIDE - len(samples))))
        return first_token, self.encoder.encode(samples)[None]

    def _timed_windows(self, window: CausalWindow, first_token: int, features: Tensor) -> AudioWindows:
        # A frame before the stretch stands for frame 0 of a clip, as the rule counts; it is kept where it is frame 0.
        frames = torch.arange(
            self.temporal_stride * (window.start - 1), self._padded_frames(window.end), dtype=torch.float64
        )
        heard = timed_frame_windows(
            features, frames / self.fps - first_token * WAV2VEC_STRIDE / WAV2VEC_SAMPLE_RATE, self.window_seconds
        )
        return heard if self._first_frame_window is None else AudioWindows(*(part[:, 1:] for part in heard))

    def _released_windows(self, window: CausalWindow, first_token: int, features: Tensor) -> AudioWindows:
        """The released rule divides a clip's tokens by its frames: here those of the video as far as it is known.

        The windows' length follows from that too; it stays what it is at first.
        """
        frames = self._padded_frames(window.end)
        ranges = released_token_ranges(token_count(round(frames / self.fps * WAV2VEC_SAMPLE_RATE)), frames)
        if self._first_frame_window is None:
            self._released_window_length = ranges[0][1] - ranges[0][0] + 1 + 2 * RELEASED_WINDOW_MARGIN
        wanted = ranges if self._first_frame_window is None else ranges[window.start :]
        centres = torch.tensor([(first + last) // 2 for first, last in wanted])
        return cut_windows(
            features, centres - self._released_window_length // 2 - first_token, self._released_window_length
        )
