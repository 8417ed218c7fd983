"""What a pipeline shows of the video that it is denoising, under the names that diffusers' pipelines use.

Callbacks and step caches read it, and callbacks change it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.pipeline.guidance import GuidanceConfig, GuidanceSchedule
from fantasytalking.pipeline.video_conditions import VideoConditions

CALLBACK_TENSORS = ["latents", "prompt_embeds", "negative_prompt_embeds"]
"""Tensors that a callback may ask for and replace."""
NO_GUIDANCE = GuidanceSchedule(1.0, 1.0)

StepCallback = Callable[[Any, int, Tensor, dict[str, Tensor]], Mapping[str, Tensor] | None]
"""Called with pipeline, step, timestep and the tensors it asked for; may return others in their place."""


@dataclass
class CallState:
    """State of the denoising loop of one call."""

    num_timesteps: int = 0
    """Steps of the video."""
    current_timestep: Tensor | None = None
    """Timestep of the step that is computed; None: nothing is being denoised."""
    guidance_scale: float = 1.0
    """Scale of text guidance at the first step. A callback may set another, see `guidance`."""
    is_interrupted: bool = False
    """Whether the remaining steps are skipped."""
    attention_kwargs: dict[str, Any] | None = None
    """`scale` of the transformer's LoRA layers, as in diffusers."""
    initial_guidance_scale: float = field(default=1.0, init=False)

    def start(self, guidance: GuidanceConfig, num_timesteps: int) -> None:
        """Begins a video."""
        self.num_timesteps, self.is_interrupted = num_timesteps, False
        self.guidance_scale = self.initial_guidance_scale = guidance.text.scale_at(0, num_timesteps)

    def guidance(self, planned: GuidanceConfig) -> GuidanceConfig:
        """Returns the guidance of the next step.

        A scale that a callback has set replaces that of text guidance. A scale of 1 or less ends guidance by all
        conditions, as it ends classifier-free guidance in diffusers.
        """
        scale = self.guidance_scale
        if scale == self.initial_guidance_scale:
            return planned
        if scale <= 1:
            return replace(planned, text=NO_GUIDANCE, audio=NO_GUIDANCE, expression=NO_GUIDANCE, text_2=None)
        return replace(planned, text=GuidanceSchedule(scale, scale), text_2=None)


class CallStateProperties:
    """The state of a pipeline's call, under diffusers' names; callbacks set those with an underscore."""

    _call_state: CallState

    @property
    def num_timesteps(self) -> int:
        """Steps of the present or last video."""
        return self._call_state.num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """Timestep of the present step; None between videos."""
        return self._call_state.current_timestep

    @property
    def attention_kwargs(self) -> dict[str, Any] | None:
        """`attention_kwargs` of the present or last call."""
        return self._call_state.attention_kwargs

    @property
    def guidance_scale(self) -> float:
        """Scale of text guidance at the first step, or what a callback has set in its place: see `CallState`."""
        return self._call_state.guidance_scale

    @property
    def _guidance_scale(self) -> float:
        return self._call_state.guidance_scale

    @_guidance_scale.setter
    def _guidance_scale(self, scale: float) -> None:
        self._call_state.guidance_scale = scale

    @property
    def interrupt(self) -> bool:
        """Whether the remaining steps are skipped; a callback sets `_interrupt`."""
        return self._call_state.is_interrupted

    @property
    def _interrupt(self) -> bool:
        return self._call_state.is_interrupted

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        self._call_state.is_interrupted = value


def callback_tensor_names(callback: StepCallback | None, names: Sequence[str]) -> tuple[str, ...]:
    """Returns the tensors that a callback receives: those that diffusers' own callbacks declare, or `names`.

    Raises:
        InputError: a name is none of `CALLBACK_TENSORS`.
    """
    if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
        names = callback.tensor_inputs
    unknown = [name for name in names if name not in CALLBACK_TENSORS]
    if unknown:
        raise InputError(
            f"callback_on_step_end_tensor_inputs names '{unknown[0]}'; it must be some of "
            f"{', '.join(CALLBACK_TENSORS)}",
            code=ErrorCode.invalid_choice,
            field="callback_on_step_end_tensor_inputs",
            value=unknown[0],
        )
    return tuple(names)


def run_callback(
    pipeline: Any,
    callback: StepCallback | None,
    names: Sequence[str],
    step: int,
    timestep: Tensor,
    latents: Tensor,
    conditions: VideoConditions,
) -> tuple[Tensor, VideoConditions]:
    """Calls a callback with the tensors `names`, and returns latents and conditions with those that it replaces.

    Without a callback, both are returned as they are.

    Raises:
        InputError: it returns something else than such tensors, or a tensor of another shape.
    """
    if callback is None:
        return latents, conditions
    known = {
        "latents": latents,
        "prompt_embeds": conditions.prompt_embeds,
        "negative_prompt_embeds": conditions.negative_prompt_embeds,
    }
    returned = callback(pipeline, step, timestep, {name: known[name] for name in names})
    given = {} if returned is None else dict(returned)
    for name, value in given.items():
        if name not in known or not isinstance(value, Tensor) or value.shape != known[name].shape:
            kind = f"{type(value).__name__} {tuple(value.shape) if isinstance(value, Tensor) else ''}".strip()
            wanted = f"a tensor {tuple(known[name].shape)}" if name in known else f"some of {', '.join(known)}"
            raise InputError(
                f"callback_on_step_end returned '{name}': {kind}; return {wanted}, or nothing",
                code=ErrorCode.invalid_type,
                field="callback_on_step_end",
                value=name,
            )
    changed: dict[str, Any] = {name: value.to(known[name]) for name, value in given.items() if value is not known[name]}
    latents = changed.pop("latents", latents)
    return latents, replace(conditions, **changed) if changed else conditions
