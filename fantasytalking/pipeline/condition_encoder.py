"""Encodes everything that conditions a video, once per video: prompts, portrait, face, audio, driving expressions.

Axes: T text tokens, F latent frames of the video, L latent frames of a window, h and w latent height and width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE
from fantasytalking.audio_windows import (
    AudioWindows,
    join_speaker_windows,
    released_frame_windows,
    timed_frame_windows,
    tokens_per_window,
)
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.encoders.arcface import FaceEncoder
from fantasytalking.encoders.audio_features import AudioEncoder
from fantasytalking.encoders.wan import ImageEncoder, TextEncoder, VideoAutoencoder
from fantasytalking.encoders.wan_layout import lay_out_image_latents
from fantasytalking.latent_geometry import video_frame_count
from fantasytalking.models.image_conditioning import ImageConditioning
from fantasytalking.pipeline.generation_plan import GenerationPlan
from fantasytalking.pipeline.portrait import Portrait
from fantasytalking.pipeline.prompts import EncodedPrompts, encode_text
from fantasytalking.pipeline.speakers import Speakers
from fantasytalking.pipeline.timeline import Timeline
from fantasytalking.pipeline.video_conditions import VideoConditions

NUM_ENCODING_STEPS = 5
"""Prompt, CLIP image (where the base attends to it), first frame, face, audio."""


@dataclass(frozen=True)
class ConditionEncoder:
    """The encoders of a pipeline and the sizes that the transformer reads."""

    text: TextEncoder | EncodedPrompts
    image: ImageEncoder | None
    """None: the base does not attend to CLIP tokens."""
    vae: VideoAutoencoder
    audio: AudioEncoder
    face_encoder_path: Path | None
    """ArcFace .onnx; needed where a plan's face scale is not 0."""
    transformer_config: Any
    """Configuration of the transformer: text_dim, audio_dim, audio_positions, face_dim, expression."""
    max_text_tokens: int
    """T, the tokens that prompts are padded to."""
    window_rule: str
    """Rule of the audio windows, as in `AdapterConfig`."""
    window_seconds: float
    device: torch.device
    """Device of the encoded conditions; audio, expression and regions stay on the CPU."""
    dtype: torch.dtype

    @property
    def image_conditioning(self) -> ImageConditioning:
        """How the base receives the portrait."""
        return ImageConditioning.from_channels(
            self.transformer_config.in_channels, self.transformer_config.out_channels
        )

    def encode(
        self,
        speakers: Speakers,
        plan: GenerationPlan,
        window_length: int,
        timeline: Timeline | None = None,
        on_encoded: Callable[[], object] = lambda: None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        *,
        registered: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> VideoConditions:
        """Returns the conditions of a video.

        Args:
            window_length: latent frames of a window, L.
            timeline: of the video; None: a stream, whose `audio_windows` are replaced window by window and which has
                no driving expressions.
            on_encoded: called after each of `NUM_ENCODING_STEPS`.
            prompt_embeds, negative_prompt_embeds: (1, T, D) states in place of the plan's prompts; None: these are
                encoded.
            registered: value of each registered condition of the video, by name.

        Raises:
            InputError: the driving features or the states of a prompt have another size than the model's.
        """

        def done(tensor: Tensor) -> Tensor:
            on_encoded()
            return tensor.to(self.device, self.dtype)

        prompt, negative = self._prompts(plan, prompt_embeds, negative_prompt_embeds)
        on_encoded()
        image = None if self.image is None else done(encode_image(self.image, speakers.portrait.pixels))
        first_frame = done(
            encode_first_frame(self.vae, speakers.portrait.pixels, window_length, self.image_conditioning)
        )
        face = done(self._face_embeds(speakers.portrait, plan.face_scale))
        audio = self._silence(1) if timeline is None else self.encode_speakers(speakers, timeline)
        on_encoded()
        return VideoConditions(
            prompt_embeds=prompt,
            negative_prompt_embeds=negative,
            image_embeds=image,
            image_latents=first_frame,
            audio_windows=audio,
            face_embeds=face,
            motion_intensity=torch.tensor([plan.motion_intensity], device=self.device, dtype=self.dtype),
            face_scale=plan.face_scale,
            temporal_stride=plan.geometry.temporal_stride,
            has_audio=timeline is None or bool(speakers.waveforms),
            expression=None if timeline is None else self._expression_features(speakers, timeline),
            expression_scale=plan.expression_scale,
            regions=speakers.regions(plan.geometry, plan.background),
            registered={name: value[None].to(self.device, self.dtype) for name, value in registered.items()},
            registered_scales={name: plan.condition_scales.get(name, 1.0) for name in registered},
        )

    def _prompts(
        self, plan: GenerationPlan, prompt_embeds: Tensor | None, negative_prompt_embeds: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """States (1, T, D) of prompt and negative prompt: one object where they are the same."""

        def states(field: str, given: Tensor | None, prompt: str) -> Tensor:
            shape = (1, self.max_text_tokens, self.transformer_config.text_dim)
            if given is None:
                given = encode_text(self.text, prompt, *shape[1:])
            elif given.shape != shape:
                raise InputError(
                    f"{field} has shape {tuple(given.shape)}; {shape} is needed, as encode_prompt returns it",
                    code=ErrorCode.shape_mismatch,
                    field=field,
                    value=tuple(given.shape),
                )
            return given.to(self.device, self.dtype)

        negative = states("negative_prompt_embeds", negative_prompt_embeds, plan.negative_prompt)
        are_given = prompt_embeds is not None or negative_prompt_embeds is not None
        is_same = prompt_embeds is negative_prompt_embeds if are_given else plan.prompt == plan.negative_prompt
        return negative if is_same else states("prompt_embeds", prompt_embeds, plan.prompt), negative

    def encode_speakers(self, speakers: Speakers, timeline: Timeline) -> AudioWindows:
        """Returns the audio windows of all speakers, side by side; masked throughout where nobody speaks."""
        if not speakers.waveforms:
            return self._silence(timeline.num_latent_frames)
        silence = np.zeros(len(speakers.waveforms[0]), dtype=np.float32)
        waveforms = [*speakers.waveforms, *[silence] * (speakers.count - len(speakers.waveforms))]
        return join_speaker_windows(
            [
                encode_audio(self.audio, waveform, timeline, self.window_rule, self.window_seconds)
                for waveform in waveforms
            ]
        )

    def _silence(self, num_latent_frames: int) -> AudioWindows:
        config = self.transformer_config
        silent = torch.zeros(1, num_latent_frames, config.audio_positions or 1, config.audio_dim)
        return AudioWindows(silent, torch.zeros(silent.shape[:3], dtype=torch.bool))

    def _expression_features(self, speakers: Speakers, timeline: Timeline) -> tuple[Tensor, Tensor] | None:
        if not speakers.driving_expressions:
            return None
        features, present = speakers.expression_features(timeline.padded_frames)
        expected = sum(self.transformer_config.expression["dims"])
        if features.shape[-1] != expected:
            raise InputError(
                f"the driving expressions have {features.shape[-1]} features per frame, the model reads {expected}; "
                "give the expression encoder that the model was trained with: expression_encoder=FOLDER",
                code=ErrorCode.shape_mismatch,
                field="driving_video",
                value=features.shape[-1],
            )
        return features, present

    def _face_embeds(self, portrait: Portrait, face_scale: float) -> Tensor:
        """(1, P, 512) of the portrait; zeros where the face attention is off."""
        if face_scale == 0:
            return torch.zeros(1, 1, self.transformer_config.face_dim)
        assert self.face_encoder_path is not None, "plan_generation has checked it"
        encoder = FaceEncoder.from_pretrained(self.face_encoder_path)
        embeds = [torch.from_numpy(encoder.encode(portrait.pixels, points)) for points in portrait.face_points]
        return torch.stack(embeds)[None]


def encode_audio(
    encoder: AudioEncoder, waveform: NDArray[np.float32], timeline: Timeline, window_rule: str, window_seconds: float
) -> AudioWindows:
    """Returns the audio window of every latent frame of the video.

    The audio is encoded whole, so that a window has context on both sides wherever it is cut. It is trimmed or padded
    with silence to the generated frames, since training clips are exactly as long as their frames.
    """
    seconds = timeline.padded_frames / timeline.fps
    needed = round(seconds * AUDIO_SAMPLE_RATE)
    if window_rule == "seconds":
        needed = max(needed, (tokens_per_window(window_seconds, encoder.timing) + 1) * encoder.stride)
    waveform = np.pad(waveform, (0, max(0, needed - len(waveform))))[:needed]
    features = encoder.encode(waveform)[None]
    if window_rule == "official":
        return released_frame_windows(features, timeline.padded_frames, timeline.temporal_stride)
    times = torch.arange(timeline.padded_frames, dtype=torch.float64) / timeline.fps
    return timed_frame_windows(features, times, timeline.temporal_stride, window_seconds, encoder.timing)


def encode_image(encoder: ImageEncoder, pixels: NDArray[np.uint8]) -> Tensor:
    """Returns the CLIP tokens (1, I, D) of a portrait (H, W, 3)."""
    return encoder.encode(torch.from_numpy(pixels.copy()))[None]  # arrays read from files may not be writable


def encode_first_frame(
    autoencoder: VideoAutoencoder, pixels: NDArray[np.uint8], num_latent_frames: int, conditioning: ImageConditioning
) -> Tensor:
    """Returns `Conditions.image_latents` of a clip that shows the portrait first and is unknown afterwards."""
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    stride = autoencoder.temporal_stride
    if conditioning is ImageConditioning.first_frame_replace:
        num_latent_frames = 1  # the others are not read
    latents = autoencoder.encode_first_frame(image, video_frame_count(num_latent_frames, stride))
    return lay_out_image_latents(latents, conditioning, stride)
