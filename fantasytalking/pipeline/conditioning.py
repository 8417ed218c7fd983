"""What a pipeline's encoders make of all that a video is told, in one place for whole videos and for streams."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fantasytalking.audio_windows import AudioWindows
from fantasytalking.encoders.arcface import FaceEncoder
from fantasytalking.encoders.wan import ImageEncoder, TextEncoder, VideoAutoencoder
from fantasytalking.pipeline.encoding import VideoConditions, encode_first_frame, encode_text
from fantasytalking.pipeline.portrait import Portrait

if TYPE_CHECKING:
    from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline


def encode_conditions(
    pipe: "FantasyTalkingPipeline",
    portrait: Portrait,
    hear: Callable[[], AudioWindows],
    prompts: tuple[str, str],
    window_length: int,
    intensity: tuple[float, float],
    face_scale: float,
) -> VideoConditions:
    """Encodes everything once, on the pipeline's device.

    Args:
        hear: gives the sound; called last, since it may be waited for.
        prompts: what to see and what not.
        window_length: latent frames of a window.
        intensity: of expression and body.
        face_scale: weight of the face attention.
    """
    device, dtype = pipe._execution_device, pipe.transformer.dtype
    length, dim = pipe.config.text_length, pipe.transformer.config.text_dim
    prompt, negative_prompt = prompts
    with pipe.progress_bar(total=5) as bar:
        bar.set_description("encode")

        def done(tensor: Tensor) -> Tensor:
            bar.update()
            return tensor.to(device, dtype)

        text_encoder = TextEncoder(pipe.text_encoder, pipe.tokenizer, length)
        no_text = encode_text(text_encoder, negative_prompt, length, dim).to(device, dtype)
        alike = prompt == negative_prompt
        text = done(no_text if alike else encode_text(text_encoder, prompt, length, dim))
        picture = torch.from_numpy(np.ascontiguousarray(portrait.pixels))
        image = done(ImageEncoder(pipe.image_encoder, pipe.image_processor).encode(picture)[None])
        first = done(encode_first_frame(VideoAutoencoder(pipe.vae), portrait.pixels, window_length))
        face = done(_identity(pipe, portrait, face_scale))
        audio = hear()
        bar.update()
    return VideoConditions(
        text=text,
        no_text=text if alike else no_text,
        image=image,
        latents=first,
        audio=audio,
        face=face,
        motion=torch.tensor([intensity], device=device, dtype=dtype),
        face_scale=face_scale,
    )


def _identity(pipe: "FantasyTalkingPipeline", portrait: Portrait, face_scale: float) -> Tensor:
    """(1, 1, 512) of the portrait; zeros, which nobody reads, where the face attention is off."""
    if face_scale == 0:
        return torch.zeros(1, 1, pipe.transformer.config.face_dim)
    assert pipe.face_network is not None, "face_weight has checked it"
    encoder = FaceEncoder.from_pretrained(pipe.face_network)
    return torch.from_numpy(encoder.encode(portrait.pixels, portrait.points))[None, None]
