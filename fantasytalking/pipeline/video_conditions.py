"""Everything that is encoded once for a video, and the conditions of each window and branch made of it.

Axes: T text tokens, F latent frames of the video, L latent frames of a window, h and w latent height and width.
"""

import logging
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fantasytalking.audio_windows import AudioWindows, frame_windows, official_windows, window_length
from fantasytalking.common.errors import InputError
from fantasytalking.conditions import Conditions, ExpressionCondition
from fantasytalking.encoders.wan import TextEncoder, VideoAutoencoder, clean_prompt, first_frame_mask, pad_text
from fantasytalking.encoders.wav2vec import SAMPLE_RATE, STRIDE, AudioEncoder
from fantasytalking.models.cfg_branches import Branch
from fantasytalking.pipeline.guidance import Told
from fantasytalking.pipeline.sliding_window import Window

logger = logging.getLogger(__name__)

MAX_SECONDS = 4 * 3600.0


@dataclass(frozen=True)
class Timing:
    """How long a video is."""

    frames: int
    """Frames shown: those of the driver, or the sound's length, rounded to the nearest."""
    fps: float
    stride: int
    """Frames of a latent frame, the first excepted."""

    @classmethod
    def of(cls, samples: int, fps: float, stride: int) -> "Timing":
        """The timing of a sound of so many samples at 16 kHz.

        Raises:
            InputError: no sound, more than four hours of it, or a frame rate outside 1 to 120.
        """
        _check_rate(fps)
        if not 0 < samples <= MAX_SECONDS * SAMPLE_RATE:
            raise InputError(
                f"the sound has {samples / SAMPLE_RATE:.2f} s; above 0 and up to {MAX_SECONDS:g} s is needed"
            )
        return cls(max(1, round(samples / SAMPLE_RATE * fps)), fps, stride)

    @classmethod
    def of_frames(cls, frames: int, fps: float, stride: int) -> "Timing":
        """The timing of so many frames.

        Raises:
            InputError: none, more than four hours of them, or a frame rate outside 1 to 120.
        """
        _check_rate(fps)
        if not 0 < frames <= MAX_SECONDS * fps:
            raise InputError(f"there are {frames} frames; 1 to {MAX_SECONDS:g} s of them are needed")
        return cls(frames, fps, stride)

    @property
    def latent_frames(self) -> int:
        """F: the fewest that hold all frames, and 2 at least, so that a frame's time is known."""
        return 1 + max(1, -(-(self.frames - 1) // self.stride))

    @property
    def generated(self) -> int:
        """Frames that the latent frames hold; those beyond `frames` are not shown."""
        return 1 + self.stride * (self.latent_frames - 1)


class WindowConditions(NamedTuple):
    """What changes from one window of a video to the next, on the model's device."""

    audio: AudioWindows
    """(1, L, tokens, D) and mask."""
    expression: ExpressionCondition | None
    """Its gate is each call's own."""
    speakers: Tensor | None
    """(1, P, L, h, w) bool, which tokens hear whom."""


@dataclass(frozen=True)
class VideoConditions:
    """What a video is denoised with: on the model's device in its type; sound, expressions and regions on the CPU."""

    text: Tensor
    """(1, T, D) states of the prompt."""
    no_text: Tensor
    """(1, T, D) states of the negative prompt; the very same object as `text` when both prompts are alike."""
    image: Tensor
    """(1, I, D) CLIP tokens of the portrait."""
    latents: Tensor
    """(1, 20, L, h, w) first-frame mask and latents, the same for every window."""
    audio: AudioWindows
    """(1, F, tokens, D) and mask."""
    face: Tensor
    """(1, P, 512)."""
    motion: Tensor
    """(1, 2)."""
    face_scale: float
    """Weight of the face: 0 = dropped, 1 = as trained."""
    is_heard: bool = True
    """False where nobody has a sound; then `audio` is masked throughout."""
    expression: tuple[Tensor, Tensor] | None = None
    """(1, P, 1 + 4 (F - 1), D) features of what drives the faces and where they are present; None = nothing does."""
    expression_scale: float = 1.0
    """Weight of the expressions, 1 = as trained."""
    regions: Tensor | None = None
    """(P, 1, h, w) bool, which video tokens are whose; None = one person has all."""
    _joined: dict[tuple[Branch, ...], tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    @property
    def told(self) -> Told:
        """What guidance has anything to add to."""
        return Told(self.text is not self.no_text, self.is_heard, self.expression is not None)

    def of(self, branches: tuple[Branch, ...], within: WindowConditions) -> Conditions:
        """The conditions of one call: one sample for each branch, what they share given once.

        Text and gates come as the same objects at every step, as a `ConditionCache` needs it.
        """
        if branches not in self._joined:
            texts = [self.text if branch.text else self.no_text for branch in branches]
            alike = all(text is texts[0] for text in texts)
            gates = [[float(branch.audio), self.face_scale] for branch in branches]
            driven = [branch.expression * self.expression_scale for branch in branches]
            joined = texts[0] if alike else torch.cat(texts)
            self._joined[branches] = (joined, self.motion.new_tensor(gates), self.motion.new_tensor(driven))
        text, gate, driven_gate = self._joined[branches]
        expression = within.expression if any(branch.expression for branch in branches) else None
        return Conditions(
            text=text,
            image=self.image,
            latents=self.latents,
            audio=within.audio.tokens,
            audio_mask=within.audio.mask,
            face=self.face,
            motion=self.motion,
            gate=gate,
            expression=None if expression is None else expression._replace(gate=driven_gate),
            speaker_regions=within.speakers,
        )

    def within(self, window: Window) -> WindowConditions:
        """What one window hears and is driven by.

        Its latent frames keep their own sound and their own four frames of expression. The one token more that the
        first of its stretch reads, of the frame before, is frame 0's here: a window is to the model a clip.
        """
        tokens, mask = (tensor[:, window.frames] for tensor in self.audio)
        audio = AudioWindows(tokens.to(self.motion), mask.to(self.motion.device))
        regions = self.regions
        if regions is not None:
            regions = regions.expand(-1, len(window.frames), -1, -1)[None].to(self.motion.device)
        speakers = regions if self.is_heard and regions is not None and regions.shape[1] > 1 else None
        if self.expression is None:
            return WindowConditions(audio, None, speakers)
        groups = window.frames[1:, None] * 4 + torch.arange(-3, 1)  # frames 4k-3 .. 4k of latent frame k
        features, present = (
            tensor[:, :, torch.cat([window.frames[:1], groups.flatten()])] for tensor in self.expression
        )
        driving = ExpressionCondition(
            features.to(self.motion), present.to(self.motion.device), regions, self.motion.new_zeros(1)
        )
        return WindowConditions(audio, driving, speakers)


def _check_rate(fps: float) -> None:
    if not 1 <= fps <= 120:
        raise InputError(f"fps is {fps}; it must be 1 to 120 frames a second")


def encode_text(encoder: TextEncoder, prompt: str, length: int, dim: int) -> Tensor:
    """(1, length, dim) states of a prompt, padded with zeros as Wan does.

    An empty prompt is zeros throughout: what training puts in the place of a dropped prompt. A longer one is cut, which
    is told.
    """
    prompt = clean_prompt(prompt)
    if not prompt:
        return torch.zeros(1, length, dim)
    tokens = len(encoder.tokenizer(prompt).input_ids)
    if tokens > length:
        logger.warning(
            "note: the prompt '%.40s...' has %d tokens; the model reads the first %d", prompt, tokens, length
        )
    return pad_text(encoder.encode(prompt), length)[None].cpu()


def encode_sound(
    encoder: AudioEncoder, samples: NDArray[np.float32], timing: Timing, rule: str, span: float
) -> AudioWindows:
    """The audio window of every latent frame of the video.

    The sound is encoded whole, so that a window hears what comes before and after it wherever it is cut. It is cut or
    padded with silence to the generated frames, as the clips of training are exactly as long as their frames.
    """
    seconds = timing.generated / timing.fps
    needed = round(seconds * SAMPLE_RATE)
    if rule == "seconds":
        needed = max(needed, (window_length(span) + 1) * STRIDE)
    samples = np.pad(samples, (0, max(0, needed - len(samples))))[:needed]
    features = encoder.encode(samples)[None]
    if rule == "official":
        return official_windows(features, timing.generated)
    times = torch.arange(timing.generated, dtype=torch.float64) / timing.fps
    return frame_windows(features, times, span)


def encode_first_frame(autoencoder: VideoAutoencoder, pixels: NDArray[np.uint8], latent_frames: int) -> Tensor:
    """(1, 20, L, h, w): mask and latents of [portrait, nothing ...]."""
    picture = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    latents = autoencoder.encode_first_frame(picture, 1 + autoencoder.temporal_stride * (latent_frames - 1))
    return torch.cat([first_frame_mask(latents, autoencoder.temporal_stride), latents], dim=1)
