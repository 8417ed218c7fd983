"""One denoising step of a whole video: every window and every branch, guided and blended.

Axes: B = 1 video, F latent frames of the video, L of a window.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from fantasytalking.common.devices import total_memory
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.tensor_io import check_finite_result
from fantasytalking.condition_specs import CONDITIONS
from fantasytalking.conditions import Conditions
from fantasytalking.models.cfg_branches import GuidanceBranch
from fantasytalking.models.experts import Expert, Experts
from fantasytalking.models.kv_cache import ConditionKVCache
from fantasytalking.pipeline.call_state import CallState
from fantasytalking.pipeline.generation_plan import GenerationPlan, check_supported_guidance
from fantasytalking.pipeline.guidance import StepGuidance, guidance_at_step
from fantasytalking.pipeline.schedulers import set_timesteps
from fantasytalking.pipeline.sliding_window import LatentWindow
from fantasytalking.pipeline.video_conditions import BranchInputs, VideoConditions, WindowConditions

BATCH_MEMORY_DIVISOR = 8
"""Branches run in one call where they need at most 1 / this of the device's memory."""


@dataclass(frozen=True)
class DenoisingCache:
    """What is computed once per video and reused at every step and, in a stream, by every window."""

    conditions: dict[Expert, ConditionKVCache] = field(
        default_factory=lambda: {expert: ConditionKVCache() for expert in Expert}
    )
    """Projections of the conditions by the weights of each expert."""
    branch_inputs: dict[tuple[GuidanceBranch, ...], BranchInputs] = field(default_factory=dict)
    """Prompt and scales by the branches of a call; the condition cache recognizes these tensors by identity."""

    def nbytes(self) -> int:
        """Size of what the condition caches hold, in bytes."""
        return sum(cache.nbytes() for cache in self.conditions.values())

    def evict_windowed(self) -> None:
        """Drops what was computed from the conditions of one window."""
        for spec in CONDITIONS:
            if spec.per_window:
                for cache in self.conditions.values():
                    cache.evict(spec.name)

    def evict_prompts(self) -> None:
        """Drops what was computed from the prompts."""
        self.branch_inputs.clear()
        for cache in self.conditions.values():
            cache.evict("text")


