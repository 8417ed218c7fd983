"""What a pipeline's encoders make of all that a video is told, in one place for whole videos and for streams."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fantasytalking.attention_regions import BackgroundAttention
from fantasytalking.audio_windows import AudioWindows, join_speaker_windows
from fantasytalking.common.errors import InputError
from fantasytalking.encoders.arcface import FaceEncoder
from fantasytalking.encoders.wan import ImageEncoder, TextEncoder, VideoAutoencoder
from fantasytalking.encoders.wav2vec import AudioEncoder
from fantasytalking.models.diffusers_internals import execution_device
from fantasytalking.pipeline.control_checks import checked_expression_scale, checked_face_scale, checked_motion
from fantasytalking.pipeline.portrait import Portrait
from fantasytalking.pipeline.speakers import Speakers
from fantasytalking.pipeline.video_conditions import (
    Timeline,
    VideoConditions,
    encode_audio,
    encode_first_frame,
    encode_text,
)

if TYPE_CHECKING:
    from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline


class GenerationControls(NamedTuple):
    """What a video is asked for beside its people, held against what the model was trained for."""

    prompts: tuple[str, str]
    """What to see and what not."""
    motion_intensity: tuple[float, float]
    """Of expression and body."""
    face_scale: float
    expression_scale: float
    background: BackgroundAttention

    @classmethod
    def checked(
        cls,
        pipe: "FantasyTalkingPipeline",
        prompts: tuple[str, str],
        intensity: tuple[float, float],
        face_scale: float | None,
        expression_scale: float = 1.0,
        background: BackgroundAttention = BackgroundAttention.everyone,
    ) -> "GenerationControls":
        """The same, checked.

        Raises:
            InputError: a value outside its limits, or the control of a module that was never trained.
        """
        return cls(
            prompts,
            checked_motion(pipe.trained_modules, *intensity),
            checked_face_scale(pipe.trained_modules, face_scale, pipe.face_encoder_path is not None),
            checked_expression_scale(expression_scale),
            background,
        )


def encode_conditions(
    pipe: "FantasyTalkingPipeline",
    speakers: Speakers,
    controls: GenerationControls,
    encode_audio: Callable[[], AudioWindows],
    window_length: int,
    timeline: Timeline | None = None,
) -> VideoConditions:
    """Encodes everything once, on the pipeline's device.

    Args:
        encode_audio: gives the sound; called last, since it may be waited for.
        window_length: latent frames of a window.
        timeline: of the video; None = a stream, which somebody speaks in and nothing drives.

    Raises:
        InputError: drivers whose features are not of the model's sizes.
    """
    device, dtype = execution_device(pipe), pipe.input_dtype or pipe.transformer.dtype
    length, dim = pipe.config.max_text_tokens, pipe.transformer.config.text_dim
    prompt, negative_prompt = controls.prompts
    with pipe.progress_bar(total=5) as bar:
        bar.set_description("encode")

        def done(tensor: Tensor) -> Tensor:
            bar.update()
            return tensor.to(device, dtype)

        text_encoder = TextEncoder(pipe.text_encoder, pipe.tokenizer, length)
        no_text = encode_text(text_encoder, negative_prompt, length, dim).to(device, dtype)
        alike = prompt == negative_prompt
        text = done(no_text if alike else encode_text(text_encoder, prompt, length, dim))
        picture = torch.from_numpy(speakers.portrait.pixels.copy())  # what was read from a file cannot be written to
        image = done(ImageEncoder(pipe.image_encoder, pipe.image_processor).encode(picture)[None])
        first = done(encode_first_frame(VideoAutoencoder(pipe.vae), speakers.portrait.pixels, window_length))
        face = done(_face_embeds(pipe, speakers.portrait, controls.face_scale))
        audio = encode_audio()
        bar.update()
    return VideoConditions(
        prompt_embeds=text,
        negative_prompt_embeds=text if alike else no_text,
        image_embeds=image,
        image_latents=first,
        audio_windows=audio,
        face_embeds=face,
        motion_intensity=torch.tensor([controls.motion_intensity], device=device, dtype=dtype),
        face_scale=controls.face_scale,
        has_audio=timeline is None or bool(speakers.waveforms),
        expression=None if timeline is None else _expression_features(pipe, speakers, timeline),
        expression_scale=controls.expression_scale,
        regions=speakers.regions(controls.background),
    )


def encode_speakers(pipe: "FantasyTalkingPipeline", speakers: Speakers, timeline: Timeline) -> AudioWindows:
    """The windows of all that is said, side by side for several people; masked throughout where nobody has a sound."""
    if not speakers.waveforms:
        config = pipe.transformer.config
        silent = torch.zeros(1, timeline.num_latent_frames, config.audio_positions or 1, config.audio_dim)
        return AudioWindows(silent, torch.zeros(silent.shape[:3], dtype=torch.bool))
    encoder = AudioEncoder(pipe.audio_encoder, pipe.audio_processor)
    silence = np.zeros(len(speakers.waveforms[0]), dtype=np.float32)
    sounds = [*speakers.waveforms, *[silence] * (speakers.count - len(speakers.waveforms))]
    return join_speaker_windows(
        [
            encode_audio(encoder, samples, timeline, pipe.config.audio_window, pipe.config.window_seconds)
            for samples in sounds
        ]
    )


def _expression_features(
    pipe: "FantasyTalkingPipeline", speakers: Speakers, timeline: Timeline
) -> tuple[Tensor, Tensor] | None:
    if not speakers.driving_expressions:
        return None
    features, present = speakers.expression_features(timeline.padded_frames)
    wanted = sum(pipe.transformer.config.expression_dims)
    if features.shape[-1] != wanted:
        raise InputError(
            f"the drivers' expression features have {features.shape[-1]} numbers a frame, the model reads {wanted}; "
            "give the expression encoder that it was trained with"
        )
    return features, present


def _face_embeds(pipe: "FantasyTalkingPipeline", portrait: Portrait, face_scale: float) -> Tensor:
    """(1, P, 512) of the portrait; zeros, which nobody reads, where the face attention is off."""
    if face_scale == 0:
        return torch.zeros(1, 1, pipe.transformer.config.face_dim)
    assert pipe.face_encoder_path is not None, "face_weight has checked it"
    encoder = FaceEncoder.from_pretrained(pipe.face_encoder_path)
    return torch.stack([torch.from_numpy(encoder.encode(portrait.pixels, points)) for points in portrait.face_points])[
        None
    ]
