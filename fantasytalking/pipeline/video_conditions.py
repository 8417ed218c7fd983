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

from fantasytalking.audio_windows import AudioWindows, released_frame_windows, timed_frame_windows, tokens_per_window
from fantasytalking.common.errors import InputError
from fantasytalking.conditions import Conditions, ExpressionCondition
from fantasytalking.encoders.wan import TextEncoder, VideoAutoencoder, clean_prompt, first_frame_mask, pad_prompt_embeds
from fantasytalking.encoders.wav2vec import WAV2VEC_SAMPLE_RATE, WAV2VEC_STRIDE, AudioEncoder
from fantasytalking.models.cfg_branches import GuidanceBranch
from fantasytalking.pipeline.guidance import AvailableConditions
from fantasytalking.pipeline.sliding_window import LatentWindow

logger = logging.getLogger(__name__)

MAX_VIDEO_SECONDS = 4 * 3600.0


@dataclass(frozen=True)
class Timeline:
    """How long a video is."""

    num_frames: int
    """Frames shown: those of the driver, or the sound's length, rounded to the nearest."""
    fps: float
    temporal_stride: int
    """Frames of a latent frame, the first excepted."""

    @classmethod
    def from_samples(cls, num_samples: int, fps: float, temporal_stride: int) -> "Timeline":
        """The timing of a sound of so many samples at 16 kHz.

        Raises:
            InputError: no sound, more than four hours of it, or a frame rate outside 1 to 120.
        """
        _check_fps(fps)
        if not 0 < num_samples <= MAX_VIDEO_SECONDS * WAV2VEC_SAMPLE_RATE:
            raise InputError(
                f"the sound has {num_samples / WAV2VEC_SAMPLE_RATE:.2f} s; above 0 and up to {MAX_VIDEO_SECONDS:g} s "
                "is needed"
            )
        return cls(max(1, round(num_samples / WAV2VEC_SAMPLE_RATE * fps)), fps, temporal_stride)

    @classmethod
    def from_frames(cls, num_frames: int, fps: float, temporal_stride: int) -> "Timeline":
        """The timing of so many frames.

        Raises:
            InputError: none, more than four hours of them, or a frame rate outside 1 to 120.
        """
        _check_fps(fps)
        if not 0 < num_frames <= MAX_VIDEO_SECONDS * fps:
            raise InputError(f"there are {num_frames} frames; 1 to {MAX_VIDEO_SECONDS:g} s of them are needed")
        return cls(num_frames, fps, temporal_stride)

    @property
    def num_latent_frames(self) -> int:
        """F: the fewest that hold all frames, and 2 at least, so that a frame's time is known."""
        return 1 + max(1, -(-(self.num_frames - 1) // self.temporal_stride))

    @property
    def padded_frames(self) -> int:
        """Frames that the latent frames hold; those beyond `num_frames` are not shown."""
        return 1 + self.temporal_stride * (self.num_latent_frames - 1)


class WindowConditions(NamedTuple):
    """What changes from one window of a video to the next, on the model's device."""

    audio_windows: AudioWindows
    """(1, L, tokens, D) and mask."""
    expression: ExpressionCondition | None
    """Its gate is each call's own."""
    speaker_regions: Tensor | None
    """(1, P, L, h, w) bool, which tokens hear whom."""


@dataclass(frozen=True)
class VideoConditions:
    """What a video is denoised with: on the model's device in its type; sound, expressions and regions on the CPU."""

    prompt_embeds: Tensor
    """(1, T, D) states of the prompt."""
    negative_prompt_embeds: Tensor
    """(1, T, D) states of the negative prompt; the very same object as `prompt_embeds` when both prompts are alike."""
    image_embeds: Tensor
    """(1, I, D) CLIP tokens of the portrait."""
    image_latents: Tensor
    """(1, 20, L, h, w) first-frame mask and latents, the same for every window."""
    audio_windows: AudioWindows
    """(1, F, tokens, D) and mask."""
    face_embeds: Tensor
    """(1, P, 512)."""
    motion_intensity: Tensor
    """(1, 2)."""
    face_scale: float
    """Weight of the face: 0 = dropped, 1 = as trained."""
    has_audio: bool = True
    """False where nobody has a sound; then `audio_windows` is masked throughout."""
    expression: tuple[Tensor, Tensor] | None = None
    """(1, P, 1 + 4 (F - 1), D) features of what drives the faces and where they are present; None = nothing does."""
    expression_scale: float = 1.0
    """Weight of the expressions, 1 = as trained."""
    regions: Tensor | None = None
    """(P, 1, h, w) bool, which video tokens are whose; None = one person has all."""
    _branch_inputs: dict[tuple[GuidanceBranch, ...], tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    @property
    def available(self) -> AvailableConditions:
        """What guidance has anything to add to."""
        return AvailableConditions(
            self.prompt_embeds is not self.negative_prompt_embeds, self.has_audio, self.expression is not None
        )

    def for_branches(self, branches: tuple[GuidanceBranch, ...], window_conditions: WindowConditions) -> Conditions:
        """The conditions of one call: one sample for each branch, what they share given once.

        Text and gates come as the same objects at every step, as a `ConditionKVCache` needs it.
        """
        if branches not in self._branch_inputs:
            texts = [self.prompt_embeds if branch.text else self.negative_prompt_embeds for branch in branches]
            alike = all(text is texts[0] for text in texts)
            gates = [[float(branch.audio), self.face_scale] for branch in branches]
            driven = [branch.expression * self.expression_scale for branch in branches]
            joined = texts[0] if alike else torch.cat(texts)
            self._branch_inputs[branches] = (
                joined,
                self.motion_intensity.new_tensor(gates),
                self.motion_intensity.new_tensor(driven),
            )
        text, gate, driven_gate = self._branch_inputs[branches]
        expression = window_conditions.expression if any(branch.expression for branch in branches) else None
        return Conditions(
            prompt_embeds=text,
            image_embeds=self.image_embeds,
            image_latents=self.image_latents,
            audio_embeds=window_conditions.audio_windows.tokens,
            audio_mask=window_conditions.audio_windows.mask,
            face_embeds=self.face_embeds,
            motion_intensity=self.motion_intensity,
            condition_scale=gate,
            expression=None if expression is None else expression._replace(scale=driven_gate),
            speaker_regions=window_conditions.speaker_regions,
        )

    def for_window(self, window: LatentWindow) -> WindowConditions:
        """What one window hears and is driven by.

        Its latent frames keep their own sound and their own four frames of expression. The one token more that the
        first of its stretch reads, of the frame before, is frame 0's here: a window is to the model a clip.
        """
        tokens, mask = (tensor[:, window.frame_indices] for tensor in self.audio_windows)
        audio = AudioWindows(tokens.to(self.motion_intensity), mask.to(self.motion_intensity.device))
        regions = self.regions
        if regions is not None:
            regions = regions.expand(-1, len(window.frame_indices), -1, -1)[None].to(self.motion_intensity.device)
        speakers = regions if self.has_audio and regions is not None and regions.shape[1] > 1 else None
        if self.expression is None:
            return WindowConditions(audio, None, speakers)
        groups = window.frame_indices[1:, None] * 4 + torch.arange(-3, 1)  # frames 4k-3 .. 4k of latent frame k
        features, present = (
            tensor[:, :, torch.cat([window.frame_indices[:1], groups.flatten()])] for tensor in self.expression
        )
        driving = ExpressionCondition(
            features.to(self.motion_intensity),
            present.to(self.motion_intensity.device),
            regions,
            self.motion_intensity.new_zeros(1),
        )
        return WindowConditions(audio, driving, speakers)


def _check_fps(fps: float) -> None:
    if not 1 <= fps <= 120:
        raise InputError(f"fps is {fps}; it must be 1 to 120 frames a second")


def encode_text(encoder: TextEncoder, prompt: str, max_tokens: int, text_dim: int) -> Tensor:
    """(1, length, dim) states of a prompt, padded with zeros as Wan does.

    An empty prompt is zeros throughout: what training puts in the place of a dropped prompt. A longer one is cut, which
    is told.
    """
    prompt = clean_prompt(prompt)
    if not prompt:
        return torch.zeros(1, max_tokens, text_dim)
    tokens = len(encoder.tokenizer(prompt).input_ids)
    if tokens > max_tokens:
        logger.warning(
            "note: the prompt '%.40s...' has %d tokens; the model reads the first %d", prompt, tokens, max_tokens
        )
    return pad_prompt_embeds(encoder.encode(prompt), max_tokens)[None].cpu()


def encode_audio(
    encoder: AudioEncoder, waveform: NDArray[np.float32], timeline: Timeline, window_rule: str, window_seconds: float
) -> AudioWindows:
    """The audio window of every latent frame of the video.

    The sound is encoded whole, so that a window hears what comes before and after it wherever it is cut. It is cut or
    padded with silence to the generated frames, as the clips of training are exactly as long as their frames.
    """
    seconds = timeline.padded_frames / timeline.fps
    needed = round(seconds * WAV2VEC_SAMPLE_RATE)
    if window_rule == "seconds":
        needed = max(needed, (tokens_per_window(window_seconds) + 1) * WAV2VEC_STRIDE)
    waveform = np.pad(waveform, (0, max(0, needed - len(waveform))))[:needed]
    features = encoder.encode(waveform)[None]
    if window_rule == "official":
        return released_frame_windows(features, timeline.padded_frames)
    times = torch.arange(timeline.padded_frames, dtype=torch.float64) / timeline.fps
    return timed_frame_windows(features, times, window_seconds)


def encode_first_frame(autoencoder: VideoAutoencoder, pixels: NDArray[np.uint8], num_latent_frames: int) -> Tensor:
    """(1, 20, L, h, w): mask and latents of [portrait, nothing ...]."""
    picture = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    latents = autoencoder.encode_first_frame(picture, 1 + autoencoder.temporal_stride * (num_latent_frames - 1))
    return torch.cat([first_frame_mask(latents, autoencoder.temporal_stride), latents], dim=1)
