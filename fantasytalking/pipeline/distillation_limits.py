"""What a distilled model can be asked for: it follows what it was taught, and anything else is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin

from fantasytalking.checkpoints.adapter import read_adapter_config
from fantasytalking.checkpoints.lora import fuse_lora, has_lora
from fantasytalking.common.errors import InputError
from fantasytalking.models.guidance_embedder import DistillationSpec
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.pipeline.guidance import GuidanceConfig, GuidanceSchedule

if TYPE_CHECKING:
    from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline

DEFAULT_NUM_INFERENCE_STEPS = 30
"""Of a model that was not distilled."""
MAX_NUM_INFERENCE_STEPS = 1000


def resolve_num_inference_steps(distillation: DistillationSpec | None, num_inference_steps: int | None) -> int:
    """The number of steps: as asked for, or else a distilled model's number of windows, or else
    `DEFAULT_NUM_INFERENCE_STEPS`.

    Raises:
        InputError: out of the limits, or steps that would not meet the boundaries of the windows.
    """
    if num_inference_steps is None:
        return DEFAULT_NUM_INFERENCE_STEPS if distillation is None else distillation.windows
    if not 1 <= num_inference_steps <= MAX_NUM_INFERENCE_STEPS:
        raise InputError(f"the number of steps is {num_inference_steps}; it must be 1 to {MAX_NUM_INFERENCE_STEPS}")
    if distillation is not None and num_inference_steps % distillation.windows:
        raise InputError(
            f"the number of steps is {num_inference_steps}; this distilled model takes {distillation.windows}, or a "
            "multiple of it"
        )
    return num_inference_steps


def check_supported_guidance(
    distillation: DistillationSpec | None,
    guidance: GuidanceConfig,
    negative_prompt: str,
    *,
    has_driving_video: bool = False,
) -> None:
    """Holds that a distilled model was taught the guidance that is asked for; any other model can follow it.

    Raises:
        InputError: a schedule, a scale that was not taught, the other formula, a kept colour or a negative prompt.
    """
    if distillation is None:
        return
    cure = "change it, or use a model that is not distilled"
    _check_guidance_scale("text", guidance.text, distillation.text, cure)
    _check_guidance_scale("audio", guidance.audio, distillation.audio, cure)
    if (
        has_driving_video
        and guidance.expression.stop
        and (guidance.expression.scale_start, guidance.expression.scale_end) != (1, 1)
    ):
        raise InputError(
            f"the scale of expression guidance is {guidance.expression.scale_start:g}; a distilled model was taught "
            "none: "
            "use --expression-guidance 1"
        )
    if guidance.order is not distillation.formula:
        raise InputError(
            f"the guidance formula is {guidance.order.value}; this distilled model was taught "
            f"{distillation.formula.value}: {cure}"
        )
    if guidance.color_rescale:
        raise InputError(
            f"keep_colour is {guidance.color_rescale:g}; a distilled model has no branches to keep it from: {cure}"
        )
    if negative_prompt:
        raise InputError(
            f"a negative prompt was given ('{negative_prompt:.40}'); a distilled model cannot follow one: {cure}"
        )


def check_supported_scheduler(distillation: DistillationSpec | None, scheduler: SchedulerMixin) -> None:
    """Holds that the sampler walks the boundaries of the windows that a distilled model was taught.

    Raises:
        InputError: another sampler, or another shift.
    """
    if distillation is None:
        return
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        raise InputError("a distilled model steps straight through its windows; use sampler=euler")
    if abs(scheduler.shift - distillation.shift) > 1e-6:
        raise InputError(
            f"the sampler's shift is {scheduler.shift:g}; this model was distilled with {distillation.shift:g}: use "
            f"shift={distillation.shift:g}"
        )


def check_distillation_limits(
    pipeline: "FantasyTalkingPipeline",
    num_inference_steps: int | None,
    guidance: GuidanceConfig,
    negative_prompt: str,
    *,
    has_driving_video: bool = False,
) -> int:
    """The number of steps of a video, once it is known that the model can follow what is asked for.

    Raises:
        InputError: as `resolve_num_inference_steps`, `check_supported_guidance` and `check_supported_scheduler`.
    """
    distillation = pipeline.transformer.distillation
    check_supported_guidance(distillation, guidance, negative_prompt, has_driving_video=has_driving_video)
    check_supported_scheduler(distillation, pipeline.scheduler)
    return resolve_num_inference_steps(distillation, num_inference_steps)


def extends_saved_pipeline(adapter: Path) -> bool:
    """Whether an adapter goes on a saved pipeline that has the rest: as it says, or with distillation's part alone."""
    described = read_adapter_config(adapter)
    return described.on_saved or described.modules == ["guidance"]


def check_adapter_base(adapter: Path, pipeline_config: Mapping[str, Any]) -> None:
    """Holds that an adapter goes on a saved pipeline, of which `pipeline_config` tells the settings.

    Raises:
        InputError: it goes on a bare base, or hears through other audio windows.
    """
    if not extends_saved_pipeline(adapter):
        raise InputError(f"adapter '{adapter}' goes on a Wan base, not on a saved pipeline; give the base")
    described = read_adapter_config(adapter)
    heard = described.audio_window, described.window_seconds
    if heard != (pipeline_config["audio_window"], pipeline_config["window_seconds"]):
        raise InputError(
            f"adapter '{adapter}' was trained with audio windows {heard}, the pipeline has "
            f"{(pipeline_config['audio_window'], pipeline_config['window_seconds'])}; use the pipeline that it was "
            "made for"
        )


def fuse_distillation_lora(transformer: FantasyTalkingTransformer3DModel) -> None:
    """Fuses the LoRA of a distilled transformer, whose teacher nobody asks any more; others stay as they are."""
    if transformer.distillation is not None and has_lora(transformer):
        fuse_lora(transformer)
    transformer.requires_grad_(False)


def _check_guidance_scale(name: str, schedule: GuidanceSchedule, trained_range: tuple[float, float], hint: str) -> None:
    if schedule.scale_start != schedule.scale_end or schedule.stop != 1:
        raise InputError(f"{name} guidance follows a schedule; a distilled model takes one scale for all steps: {hint}")
    low, high = trained_range
    if not low <= schedule.scale_start <= high:
        raise InputError(
            f"the scale of {name} guidance is {schedule.scale_start:g}; this distilled model was taught {low:g} to "
            f"{high:g}: "
            f"{hint}"
        )
