"""From clips to the batch of one training step."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from fantasytalking.attention_regions import BackgroundAttention
from fantasytalking.audio_windows import (
    AUDIO_WINDOW_SECONDS,
    AudioWindows,
    clip_level_window,
    join_speaker_windows,
    timed_frame_windows,
)
from fantasytalking.common.errors import InputError
from fantasytalking.conditions import Conditions
from fantasytalking.data.collate_multi_person import RegionBoxes, collate_expression, collate_speakers, stack_faces
from fantasytalking.data.dataset import Sample
from fantasytalking.encoders.wan_layout import first_frame_mask, pad_prompt_embeds


class AudioAlignment(Enum):
    """Which audio the tokens of a latent frame hear (paper section 3.1)."""

    clip = "clip"
    """All of the clip: stage 1."""
    frame = "frame"
    """A window around its own time: stage 2 and inference."""


class MaskProjection(Enum):
    """How the lip mask was brought to latent space."""

    causal = "causal"
    trilinear = "trilinear"


class TrainingBatch(NamedTuple):
    """One training step's clips, in float32."""

    latents: Tensor
    """(B, Z, F, h, w) clean latents."""
    conditions: Conditions
    lip_mask: Tensor
    """(B, 1, F, h, w) in [0, 1]."""


@dataclass
class CollateConfig:
    """What a stage wants of its batches."""

    alignment: AudioAlignment = AudioAlignment.clip
    audio_window_seconds: float = AUDIO_WINDOW_SECONDS
    """Span of a latent frame's audio window."""
    max_text_tokens: int = 512
    """Text states are padded with zeros to this many tokens, as Wan does; longer ones are cut."""
    lip_mask_projection: MaskProjection = MaskProjection.causal
    expression: bool = False
    """Whether the clips' expressions are wanted."""
    region_boxes: RegionBoxes = RegionBoxes.still
    """Of several people: whose expression and whose sound reaches where in the picture."""
    background: BackgroundAttention = BackgroundAttention.everyone

    def validate(self) -> None:
        """Checks the values.

        Raises:
            InputError: a value outside its limits.
        """
        if not 1 <= self.max_text_tokens <= 4096:
            raise InputError(f"text_length is {self.max_text_tokens}; it must lie from 1 to 4096 (Wan: 512)")
        if not 0.02 <= self.audio_window_seconds <= 10:
            raise InputError(f"window_seconds is {self.audio_window_seconds}; it must lie from 0.02 to 10")


class PortraitCollator:
    """Callable for a DataLoader's `collate_fn`; the clips must be of one bucket (see `BucketBatchSampler`)."""

    def __init__(self, config: CollateConfig) -> None:
        self.config = config

    def __call__(self, samples: Sequence[Sample]) -> TrainingBatch:
        """Stacks clips of one size, length and frame rate; no condition is dropped (the gates are 1).

        Raises:
            InputError: the clips differ in shape, as they do when they come from different encoders, or lack what the
                stage wants of them.
        """
        config, features = self.config, [sample.features for sample in samples]
        masks = [getattr(clip, f"lip_mask_{config.lip_mask_projection.value}") for clip in features]
        first_frame = _stack([clip.first_frame_latents for clip in features], samples, "first_frame_latents")
        audio, speaker_regions = self._audio_condition(samples)
        conditions = Conditions(
            prompt_embeds=_stack(
                [pad_prompt_embeds(clip.text, self.config.max_text_tokens) for clip in features], samples, "text"
            ),
            image_embeds=_stack([clip.image for clip in features], samples, "image"),
            image_latents=torch.cat([first_frame_mask(first_frame), first_frame], dim=1),
            audio_embeds=audio.tokens,
            audio_mask=audio.mask,
            face_embeds=stack_faces([clip.face for clip in features]),
            motion_intensity=torch.tensor([[sample.record.expression, sample.record.body] for sample in samples]),
            condition_scale=torch.ones(len(samples), 2),
            expression=collate_expression(samples, config.region_boxes, config.background)
            if config.expression
            else None,
            speaker_regions=speaker_regions,
        )
        latents = _stack([clip.latents for clip in features], samples, "latents")
        return TrainingBatch(latents, conditions, _stack(masks, samples, "lip_mask")[:, None])

    def _audio_condition(self, samples: Sequence[Sample]) -> tuple[AudioWindows, Tensor | None]:
        """Windows of the clips' sound, or of every person's own side by side with the regions that hear them."""
        frame_times = torch.stack([sample.features.frame_times for sample in samples])
        speakers = collate_speakers(samples, self.config.region_boxes, self.config.background)
        if speakers is None:
            audio = _stack([sample.features.audio for sample in samples], samples, "audio")
            return self._audio_windows(audio, frame_times), None
        sounds, heard, regions = speakers
        windows = [self._audio_windows(sound, frame_times) for sound in sounds]
        there = [
            window._replace(mask=window.mask & heard[:, person, None, None]) for person, window in enumerate(windows)
        ]
        return join_speaker_windows(there), regions

    def _audio_windows(self, audio: Tensor, frame_times: Tensor) -> AudioWindows:
        if self.config.alignment is AudioAlignment.clip:
            return clip_level_window(audio)
        return timed_frame_windows(audio, frame_times, self.config.audio_window_seconds)


def _stack(tensors: list[Tensor], samples: Sequence[Sample], name: str) -> Tensor:
    shapes = [tuple(tensor.shape) for tensor in tensors]
    for shape, sample in zip(shapes, samples, strict=True):
        if shape != shapes[0]:
            raise InputError(
                f"'{name}' of '{sample.record.clip}' has shape {shape}, of '{samples[0].record.clip}' {shapes[0]}; "
                "a batch takes clips of one bucket, prepared with the same encoders"
            )
    return torch.stack(tensors).float()
