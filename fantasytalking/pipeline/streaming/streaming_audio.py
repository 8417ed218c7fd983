"""Encodes the audio of each window of a stream: a bounded stretch, read no further than needed.

A video that is generated whole normalizes its audio over the whole length. A stream cannot: the stretch of each window
is normalized by itself, with up to `LEFT_CONTEXT_SECONDS` of earlier audio, about the length that wav2vec2 was trained
on. Whisper's encoder pads a stretch with silence to its 30 s. Frame 0, which starts every window, keeps the audio
window of the first window.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE
from fantasytalking.audio_windows import (
    RELEASED_WINDOW_MARGIN,
    AudioWindows,
    cut_windows,
    released_token_ranges,
    timed_frame_windows,
    tokens_per_window,
)
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.encoders.audio_features import AudioEncoder
from fantasytalking.latent_geometry import video_frame_count
from fantasytalking.media.audio_stream import AudioSampleQueue
from fantasytalking.pipeline.streaming.window_history import CausalWindow
from fantasytalking.pipeline.timeline import Timeline

LEFT_CONTEXT_SECONDS = 8.0
"""Seconds of audio before a window that the audio encoder reads."""
LOOKAHEAD_SECONDS = 0.5
"""Seconds of audio after the last frame of a window that the audio encoder reads; the audio windows end within 0.2 s of
that frame."""


class StreamingAudioEncoder:
    """Encodes the audio of a stream window by window.

    Args:
        encoder: encoder of the speech.
        samples: audio at 16 kHz.
        fps: frames per second.
        temporal_stride: frames per latent frame.
        window_rule, window_seconds: of the audio windows, as in `AdapterConfig`.
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
        """Waits for the audio of that many latent frames; returns the timeline if it ends within them, else None.

        Raises:
            InputError: the audio is empty.
        """
        num_frames = self._padded_frames(num_latent_frames)
        # Whether there is a further frame is known one and a half frames later.
        seconds = max(num_frames / self.fps + LOOKAHEAD_SECONDS, (num_frames + 1.5) / self.fps)
        self.samples.wait_for(math.ceil(seconds * AUDIO_SAMPLE_RATE))
        if not self.samples.ended:
            return None
        if not self.samples.available:
            raise InputError(
                "the audio is empty; give audio with samples", code=ErrorCode.out_of_range, field="audio", value=0
            )
        num_frames = max(1, round(self.samples.available / AUDIO_SAMPLE_RATE * self.fps))
        timeline = Timeline(num_frames, self.fps, self.temporal_stride)
        return timeline if timeline.num_latent_frames <= num_latent_frames else None

    def encode_window(self, window: CausalWindow) -> AudioWindows:
        """Returns the audio windows (1, L, tokens, D) and mask of the latent frames of a window."""
        first_token, features = self._encode_features(window)
        if self.window_rule == "official":
            windows = self._released_windows(window, first_token, features)
        else:
            windows = self._timed_windows(window, first_token, features)
        if self._first_frame_window is None:
            self._first_frame_window = AudioWindows(*(part[:, :1] for part in windows))
            return windows
        return AudioWindows(*(torch.cat(parts, dim=1) for parts in zip(self._first_frame_window, windows, strict=True)))

    def _padded_frames(self, num_latent_frames: int) -> int:
        return video_frame_count(num_latent_frames, self.temporal_stride)

    def _encode_features(self, window: CausalWindow) -> tuple[int, Tensor]:
        """Index of the first token, and tokens (1, T, D) up to the end of the window.

        As in a video that is generated whole, silence follows audio that ends before the last latent frame, and audio
        after it is not read.
        """
        begin = max(0.0, self._padded_frames(window.start) / self.fps - LEFT_CONTEXT_SECONDS)
        stride = self.encoder.stride
        first_token = math.floor(begin * AUDIO_SAMPLE_RATE / stride)
        until = self._padded_frames(window.end) / self.fps
        last = round((until if window.is_last else until + LOOKAHEAD_SECONDS) * AUDIO_SAMPLE_RATE)
        if self.window_rule == "seconds":
            last = max(last, (tokens_per_window(self.window_seconds, self.encoder.timing) + 1) * stride)
        samples: NDArray[np.float32] = self.samples.take(first_token * stride, last)
        samples = np.pad(samples, (0, max(0, last - first_token * stride - len(samples))))
        return first_token, self.encoder.encode(samples)[None]

    def _timed_windows(self, window: CausalWindow, first_token: int, features: Tensor) -> AudioWindows:
        # The rule counts from frame 0 of a clip: the frame before the stretch takes its place.
        frames = torch.arange(
            self.temporal_stride * (window.start - 1), self._padded_frames(window.end), dtype=torch.float64
        )
        windows = timed_frame_windows(
            features,
            frames / self.fps - first_token * self.encoder.stride / AUDIO_SAMPLE_RATE,
            self.temporal_stride,
            self.window_seconds,
            self.encoder.timing,
        )
        return windows if self._first_frame_window is None else AudioWindows(*(part[:, 1:] for part in windows))

    def _released_windows(self, window: CausalWindow, first_token: int, features: Tensor) -> AudioWindows:
        """The released rule divides the tokens of a clip by its frames: here those of the video as far as it is known.

        The length of the windows follows from that too and is fixed by the first window.
        """
        frames = self._padded_frames(window.end)
        num_tokens = self.encoder.token_count(round(frames / self.fps * AUDIO_SAMPLE_RATE))
        ranges = released_token_ranges(num_tokens, frames, self.temporal_stride)
        if self._first_frame_window is None:
            self._released_window_length = ranges[0][1] - ranges[0][0] + 1 + 2 * RELEASED_WINDOW_MARGIN
        selected = ranges if self._first_frame_window is None else ranges[window.start :]
        centers = torch.tensor([(first + last) // 2 for first, last in selected])
        return cut_windows(
            features, centers - self._released_window_length // 2 - first_token, self._released_window_length
        )
