"""Streams a video: frames are yielded while later windows are still being generated and audio still arrives.

Axes: C channels, F latent frames of the video, L of a window, h and w latent height and width.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from diffusers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from fantasytalking.encoders.vae_streaming import StreamingVaeDecoder
from fantasytalking.models.diffusers_internals import reset_step_cache
from fantasytalking.models.experts import Experts
from fantasytalking.pipeline.call_state import CallState
from fantasytalking.pipeline.denoising import Denoiser, DenoisingCache
from fantasytalking.pipeline.generation_plan import GenerationPlan
from fantasytalking.pipeline.guidance import guidance_at_step
from fantasytalking.pipeline.schedulers import set_timesteps
from fantasytalking.pipeline.sliding_window import LatentWindow
from fantasytalking.pipeline.streaming.streaming_audio import StreamingAudioEncoder
from fantasytalking.pipeline.streaming.window_history import (
    CausalWindow,
    WindowHistory,
    blend_velocity,
    first_causal_window,
    next_causal_window,
)
from fantasytalking.pipeline.timeline import Timeline
from fantasytalking.pipeline.video_conditions import VideoConditions


class StreamedFrames(NamedTuple):
    """The next frames of a video."""

    start_seconds: float
    """Time of the first of them in the video, in seconds."""
    frames: NDArray[np.uint8]
    """(T, H, W, 3) RGB."""


class Streamer:
    """Generates one video window by window; iterating over it yields its frames.

    Memory does not grow with the length: it holds one window's latents and noise, the decoder's state, the constant
    conditions and a few seconds of audio.

    Args:
        experts, scheduler, decoder: of the pipeline.
        audio_encoder: encodes the audio of each window once it has arrived.
        conditions: of the video, for windows of `plan.window_length`; their audio is replaced per window.
        plan: the checked controls.
        generator: of the noise.
        on_progress: called with the fraction of a window's steps that is done.
    """

    def __init__(
        self,
        experts: Experts,
        scheduler: SchedulerMixin,
        decoder: StreamingVaeDecoder,
        audio_encoder: StreamingAudioEncoder,
        conditions: VideoConditions,
        plan: GenerationPlan,
        *,
        state: CallState,
        generator: torch.Generator | None = None,
        on_progress: Callable[[float], object] = lambda fraction: None,
    ) -> None:
        self.experts, self.scheduler, self.decoder = experts, scheduler, decoder
        self.audio_encoder, self.conditions, self.plan = audio_encoder, conditions, plan
        self.state, self.generator, self.on_progress = state, generator, on_progress
        self.history = WindowHistory()
        self.cache = DenoisingCache()

    @torch.no_grad()
    def __iter__(self) -> Iterator[StreamedFrames]:
        """Yields frames as soon as no later window can change them, up to the end of the audio.

        Raises:
            InputError: the audio cannot be used, raised where that part of it is reached.
        """
        length, emitted_frames = self.plan.window_length, 0
        timeline = self.audio_encoder.wait_for_frames(length)
        window = first_causal_window(length, self.plan.window_overlap, _latent_frames(timeline))
        first_frame = self.conditions.image_latents[:, :, : len(window.frame_indices)]
        conditions = replace(self.conditions, image_latents=first_frame)
        while True:
            conditions = replace(conditions, audio_windows=self.audio_encoder.encode_window(window))
            latents = self._denoise_window(window, conditions)
            is_new = (window.frame_indices >= window.emitted) & (window.frame_indices < window.emittable)
            for chunk in self.decoder.decode(latents[:, :, is_new.to(latents.device)]):
                frames = rearrange(((chunk + 1) * 127.5).round().to(torch.uint8), "c t h w -> t h w c").cpu().numpy()
                frames = frames[: None if timeline is None else timeline.num_frames - emitted_frames]
                if len(frames):
                    yield StreamedFrames(emitted_frames / self.plan.fps, frames)
                emitted_frames += len(frames)
            if window.is_last:
                return
            timeline = self.audio_encoder.wait_for_frames(window.emittable + window.end - window.start)
            window = next_causal_window(window, _latent_frames(timeline))

    def _denoise_window(self, window: CausalWindow, conditions: VideoConditions) -> Tensor:
        """(1, C, L, h, w) denoised latents of a window."""
        plan = self.plan
        noise, earlier = self.history.start_window(window, self._new_noise(window.end - window.denoised, conditions))
        latents, count = noise, len(window.frame_indices)
        timesteps = set_timesteps(self.scheduler, plan.num_inference_steps, noise.device)
        denoiser = Denoiser(
            self.experts,
            conditions,
            [LatentWindow(torch.arange(count), torch.ones(count))],
            batch_branches=plan.guidance.batch_branches,
            on_window_done=lambda: None,
            cache=self.cache,
        )
        self.state.start(plan.guidance, len(timesteps))
        for step, timestep in enumerate(timesteps):
            self.state.current_timestep = timestep
            schedules = plan.guidance.for_expert(self.experts.at(timestep))
            guidance = guidance_at_step(schedules, step, len(timesteps), conditions.available)
            denoiser.begin_step(step, len(timesteps))
            prediction = denoiser.predict(latents, timestep, guidance)
            velocity = blend_velocity(prediction, earlier, noise, window.overlap_weight)
            latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            self.on_progress((step + 1) / len(timesteps))
        self.state.current_timestep = None
        # The next window has other audio, and no step cache may reuse this window's features for it.
        self.cache.evict_windowed()
        for transformer in self.experts:
            reset_step_cache(transformer)
        latents = self.experts.high.image_conditioning.with_image(latents, conditions.image_latents)
        self.history.store(window, latents, noise)
        return latents

    def _new_noise(self, num_latent_frames: int, conditions: VideoConditions) -> Tensor:
        """(1, C, count, h, w), drawn per latent frame, so that it does not depend on the division into windows."""
        height, width = conditions.image_latents.shape[-2:]
        shape = (1, self.experts.high.config.out_channels, 1, height, width)
        device = conditions.image_latents.device
        drawn = [
            randn_tensor(shape, generator=self.generator, device=device, dtype=torch.float32)
            for _ in range(num_latent_frames)
        ]
        return torch.cat(drawn, dim=2)


def _latent_frames(timeline: Timeline | None) -> int | None:
    """F where the length of the video is known, else None."""
    return None if timeline is None else timeline.num_latent_frames
