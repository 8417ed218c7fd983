"""What a distilled model can be asked for: it follows what it was taught, and anything else is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin

from fantasytalking.checkpoints.adapter import read_config
from fantasytalking.checkpoints.lora import fuse_lora, has_lora
from fantasytalking.common.errors import InputError
from fantasytalking.models.guidance_embedder import Distillation
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.pipeline.guidance import GuidanceConfig, ScaleSchedule

if TYPE_CHECKING:
    from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline

DEFAULT_STEPS = 30
"""Of a model that was not distilled."""
MAX_STEPS = 1000


def step_count(distillation: Distillation | None, steps: int | None) -> int:
    """The number of steps: as asked for, or else a distilled model's number of windows, or else `DEFAULT_STEPS`.

    Raises:
        InputError: out of the limits, or steps that would not meet the boundaries of the windows.
    """
    if steps is None:
        return DEFAULT_STEPS if distillation is None else distillation.windows
    if not 1 <= steps <= MAX_STEPS:
        raise InputError(f"the number of steps is {steps}; it must be 1 to {MAX_STEPS}")
    if distillation is not None and steps % distillation.windows:
        raise InputError(
            f"the number of steps is {steps}; this distilled model takes {distillation.windows}, or a multiple of it"
        )
    return steps


def check_followed(
    distillation: Distillation | None, guidance: GuidanceConfig, negative_prompt: str, *, driven: bool = False
) -> None:
    """Holds that a distilled model was taught the guidance that is asked for; any other model can follow it.

    Raises:
        InputError: a schedule, a scale that was not taught, the other formula, a kept colour or a negative prompt.
    """
    if distillation is None:
        return
    cure = "change it, or use a model that is not distilled"
    _check_scale("text", guidance.text, distillation.text, cure)
    _check_scale("audio", guidance.audio, distillation.audio, cure)
    if driven and guidance.expression.share and (guidance.expression.start, guidance.expression.end) != (1, 1):
        raise InputError(
            f"the scale of expression guidance is {guidance.expression.start:g}; a distilled model was taught none: "
            "use --expression-guidance 1"
        )
    if guidance.formula is not distillation.formula:
        raise InputError(
            f"the guidance formula is {guidance.formula.value}; this distilled model was taught "
            f"{distillation.formula.value}: {cure}"
        )
    if guidance.keep_colour:
        raise InputError(
            f"keep_colour is {guidance.keep_colour:g}; a distilled model has no branches to keep it from: {cure}"
        )
    if negative_prompt:
        raise InputError(
            f"a negative prompt was given ('{negative_prompt:.40}'); a distilled model cannot follow one: {cure}"
        )


def check_sampler(distillation: Distillation | None, scheduler: SchedulerMixin) -> None:
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


def plan_steps(
    pipeline: "FantasyTalkingPipeline",
    steps: int | None,
    guidance: GuidanceConfig,
    negative_prompt: str,
    *,
    driven: bool = False,
) -> int:
    """The number of steps of a video, once it is known that the model can follow what is asked for.

    Raises:
        InputError: as `step_count`, `check_followed` and `check_sampler`.
    """
    distillation = pipeline.transformer.distillation
    check_followed(distillation, guidance, negative_prompt, driven=driven)
    check_sampler(distillation, pipeline.scheduler)
    return step_count(distillation, steps)


def goes_on_saved(adapter: Path) -> bool:
    """Whether an adapter goes on a saved pipeline that has the rest: as it says, or with distillation's part alone."""
    described = read_config(adapter)
    return described.on_saved or described.modules == ["guidance"]


def check_goes_on(adapter: Path, saved: Mapping[str, Any]) -> None:
    """Holds that an adapter goes on a saved pipeline, of which `saved` tells the settings.

    Raises:
        InputError: it goes on a bare base, or hears through other audio windows.
    """
    if not goes_on_saved(adapter):
        raise InputError(f"adapter '{adapter}' goes on a Wan base, not on a saved pipeline; give the base")
    described = read_config(adapter)
    heard = described.audio_window, described.window_seconds
    if heard != (saved["audio_window"], saved["window_seconds"]):
        raise InputError(
            f"adapter '{adapter}' was trained with audio windows {heard}, the pipeline has "
            f"{(saved['audio_window'], saved['window_seconds'])}; use the pipeline that it was made for"
        )


def settle_distilled(transformer: FantasyTalkingTransformer3DModel) -> None:
    """Fuses the LoRA of a distilled transformer, whose teacher nobody asks any more; others stay as they are."""
    if transformer.distillation is not None and has_lora(transformer):
        fuse_lora(transformer)
    transformer.requires_grad_(False)


def _check_scale(name: str, schedule: ScaleSchedule, taught: tuple[float, float], cure: str) -> None:
    if schedule.start != schedule.end or schedule.share != 1:
        raise InputError(f"{name} guidance follows a schedule; a distilled model takes one scale for all steps: {cure}")
    low, high = taught
    if not low <= schedule.start <= high:
        raise InputError(
            f"the scale of {name} guidance is {schedule.start:g}; this distilled model was taught {low:g} to {high:g}: "
            f"{cure}"
        )
