"""Collates clips into the batch of one training step."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from fantasytalking.attention_regions import BackgroundAttention
from fantasytalking.audio_tokens import WAV2VEC2_TIMING, TokenTiming
from fantasytalking.audio_windows import (
    AUDIO_WINDOW_SECONDS,
    AudioWindows,
    clip_level_window,
    join_speaker_windows,
    timed_frame_windows,
)
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.conditions import Conditions
from fantasytalking.data.collate_multi_person import (
    RegionBoxes,
    check_latent_shape,
    collate_expression,
    collate_speakers,
    shape_mismatch,
    stack_faces,
)
from fantasytalking.data.dataset import Sample
from fantasytalking.encoders.wan_layout import lay_out_image_latents, pad_prompt_embeds
from fantasytalking.latent_geometry import WAN21_GEOMETRY, LatentGeometry
from fantasytalking.models.image_conditioning import ImageConditioning


class AudioAlignment(Enum):
    """Selects the audio tokens that the video tokens of a latent frame attend to (paper section 3.1)."""

    clip = "clip"
    """All audio tokens of the clip: stage 1."""
    frame = "frame"
    """A window around the time of the latent frame: stage 2 and inference."""


class MaskProjection(Enum):
    """Selects the projection of the lip mask to latent space; see `fantasytalking.perception.lip_mask.project_mask`."""

    causal = "causal"
    trilinear = "trilinear"


class TrainingBatch(NamedTuple):
    """The clips of one training step, in float32."""

    latents: Tensor
    """(B, Z, F, h, w) clean latents."""
    conditions: Conditions
    lip_mask: Tensor
    """(B, 1, F, h, w) fraction of each latent cell that lies in the lip mask, in [0, 1]."""
    num_given_frames: int = 0
    """Latent frames at the start that the base is given, which the loss does not count."""


@dataclass
class CollateConfig:
    """Options of a training stage for its batches."""

    alignment: AudioAlignment = AudioAlignment.clip
    audio_window_seconds: float = AUDIO_WINDOW_SECONDS
    """Length of the audio window of a latent frame in seconds, 0.02 to 10."""
    max_text_tokens: int = 512
    """Number of text tokens, 1 to 4096: shorter prompts are padded with zeros, as in Wan, longer ones are truncated."""
    lip_mask_projection: MaskProjection = MaskProjection.causal
    expression: bool = False
    """Whether batches contain the expression condition."""
    region_boxes: RegionBoxes = RegionBoxes.still
    """Source of the regions that limit each person's expression and audio in clips of several people."""
    background: BackgroundAttention = BackgroundAttention.everyone
    """Which people the video tokens outside of all regions attend to."""
    geometry: LatentGeometry = WAN21_GEOMETRY
    """Of the base's latents and tokens."""
    image_conditioning: ImageConditioning = ImageConditioning.channel_concat
    """How the base receives the first frame."""
    image_embeds: bool = True
    """Whether the base attends to CLIP tokens of the first frame."""

    def validate(self) -> None:
        """Checks the values.

        Raises:
            InputError: a value is out of range.
        """
        limits = {"max_text_tokens": (1, 4096), "audio_window_seconds": (0.02, 10)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(
                    f"{name} is {value}; it must be {low:g} to {high:g}",
                    code=ErrorCode.out_of_range,
                    field=name,
                    value=value,
                )


class PortraitCollator:
    """Collates samples; for the `collate_fn` of a DataLoader with the batches of `BucketBatchSampler`.

    Args:
        config: the options of the stage.
    """

    def __init__(self, config: CollateConfig) -> None:
        self.config = config

    def __call__(self, samples: Sequence[Sample]) -> TrainingBatch:
        """Stacks clips of one size, length and frame rate; no condition is dropped (the scales are 1).

        Raises:
            InputError: the clips differ in shape (for example because their encoders differ), were encoded by a VAE of
                other strides, or lack a feature that
                the stage needs.
        """
        config, features = self.config, [sample.features for sample in samples]
        for sample in samples:
            check_latent_shape(sample, config.geometry)
        masks = [getattr(clip, f"lip_mask_{config.lip_mask_projection.value}") for clip in features]
        first_frame = _stack([clip.first_frame_latents for clip in features], samples, "first_frame_latents")
        audio, speaker_regions = self._audio_condition(samples)
        conditions = Conditions(
            prompt_embeds=_stack(
                [pad_prompt_embeds(clip.text, self.config.max_text_tokens) for clip in features], samples, "text"
            ),
            image_embeds=_image_embeds(samples) if config.image_embeds else None,
            image_latents=lay_out_image_latents(
                first_frame, config.image_conditioning, config.geometry.temporal_stride
            ),
            audio_embeds=audio.tokens,
            audio_mask=audio.mask,
            face_embeds=stack_faces([clip.face for clip in features]),
            motion_intensity=torch.tensor([[sample.record.expression, sample.record.body] for sample in samples]),
            condition_scale=torch.ones(len(samples), 2),
            expression=collate_expression(samples, config.region_boxes, config.geometry, config.background)
            if config.expression
            else None,
            speaker_regions=speaker_regions,
        )
        latents = _stack([clip.latents for clip in features], samples, "latents")
        return TrainingBatch(
            latents,
            conditions,
            _stack(masks, samples, "lip_mask")[:, None],
            config.image_conditioning.num_given_frames,
        )

    def _audio_condition(self, samples: Sequence[Sample]) -> tuple[AudioWindows, Tensor | None]:
        """Returns the windows of the clips' audio, or those of all speakers side by side with their regions."""
        frame_times = torch.stack([sample.features.frame_times for sample in samples])
        timing = _token_timing(samples)
        speakers = collate_speakers(samples, self.config.region_boxes, self.config.geometry, self.config.background)
        if speakers is None:
            audio = _stack([sample.features.audio for sample in samples], samples, "audio")
            return self._audio_windows(audio, frame_times, timing), None
        speaker_tokens, speaks, regions = speakers
        windows = [self._audio_windows(tokens, frame_times, timing) for tokens in speaker_tokens]
        masked = [
            window._replace(mask=window.mask & speaks[:, person, None, None]) for person, window in enumerate(windows)
        ]
        return join_speaker_windows(masked), regions

    def _audio_windows(self, audio: Tensor, frame_times: Tensor, timing: TokenTiming) -> AudioWindows:
        if self.config.alignment is AudioAlignment.clip:
            return clip_level_window(audio)
        stride = self.config.geometry.temporal_stride
        return timed_frame_windows(audio, frame_times, stride, self.config.audio_window_seconds, timing)


def _token_timing(samples: Sequence[Sample]) -> TokenTiming:
    """Timing of the clips' audio tokens; `PortraitDataset` checks that all have one encoder."""
    encoder = samples[0].features.audio_encoder
    return WAV2VEC2_TIMING if encoder is None else encoder.timing


def _image_embeds(samples: Sequence[Sample]) -> Tensor:
    images: list[Tensor] = []
    for sample in samples:
        if sample.features.image is None:
            raise InputError(
                f"clip '{sample.record.clip}' has no 'image' feature, which this base attends to; prepare the corpus "
                "with image_tokens=true",
                code=ErrorCode.missing_value,
                field="image",
                value=sample.record.clip,
            )
        images.append(sample.features.image)
    return _stack(images, samples, "image")


def _stack(tensors: list[Tensor], samples: Sequence[Sample], name: str) -> Tensor:
    shapes = [tuple(tensor.shape) for tensor in tensors]
    for shape, sample in zip(shapes, samples, strict=True):
        if shape != shapes[0]:
            raise shape_mismatch(name, sample, shape, samples[0], shapes[0])
    return torch.stack(tensors).float()
