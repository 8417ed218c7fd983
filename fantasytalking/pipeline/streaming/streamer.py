"""A video whose frames come while its later windows are still being made, from sound that may still be coming.

Axes: C channels, F latent frames of the video, L of a window, h and w latent height and width.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from fantasytalking.audio_windows import AudioWindows
from fantasytalking.encoders.vae_streaming import StreamingVaeDecoder
from fantasytalking.encoders.wav2vec import AudioEncoder
from fantasytalking.media.audio_stream import AudioSampleQueue
from fantasytalking.models.diffusers_internals import reset_step_cache
from fantasytalking.models.kv_cache import ConditionKVCache
from fantasytalking.pipeline.denoising import WINDOWED_CONDITIONS, Denoiser
from fantasytalking.pipeline.guidance import GuidanceConfig, guidance_at_step
from fantasytalking.pipeline.portrait import ImageInput, Portrait, open_image, parse_sizes, prepare_portrait
from fantasytalking.pipeline.schedulers import set_timesteps
from fantasytalking.pipeline.sliding_window import LatentWindow, latent_window_sizes, plan_windows
from fantasytalking.pipeline.streaming.streaming_audio import StreamingAudioEncoder
from fantasytalking.pipeline.streaming.window_history import (
    CausalWindow,
    WindowHistory,
    blend_velocity,
    first_causal_window,
    next_causal_window,
)
from fantasytalking.pipeline.video_conditions import Timeline, VideoConditions

if TYPE_CHECKING:
    from fantasytalking.pipeline.config import InferConfig
    from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline


class StreamedFrames(NamedTuple):
    """The next frames of a video."""

    start_seconds: float
    """Seconds of the video at which the first of them is shown."""
    frames: NDArray[np.uint8]
    """(T, H, W, 3) RGB."""


class StreamPlan(NamedTuple):
    """How a stream is made."""

    window_length: int
    """Latent frames of a window."""
    window_overlap: int
    """Latent frames that neighbours share."""
    prompts: tuple[str, str]
    """What to see and what not."""
    guidance: GuidanceConfig
    num_inference_steps: int
    fps: float
    seed: int

    @classmethod
    def from_config(cls, config: "InferConfig", temporal_stride: int) -> "StreamPlan":
        """The plan of a configuration, checked.

        Args:
            temporal_stride: frames of a latent frame.

        Raises:
            InputError: a value outside its limits.
        """
        config.validate()
        config.guidance.validate_all()
        length, overlap = latent_window_sizes(config.window_frames, config.overlap_frames, temporal_stride)
        plan_windows(length, length, overlap)  # holds their limits
        prompts = config.prompt, config.negative_prompt
        assert config.num_inference_steps is not None, "the pipeline has counted them"
        return cls(length, overlap, prompts, config.guidance, config.num_inference_steps, config.fps, config.seed)


class Streamer:
    """Makes one video, window by window; iterating over it gives its frames.

    What is held does not grow with the length: one window's latents and noise, the decoder's memory, the constant
    conditions, a few seconds of sound.

    Args:
        pipe: the model.
        plan: how.
        samples: the sound at 16 kHz; it is read as far as the next window needs.
        encode: gives the conditions of windows of `plan.length`; it is given what waits for the sound of the first.
        on_progress: told the share of a window's steps that is done.
    """

    def __init__(
        self,
        pipe: "FantasyTalkingPipeline",
        plan: StreamPlan,
        audio: AudioSampleQueue,
        encode_conditions: Callable[[Callable[[], AudioWindows]], VideoConditions],
        on_progress: Callable[[float], object] = lambda share: None,
    ) -> None:
        self.pipe, self.plan, self.on_progress, self._encode_conditions = pipe, plan, on_progress, encode_conditions
        self.history = WindowHistory()
        self.cache = ConditionKVCache()
        self._generator = torch.Generator().manual_seed(plan.seed)
        self._decoder = StreamingVaeDecoder(pipe.vae)
        self._audio_encoder = StreamingAudioEncoder(
            AudioEncoder(pipe.audio_encoder, pipe.audio_processor),
            audio,
            plan.fps,
            pipe.vae.config.scale_factor_temporal,
            pipe.config.audio_window,
            pipe.config.window_seconds,
        )
        self._timeline: Timeline | None = None

    @torch.no_grad()
    def __iter__(self) -> Iterator[StreamedFrames]:
        """The frames, as soon as they can no longer change, up to the end of the sound.

        Raises:
            InputError: sound that cannot be used, when that place is reached.
        """
        first: list[CausalWindow] = []

        def hear() -> AudioWindows:
            first.append(
                first_causal_window(
                    self.plan.window_length, self.plan.window_overlap, self._known_end(self.plan.window_length)
                )
            )
            return self._audio_encoder.encode_window(first[0])

        conditions, (window,) = self._encode_conditions(hear), first
        conditions = replace(conditions, image_latents=conditions.image_latents[:, :, : len(window.frame_indices)])
        shown = 0
        while True:
            latents = self._denoise_window(window, conditions)
            new = (window.frame_indices >= window.emitted) & (window.frame_indices < window.emittable)
            for piece in self._decoder.decode(latents[:, :, new.to(latents.device)]):
                pictures = rearrange(((piece + 1) * 127.5).round().to(torch.uint8), "c t h w -> t h w c").cpu().numpy()
                pictures = pictures[: None if self._timeline is None else self._timeline.num_frames - shown]
                if len(pictures):
                    yield StreamedFrames(shown / self.plan.fps, pictures)
                shown += len(pictures)
            if window.is_last:
                return
            window = next_causal_window(window, self._known_end(window.emittable + window.end - window.start))
            conditions = replace(conditions, audio_windows=self._audio_encoder.encode_window(window))

    def _known_end(self, num_latent_frames: int) -> int | None:
        """Waits for the sound of so many latent frames; F when the video ends within them, else None."""
        self._timeline = self._audio_encoder.wait_for_frames(num_latent_frames)
        return None if self._timeline is None else self._timeline.num_latent_frames

    def _denoise_window(self, window: CausalWindow, conditions: VideoConditions) -> Tensor:
        """(1, C, L, h, w) finished latents of a window."""
        pipe, plan = self.pipe, self.plan
        noise, earlier = self.history.start_window(window, self._new_noise(window.end - window.denoised, conditions))
        latents, count = noise, len(window.frame_indices)
        whole = LatentWindow(torch.arange(count), torch.ones(count))
        timesteps = set_timesteps(pipe.scheduler, plan.num_inference_steps, noise.device)
        denoiser = Denoiser(
            pipe.transformer,
            conditions,
            [whole],
            batch_branches=plan.guidance.batch_branches,
            on_window_done=lambda: None,
            cache=self.cache,
        )
        for step, timestep in enumerate(timesteps):
            guidance = guidance_at_step(plan.guidance, step, len(timesteps), conditions.available)
            prediction = denoiser.predict(latents, timestep, guidance)
            velocity = blend_velocity(prediction, earlier, noise, window.overlap_weight)
            latents = pipe.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            self.on_progress((step + 1) / len(timesteps))
        # The next window has other sound, and no step cache may take this window's features for its own.
        for name in WINDOWED_CONDITIONS:
            self.cache.evict(name)
        reset_step_cache(pipe.transformer)
        self.history.store(window, latents, noise)
        return latents

    def _new_noise(self, num_latent_frames: int, conditions: VideoConditions) -> Tensor:
        """(1, C, count, h, w), drawn one latent frame after another: the same however they fall into windows."""
        height, width = conditions.image_latents.shape[-2:]
        shape = (1, self.pipe.transformer.config.out_channels, 1, height, width)
        device = conditions.image_latents.device
        drawn = [
            randn_tensor(shape, generator=self._generator, device=device, dtype=torch.float32)
            for _ in range(num_latent_frames)
        ]
        return torch.cat(drawn, dim=2)


def portrait_from_config(image: ImageInput, config: "InferConfig") -> Portrait:
    """The portrait of a video, of the sizes and by the rules of its settings.

    Raises:
        InputError: no picture, or no such face in it.
    """
    picture = open_image(image)
    if isinstance(picture, Portrait):
        return picture
    return prepare_portrait(
        picture,
        parse_sizes(config.sizes),
        fit=config.resize_mode,
        face_index=config.selected_faces,
        min_face_fraction=config.min_face_fraction,
    )