class Denoiser:
    """Predicts the guided velocity of a video.

    What is constant over the steps (keys and values of prompt, portrait and face) is computed once per video. Those of
    audio and driving expressions are too where the video is one window; with several windows they are recomputed per
    window, which is cheap next to a call of the model, so that memory does not grow with the length.

    Args:
        experts: the model; each step is predicted by the expert of its timestep.
        batch_branches: all branches in one call; None: where memory allows and no step cache needs separate calls.
        on_window_done: called after each window.
        cache: of an earlier window of the same stream; None: a new one.
        attention_kwargs: of the transformer: `scale` of its LoRA layers.
    """

    def __init__(
        self,
        experts: Experts,
        conditions: VideoConditions,
        windows: Sequence[LatentWindow],
        *,
        batch_branches: bool | None,
        on_window_done: Callable[[], object],
        cache: DenoisingCache | None = None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.experts, self.conditions, self.windows = experts, conditions, windows
        frames = len(windows[0].frame_indices)
        self.batch_branches = _should_batch_branches(batch_branches, experts, conditions, frames)
        self.on_window_done, self.attention_kwargs = on_window_done, attention_kwargs
        self._cache = DenoisingCache() if cache is None else cache
        self._guidance_scales: dict[tuple[float, float], Tensor] = {}
        self._single_window = conditions.for_window(windows[0]) if len(windows) == 1 else None

    def begin_step(self, step: int, num_steps: int) -> None:
        """Sets the strength of LoRAs that change from step to step; what was computed with another one is dropped."""
        for expert, transformer in self.experts.items():
            if transformer.lora_schedule is not None and transformer.lora_schedule.begin_step(step, num_steps):
                self._cache.conditions[expert] = ConditionKVCache()

    def use_prompts(self, conditions: VideoConditions) -> None:
        """Continues with the prompts of `conditions`, which differ from the present ones in nothing else."""
        if conditions is not self.conditions:
            self.conditions = conditions
            self._cache.evict_prompts()

    def predict(self, latents: Tensor, timestep: Tensor, guidance: StepGuidance) -> Tensor:
        """Returns the guided velocity (1, C, F, h, w) in float32: the weighted sum of the windows' predictions.

        A scheduler step is linear in the prediction, so the windows' latents are blended with the same weights.
        """
        blended = torch.zeros_like(latents)
        for number, window in enumerate(self.windows):
            guided = self._predict_guided(number, window, latents, timestep, guidance)
            weights = window.blend_weights.to(blended).view(1, 1, -1, 1, 1)
            blended.index_add_(2, window.frame_indices.to(blended.device), (weights * guided).to(blended))
            self.on_window_done()
        return blended

    def _predict_guided(
        self, window_index: int, window: LatentWindow, latents: Tensor, timestep: Tensor, guidance: StepGuidance
    ) -> Tensor:
        """The weighted sum of a window's branches, or the single call of a distilled model, which reads the scales."""
        if self.experts.high.distillation is None:
            return guidance.combine(self._predict_branches(window_index, window, latents, timestep, guidance.branches))
        if guidance.scales not in self._guidance_scales:
            self._guidance_scales[guidance.scales] = self.conditions.motion_intensity.new_tensor([guidance.scales])
        scales = self._guidance_scales[guidance.scales]
        branch = self.conditions.full_branch
        return self._predict_branches(window_index, window, latents, timestep, [branch], scales)[branch].float()

    def _predict_branches(
        self,
        window_index: int,
        window: LatentWindow,
        latents: Tensor,
        timestep: Tensor,
        branches: list[GuidanceBranch],
        scales: Tensor | None = None,
    ) -> dict[GuidanceBranch, Tensor]:
        window_conditions = self._single_window or self.conditions.for_window(window)
        noisy = latents[:, :, window.frame_indices.to(latents.device)].to(self.conditions.motion_intensity)
        expert = self.experts.at(timestep)
        transformer = self.experts.transformer(expert)
        calls = [tuple(branches)] if self.batch_branches else [(branch,) for branch in branches]
        predictions: dict[GuidanceBranch, Tensor] = {}
        for call in calls:
            # A step cache must not take one window's or branch's features for another's.
            with transformer.cache_context(f"{window_index}:{'|'.join(branch.label for branch in call)}"):
                sample = transformer(
                    noisy,
                    timestep.expand(1),
                    self._conditions_of(call, window_conditions)._replace(guidance=scales),
                    cache=self._cache.conditions[expert],
                    return_dict=False,
                    attention_kwargs=self.attention_kwargs,
                )[0]
            predictions.update(zip(call, sample.split(1), strict=True))
        if self._single_window is None:
            self._cache.evict_windowed()
        return predictions

    def _conditions_of(self, branches: tuple[GuidanceBranch, ...], window: WindowConditions) -> Conditions:
        inputs = self._cache.branch_inputs
        if branches not in inputs:
            inputs[branches] = self.conditions.branch_inputs(branches)
        return self.conditions.for_branches(branches, inputs[branches], window)


def _should_batch_branches(requested: bool | None, experts: Experts, conditions: VideoConditions, frames: int) -> bool:
    if requested is False:
        return False
    has_step_cache = any(transformer.is_cache_enabled for transformer in experts)
    if requested is None and has_step_cache:
        return False
    if requested and has_step_cache:
        raise InputError(
            "guidance.batch_branches is true, but a step cache needs one call per branch; leave one of them out",
            code=ErrorCode.conflict,
            field="guidance.batch_branches",
            value=True,
        )
    if requested:
        return True
    return fits_in_one_call(experts, conditions, frames, total_memory(conditions.motion_intensity.device))


def fits_in_one_call(experts: Experts, conditions: VideoConditions, frames: int, memory: int) -> bool:
    """Whether all branches run in one call on a device.

    Args:
        frames: latent frames of a window.
        memory: total memory of the device in bytes.
    """
    shape = experts.high.config
    tokens = frames * conditions.image_latents[0, 0, 0].numel() // math.prod(shape.patch_size)
    width = shape.num_attention_heads * shape.attention_head_dim
    # Per branch: a block's input twice in float32, eight tensors of its width, and the two of the feed-forward.
    needed = (
        (3 + len(conditions.available.further))
        * tokens
        * (8 * width + conditions.motion_intensity.itemsize * (8 * width + 2 * shape.ffn_dim))
    )
    return needed * BATCH_MEMORY_DIVISOR <= memory


def noise_latents(
    shape: tuple[int, ...],
    given: Tensor | None,
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor:
    """Returns the noise (1, C, F, h, w) that a video begins with, in float32: `given`, or drawn by `generator`.

    Raises:
        InputError: the given noise has another shape, or there are several generators.
    """
    if isinstance(generator, list) and len(generator) != 1:
        raise InputError(
            f"generator is a list of {len(generator)}; one video is generated per call: give one generator",
            code=ErrorCode.invalid_type,
            field="generator",
            value=len(generator),
        )
    if given is None:
        return randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
    if given.shape != shape:
        raise InputError(
            f"latents has shape {tuple(given.shape)}; this video needs {shape}",
            code=ErrorCode.shape_mismatch,
            field="latents",
            value=tuple(given.shape),
        )
    return given.to(device, torch.float32)


def denoise(
    experts: Experts,
    scheduler: SchedulerMixin,
    conditions: VideoConditions,
    plan: GenerationPlan,
    windows: Sequence[LatentWindow],
    noise: Tensor,
    state: CallState,
    on_window_done: Callable[[], object],
    on_step_end: Callable[[int, Tensor, Tensor, VideoConditions], tuple[Tensor, VideoConditions]],
) -> Tensor:
    """Returns the denoised latents (1, C, F, h, w) of `noise`.

    Args:
        state: kept up to date; what `on_step_end` changes in it holds from the next step on.
        on_window_done: called after each window of each step.
        on_step_end: called with step, timestep, latents and conditions; returns the latents and the conditions to
            continue with, which may have other prompts.

    Raises:
        InputError: a guidance scale was set for which a distilled model was not trained.
    """
    timesteps = set_timesteps(scheduler, plan.num_inference_steps, noise.device)
    state.start(plan.guidance, len(timesteps))
    denoiser = Denoiser(
        experts,
        conditions,
        windows,
        batch_branches=plan.guidance.batch_branches,
        on_window_done=on_window_done,
        attention_kwargs=state.attention_kwargs,
    )
    latents = noise
    for step, timestep in enumerate(timesteps):
        state.current_timestep = timestep
        schedules = state.guidance(plan.guidance)
        if schedules is not plan.guidance:
            check_supported_guidance(experts.high.distillation, schedules, plan.negative_prompt)
        schedules = schedules.for_expert(experts.at(timestep))
        guidance = guidance_at_step(schedules, step, len(timesteps), conditions.available)
        denoiser.begin_step(step, len(timesteps))
        prediction = denoiser.predict(latents, timestep, guidance)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
        latents, conditions = on_step_end(step, timestep, latents, conditions)
        denoiser.use_prompts(conditions)
        if state.is_interrupted:
            break
    state.current_timestep = None
    check_finite_result(latents, "latents")
    return experts.high.image_conditioning.with_image(latents, conditions.image_latents)
