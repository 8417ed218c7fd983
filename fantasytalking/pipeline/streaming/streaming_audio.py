"""What each window of a stream hears: wav2vec2 over a bounded stretch of sound, read no further than it must be.

A video that is made whole normalises its sound over its whole length. A stream cannot: every window's stretch is
normalised by itself, with up to `PAST_SECONDS` of what came before, about as long as what wav2vec2 was trained on.
Frame 0, which every window begins with, keeps what the first window heard.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fantasytalking.audio_windows import (
    RELEASED_WIDENING,
    AudioWindows,
    cut_windows,
    frame_windows,
    official_ranges,
    window_length,
)
from fantasytalking.common.errors import InputError
from fantasytalking.encoders.wav2vec import SAMPLE_RATE, STRIDE, AudioEncoder, token_count
from fantasytalking.media.audio_stream import SampleQueue
from fantasytalking.pipeline.streaming.window_history import CausalWindow
from fantasytalking.pipeline.video_conditions import Timing

PAST_SECONDS = 8.0
LOOK_AHEAD_SECONDS = 0.5
"""Of sound after a window's last frame, for wav2vec2's sake; what a window hears itself ends within a fifth of it."""


class Hearing:
    """The sound of a stream as the model hears it.

    Args:
        encoder: wav2vec2.
        samples: at 16 kHz.
        fps: frames a second.
        stride: frames of a latent frame.
        rule, span: of the audio windows, as in `AdapterConfig`.
    """

    def __init__(
        self, encoder: AudioEncoder, samples: SampleQueue, fps: float, stride: int, rule: str, span: float
    ) -> None:
        self.encoder, self.samples, self.fps, self.stride = encoder, samples, fps, stride
        self.rule, self.span = rule, span
        self._first: AudioWindows | None = None
        self._length = 0

    def frames_within(self, latent_frames: int) -> Timing | None:
        """Waits for the sound of that many latent frames; gives the video's timing when it ends with them, else None.

        Raises:
            InputError: there is no sound at all.
        """
        shown = self._generated(latent_frames)
        # One frame more and a half are needed to know that there is one more.
        seconds = max(shown / self.fps + LOOK_AHEAD_SECONDS, (shown + 1.5) / self.fps)
        self.samples.wait_for(math.ceil(seconds * SAMPLE_RATE))
        if not self.samples.ended:
            return None
        if not self.samples.known:
            raise InputError("the sound is empty; give one with samples")
        timing = Timing(max(1, round(self.samples.known / SAMPLE_RATE * self.fps)), self.fps, self.stride)
        return timing if timing.latent_frames <= latent_frames else None

    def window(self, window: CausalWindow) -> AudioWindows:
        """(1, L, tokens, D) and mask: what the latent frames of a window hear."""
        first_token, features = self._encode(window)
        if self.rule == "official":
            heard = self._official(window, first_token, features)
        else:
            heard = self._in_seconds(window, first_token, features)
        if self._first is None:
            self._first = AudioWindows(*(part[:, :1] for part in heard))
            return heard
        return AudioWindows(*(torch.cat(parts, dim=1) for parts in zip(self._first, heard, strict=True)))

    def _generated(self, latent_frames: int) -> int:
        return 1 + self.stride * (latent_frames - 1)

    def _encode(self, window: CausalWindow) -> tuple[int, Tensor]:
        """Number of the first token, and tokens (1, T, D) up to the end of the window.

        As for a video that is made whole, sound that ends before its last latent frame is followed by silence, and none
        that comes after it is heard.
        """
        begin = max(0.0, self._generated(window.start) / self.fps - PAST_SECONDS)
        first_token = math.floor(begin * SAMPLE_RATE / STRIDE)
        until = self._generated(window.end) / self.fps
        last = round((until if window.is_last else until + LOOK_AHEAD_SECONDS) * SAMPLE_RATE)
        if self.rule == "seconds":
            last = max(last, (window_length(self.span) + 1) * STRIDE)
        samples: NDArray[np.float32] = self.samples.take(first_token * STRIDE, last)
        samples = np.pad(samples, (0, max(0, last - first_token * STRIDE - len(samples))))
        return first_token, self.encoder.encode(samples)[None]

    def _in_seconds(self, window: CausalWindow, first_token: int, features: Tensor) -> AudioWindows:
        # A frame before the stretch stands for frame 0 of a clip, as the rule counts; it is kept where it is frame 0.
        frames = torch.arange(self.stride * (window.start - 1), self._generated(window.end), dtype=torch.float64)
        heard = frame_windows(features, frames / self.fps - first_token * STRIDE / SAMPLE_RATE, self.span)
        return heard if self._first is None else AudioWindows(*(part[:, 1:] for part in heard))

    def _official(self, window: CausalWindow, first_token: int, features: Tensor) -> AudioWindows:
        """The released rule divides a clip's tokens by its frames: here those of the video as far as it is known.

        The windows' length follows from that too; it stays what it is at first.
        """
        frames = self._generated(window.end)
        ranges = official_ranges(token_count(round(frames / self.fps * SAMPLE_RATE)), frames)
        if self._first is None:
            self._length = ranges[0][1] - ranges[0][0] + 1 + 2 * RELEASED_WIDENING
        wanted = ranges if self._first is None else ranges[window.start :]
        centres = torch.tensor([(first + last) // 2 for first, last in wanted])
        return cut_windows(features, centres - self._length // 2 - first_token, self._length)
