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
from fantasytalking.encoders.vae_streaming import StreamDecoder
from fantasytalking.encoders.wav2vec import AudioEncoder
from fantasytalking.media.audio_stream import SampleQueue
from fantasytalking.models.kv_cache import ConditionCache
from fantasytalking.pipeline.denoising import PASSING, Denoiser
from fantasytalking.pipeline.guidance import GuidanceConfig, step_guidance
from fantasytalking.pipeline.portrait import ImageInput, Portrait, frame_portrait, open_picture, parse_sizes
from fantasytalking.pipeline.schedulers import set_steps
from fantasytalking.pipeline.sliding_window import Window, latent_lengths, plan_windows
from fantasytalking.pipeline.streaming.streaming_audio import Hearing
from fantasytalking.pipeline.streaming.window_history import (
    CausalWindow,
    Trail,
    first_window,
    mixed_velocity,
    next_window,
)
from fantasytalking.pipeline.video_conditions import Timing, VideoConditions

if TYPE_CHECKING:
    from fantasytalking.pipeline.config import InferConfig
    from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline


class StreamedFrames(NamedTuple):
    """The next frames of a video."""

    start: float
    """Seconds of the video at which the first of them is shown."""
    frames: NDArray[np.uint8]
    """(T, H, W, 3) RGB."""


class StreamPlan(NamedTuple):
    """How a stream is made."""

    length: int
    """Latent frames of a window."""
    overlap: int
    """Latent frames that neighbours share."""
    prompts: tuple[str, str]
    """What to see and what not."""
    guidance: GuidanceConfig
    steps: int
    fps: float
    seed: int

    @classmethod
    def of(cls, config: "InferConfig", stride: int) -> "StreamPlan":
        """The plan of a configuration, checked.

        Args:
            stride: frames of a latent frame.

        Raises:
            InputError: a value outside its limits.
        """
        config.validate()
        config.guidance.validate_all()
        length, overlap = latent_lengths(config.window_frames, config.overlap_frames, stride)
        plan_windows(length, length, overlap)  # holds their limits
        prompts = config.prompt, config.negative_prompt
        assert config.steps is not None, "the pipeline has counted them"
        return cls(length, overlap, prompts, config.guidance, config.steps, config.fps, config.seed)


class Streamer:
    """Makes one video, window by window; iterating over it gives its frames.

    What is held does not grow with the length: one window's latents and noise, the decoder's memory, the constant
    conditions, a few seconds of sound.

    Args:
        pipe: the model.
        plan: how.
        samples: the sound at 16 kHz; it is read as far as the next window needs.
        encode: gives the conditions of windows of `plan.length`; it is given what waits for the sound of the first.
        progress: told the share of a window's steps that is done.
    """

    def __init__(
        self,
        pipe: "FantasyTalkingPipeline",
        plan: StreamPlan,
        samples: SampleQueue,
        encode: Callable[[Callable[[], AudioWindows]], VideoConditions],
        progress: Callable[[float], object] = lambda share: None,
    ) -> None:
        self.pipe, self.plan, self.progress, self._encode = pipe, plan, progress, encode
        self.trail = Trail()
        self.cache = ConditionCache()
        self._generator = torch.Generator().manual_seed(plan.seed)
        self._decoder = StreamDecoder(pipe.vae)
        self._hearing = Hearing(
            AudioEncoder(pipe.audio_encoder, pipe.audio_processor),
            samples,
            plan.fps,
            pipe.vae.config.scale_factor_temporal,
            pipe.config.audio_window,
            pipe.config.window_seconds,
        )
        self._timing: Timing | None = None

    @torch.no_grad()
    def __iter__(self) -> Iterator[StreamedFrames]:
        """The frames, as soon as they can no longer change, up to the end of the sound.

        Raises:
            InputError: sound that cannot be used, when that place is reached.
        """
        first: list[CausalWindow] = []

        def hear() -> AudioWindows:
            first.append(first_window(self.plan.length, self.plan.overlap, self._known_end(self.plan.length)))
            return self._hearing.window(first[0])

        conditions, (window,) = self._encode(hear), first
        conditions = replace(conditions, latents=conditions.latents[:, :, : len(window.frames)])
        shown = 0
        while True:
            latents = self._denoise(window, conditions)
            new = (window.frames >= window.shown) & (window.frames < window.ready)
            for piece in self._decoder.decode(latents[:, :, new.to(latents.device)]):
                pictures = rearrange(((piece + 1) * 127.5).round().to(torch.uint8), "c t h w -> t h w c").cpu().numpy()
                pictures = pictures[: None if self._timing is None else self._timing.frames - shown]
                if len(pictures):
                    yield StreamedFrames(shown / self.plan.fps, pictures)
                shown += len(pictures)
            if window.is_last:
                return
            window = next_window(window, self._known_end(window.ready + window.end - window.start))
            conditions = replace(conditions, audio=self._hearing.window(window))

    def _known_end(self, latent_frames: int) -> int | None:
        """Waits for the sound of so many latent frames; F when the video ends within them, else None."""
        self._timing = self._hearing.frames_within(latent_frames)
        return None if self._timing is None else self._timing.latent_frames

    def _denoise(self, window: CausalWindow, conditions: VideoConditions) -> Tensor:
        """(1, C, L, h, w) finished latents of a window."""
        pipe, plan = self.pipe, self.plan
        noise, earlier = self.trail.begin(window, self._fresh_noise(window.end - window.finished, conditions))
        latents, count = noise, len(window.frames)
        whole = Window(torch.arange(count), torch.ones(count))
        timesteps = set_steps(pipe.scheduler, plan.steps, noise.device)
        denoiser = Denoiser(
            pipe.transformer,
            conditions,
            [whole],
            batched=plan.guidance.batched,
            advance=lambda: None,
            cache=self.cache,
        )
        for step, timestep in enumerate(timesteps):
            guidance = step_guidance(plan.guidance, step, len(timesteps), conditions.told)
            prediction = denoiser.predict(latents, timestep, guidance)
            velocity = mixed_velocity(prediction, earlier, noise, window.earlier)
            latents = pipe.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            self.progress((step + 1) / len(timesteps))
        # The next window has other sound, and no step cache may take this window's features for its own.
        for name in PASSING:
            self.cache.forget(name)
        pipe.transformer._reset_stateful_cache()
        self.trail.keep(window, latents, noise)
        return latents

    def _fresh_noise(self, count: int, conditions: VideoConditions) -> Tensor:
        """(1, C, count, h, w), drawn one latent frame after another: the same however they fall into windows."""
        height, width = conditions.latents.shape[-2:]
        shape = (1, self.pipe.transformer.config.out_channels, 1, height, width)
        device = conditions.latents.device
        drawn = [
            randn_tensor(shape, generator=self._generator, device=device, dtype=torch.float32) for _ in range(count)
        ]
        return torch.cat(drawn, dim=2)


def portrait_for(image: ImageInput, config: "InferConfig") -> Portrait:
    """The portrait of a video, of the sizes and by the rules of its settings.

    Raises:
        InputError: no picture, or no such face in it.
    """
    picture = open_picture(image)
    if isinstance(picture, Portrait):
        return picture
    return frame_portrait(
        picture, parse_sizes(config.sizes), fit=config.fit, face=config.chosen_faces, least_face=config.least_face
    )
