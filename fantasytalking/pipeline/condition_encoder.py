"""What a pipeline's encoders make of all that a video is told, in one place for whole videos and for streams."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fantasytalking.attention_regions import Background
from fantasytalking.audio_windows import AudioWindows, join_speakers
from fantasytalking.common.errors import InputError
from fantasytalking.encoders.arcface import FaceEncoder
from fantasytalking.encoders.wan import ImageEncoder, TextEncoder, VideoAutoencoder
from fantasytalking.encoders.wav2vec import AudioEncoder
from fantasytalking.pipeline.control_checks import expression_weight, face_weight, motion_intensity
from fantasytalking.pipeline.portrait import Portrait
from fantasytalking.pipeline.speakers import People
from fantasytalking.pipeline.video_conditions import (
    Timing,
    VideoConditions,
    encode_first_frame,
    encode_sound,
    encode_text,
)

if TYPE_CHECKING:
    from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline


class Asked(NamedTuple):
    """What a video is asked for beside its people, held against what the model was trained for."""

    prompts: tuple[str, str]
    """What to see and what not."""
    intensity: tuple[float, float]
    """Of expression and body."""
    face_scale: float
    expression_scale: float
    background: Background

    @classmethod
    def of(
        cls,
        pipe: "FantasyTalkingPipeline",
        prompts: tuple[str, str],
        intensity: tuple[float, float],
        face_scale: float | None,
        expression_scale: float = 1.0,
        background: Background = Background.everyone,
    ) -> "Asked":
        """The same, checked.

        Raises:
            InputError: a value outside its limits, or the control of a module that was never trained.
        """
        return cls(
            prompts,
            motion_intensity(pipe.trained_modules, *intensity),
            face_weight(pipe.trained_modules, face_scale, pipe.face_network is not None),
            expression_weight(expression_scale),
            background,
        )


def encode_conditions(
    pipe: "FantasyTalkingPipeline",
    people: People,
    asked: Asked,
    hear: Callable[[], AudioWindows],
    window_length: int,
    timing: Timing | None = None,
) -> VideoConditions:
    """Encodes everything once, on the pipeline's device.

    Args:
        hear: gives the sound; called last, since it may be waited for.
        window_length: latent frames of a window.
        timing: of the video; None = a stream, which somebody speaks in and nothing drives.

    Raises:
        InputError: drivers whose features are not of the model's sizes.
    """
    device, dtype = pipe._execution_device, pipe.input_dtype or pipe.transformer.dtype
    length, dim = pipe.config.text_length, pipe.transformer.config.text_dim
    prompt, negative_prompt = asked.prompts
    with pipe.progress_bar(total=5) as bar:
        bar.set_description("encode")

        def done(tensor: Tensor) -> Tensor:
            bar.update()
            return tensor.to(device, dtype)

        text_encoder = TextEncoder(pipe.text_encoder, pipe.tokenizer, length)
        no_text = encode_text(text_encoder, negative_prompt, length, dim).to(device, dtype)
        alike = prompt == negative_prompt
        text = done(no_text if alike else encode_text(text_encoder, prompt, length, dim))
        picture = torch.from_numpy(people.portrait.pixels.copy())  # what was read from a file cannot be written to
        image = done(ImageEncoder(pipe.image_encoder, pipe.image_processor).encode(picture)[None])
        first = done(encode_first_frame(VideoAutoencoder(pipe.vae), people.portrait.pixels, window_length))
        face = done(_identities(pipe, people.portrait, asked.face_scale))
        audio = hear()
        bar.update()
    return VideoConditions(
        text=text,
        no_text=text if alike else no_text,
        image=image,
        latents=first,
        audio=audio,
        face=face,
        motion=torch.tensor([asked.intensity], device=device, dtype=dtype),
        face_scale=asked.face_scale,
        is_heard=timing is None or bool(people.sounds),
        expression=None if timing is None else _expression(pipe, people, timing),
        expression_scale=asked.expression_scale,
        regions=people.regions(asked.background),
    )


def hear_people(pipe: "FantasyTalkingPipeline", people: People, timing: Timing) -> AudioWindows:
    """The windows of all that is said, side by side for several people; masked throughout where nobody has a sound."""
    if not people.sounds:
        config = pipe.transformer.config
        silent = torch.zeros(1, timing.latent_frames, config.audio_positions or 1, config.audio_dim)
        return AudioWindows(silent, torch.zeros(silent.shape[:3], dtype=torch.bool))
    encoder = AudioEncoder(pipe.audio_encoder, pipe.audio_processor)
    silence = np.zeros(len(people.sounds[0]), dtype=np.float32)
    sounds = [*people.sounds, *[silence] * (people.count - len(people.sounds))]
    return join_speakers(
        [
            encode_sound(encoder, samples, timing, pipe.config.audio_window, pipe.config.window_seconds)
            for samples in sounds
        ]
    )


def _expression(pipe: "FantasyTalkingPipeline", people: People, timing: Timing) -> tuple[Tensor, Tensor] | None:
    if not people.drivers:
        return None
    features, present = people.expression(timing.generated)
    wanted = sum(pipe.transformer.config.expression_dims)
    if features.shape[-1] != wanted:
        raise InputError(
            f"the drivers' expression features have {features.shape[-1]} numbers a frame, the model reads {wanted}; "
            "give the expression encoder that it was trained with"
        )
    return features, present


def _identities(pipe: "FantasyTalkingPipeline", portrait: Portrait, face_scale: float) -> Tensor:
    """(1, P, 512) of the portrait; zeros, which nobody reads, where the face attention is off."""
    if face_scale == 0:
        return torch.zeros(1, 1, pipe.transformer.config.face_dim)
    assert pipe.face_network is not None, "face_weight has checked it"
    encoder = FaceEncoder.from_pretrained(pipe.face_network)
    return torch.stack([torch.from_numpy(encoder.encode(portrait.pixels, points)) for points in portrait.points])[None]
