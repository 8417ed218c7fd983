"""The controls of a generation, and the checked plan that a model makes of them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin

from fantasytalking.attention_regions import BackgroundAttention
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_PROMPT_CHARS
from fantasytalking.common.text import is_utf8
from fantasytalking.common.validation import check_range, check_ranges
from fantasytalking.condition_registry import registered_condition
from fantasytalking.latent_geometry import LatentGeometry
from fantasytalking.models.guidance_embedder import DistillationSpec
from fantasytalking.pipeline.guidance import GuidanceConfig, GuidanceSchedule
from fantasytalking.pipeline.model_facts import ModelFacts
from fantasytalking.pipeline.sliding_window import check_window_overlap, latent_window_sizes

NEUTRAL_MOTION = 0.5
DEFAULT_NUM_INFERENCE_STEPS = 30
"""Denoising steps of a model that is not distilled."""
MAX_NUM_INFERENCE_STEPS = 1000


@dataclass
class GenerationControls:
    """Everything that controls one video, besides its image, audio and driving videos."""

    prompt: str = ""
    """Description of the video; empty: no prompt."""
    negative_prompt: str = ""
    """Prompt of the branches without the prompt; empty: none."""
    expression_motion: float = NEUTRAL_MOTION
    """Intensity of the facial expression in [0, 1]; 0.5 is neutral."""
    body_motion: float = NEUTRAL_MOTION
    """Intensity of head and body motion in [0, 1]; 0.5 is neutral."""
    face_scale: float | None = None
    """Scale of the face attention in [0, 10], 1 as trained; null: 1 where the face module was trained, else 0."""
    expression_scale: float = 1.0
    """Scale of the driving expressions in [0, 10], 1 as trained."""
    condition_scales: dict[str, float] = field(default_factory=dict)
    """Scales of registered conditions by name in [0, 10], 1 as trained; 1 for those that are missing."""
    background: BackgroundAttention = BackgroundAttention.everyone
    """Whose audio and driving expressions the tokens outside all faces attend to (several people only)."""
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    num_inference_steps: int | None = None
    """Denoising steps; null: 30, or the number that a distilled model was trained for."""
    fps: float = 25.0
    """Frames per second."""
    window_frames: int = 81
    """Frames denoised at once, a whole number of latent frames (1 + 4k for Wan): the clip length of training."""
    overlap_frames: int = 24
    """Frames shared by neighboring windows of a longer video, whole latent frames (a multiple of 4 for
    Wan)."""

    def validate(self) -> None:
        """Validates the ranges that do not depend on the model.

        Raises:
            InputError: a value is outside its range.
        """
        limits: dict[str, tuple[float, float]] = {
            "expression_motion": (0, 1),
            "body_motion": (0, 1),
            "face_scale": (0, 10),
            "expression_scale": (0, 10),
            "num_inference_steps": (1, MAX_NUM_INFERENCE_STEPS),
            "fps": (1, 120),
            "window_frames": (9, 1201),
        }
        check_ranges(self, limits)
        for name, scale in self.condition_scales.items():
            check_range(f"condition_scales.{name}", scale, 0, 10)
        for name in ("prompt", "negative_prompt"):
            text = getattr(self, name)
            if not isinstance(text, str):
                raise InputError(
                    f"{name} is a {type(text).__name__}; one video is generated per call: give one string",
                    code=ErrorCode.invalid_type,
                    field=name,
                    value=text,
                )
            if not is_utf8(text):
                raise InputError(
                    f"{name} '{text}' is not UTF-8 text; give it in UTF-8",
                    code=ErrorCode.malformed_file,
                    field=name,
                    value=text,
                )
            length = len(text)
            if length > MAX_PROMPT_CHARS:
                raise InputError(
                    f"{name} has {length} characters; at most {MAX_PROMPT_CHARS} are allowed",
                    code=ErrorCode.out_of_range,
                    field=name,
                    value=length,
                )
        self.guidance.validate()


@dataclass(frozen=True)
class GenerationPlan:
    """The controls of a generation as one model follows them: every value checked, every default resolved."""

    prompt: str
    negative_prompt: str
    motion_intensity: tuple[float, float]
    """Of expression and body."""
    face_scale: float
    expression_scale: float
    condition_scales: dict[str, float]
    background: BackgroundAttention
    guidance: GuidanceConfig
    num_inference_steps: int
    fps: float
    window_length: int
    """Latent frames per window."""
    window_overlap: int
    """Latent frames shared by neighboring windows."""
    geometry: LatentGeometry


def plan_generation(
    facts: ModelFacts,
    controls: GenerationControls,
    *,
    has_audio: bool,
    has_driving_video: bool = False,
    needs_expression_encoder: bool = True,
    extra_conditions: Collection[str] = (),
    scheduler: SchedulerMixin | None = None,
) -> GenerationPlan:
    """Checks `controls` against a model and resolves their defaults; computes and reads nothing.

    Args:
        has_audio: whether anybody speaks.
        has_driving_video: whether videos or expressions drive faces.
        needs_expression_encoder: whether a driving video has yet to be encoded.
        extra_conditions: names of the registered conditions of the video.
        scheduler: of the model; None: it is checked once the pipeline is loaded.

    Raises:
        InputError: a value is outside its range, a control belongs to a module that was never trained, or a distilled
            model was not trained for it.
    """
    controls.validate()
    if has_audio:
        check_audio_supported(facts.trained_modules)
    if has_driving_video:
        _check_driving_supported(facts, needs_expression_encoder)
    _check_conditions_supported(facts, controls, extra_conditions)
    _check_motion_supported(facts.trained_modules, controls)
    _check_expert_guidance(facts, controls.guidance)
    face_scale = _resolve_face_scale(facts, controls.face_scale)
    check_supported_guidance(
        facts.distillation,
        controls.guidance,
        controls.negative_prompt,
        has_driving_video=has_driving_video,
        extra_conditions=extra_conditions,
    )
    if scheduler is not None:
        check_supported_scheduler(facts.distillation, scheduler)
    window_length, window_overlap = latent_window_sizes(
        controls.window_frames, controls.overlap_frames, facts.geometry.temporal_stride
    )
    check_window_overlap(window_length, window_overlap)
    return GenerationPlan(
        controls.prompt,
        controls.negative_prompt,
        (controls.expression_motion, controls.body_motion),
        face_scale,
        controls.expression_scale,
        controls.condition_scales,
        controls.background,
        controls.guidance,
        resolve_num_inference_steps(facts.distillation, controls.num_inference_steps),
        controls.fps,
        window_length,
        window_overlap,
        facts.geometry,
    )


def exclusive_controls(controls: GenerationControls | None, keywords: GenerationControls) -> GenerationControls:
    """Returns the controls object or, where it is None, the controls given as keyword arguments.

    Raises:
        InputError: both are given.
    """
    if controls is None:
        return keywords
    default = GenerationControls()
    changed = [name for name, value in vars(keywords).items() if value != getattr(default, name)]
    if changed:
        raise InputError(
            f"both controls and {changed[0]} were given; set {changed[0]} in controls",
            code=ErrorCode.conflict,
            field=changed[0],
            value=getattr(keywords, changed[0]),
        )
    return controls


def check_audio_supported(trained_modules: Sequence[str]) -> None:
    """Checks that the model's audio module was trained.

    Raises:
        InputError: it was not.
    """
    if "audio" not in trained_modules:
        raise InputError(
            "this model's audio module was never trained, so nobody would speak; use another adapter",
            code=ErrorCode.not_trained,
            field="audio",
        )


def resolve_num_inference_steps(distillation: DistillationSpec | None, num_inference_steps: int | None) -> int:
    """Returns the requested number of steps, or the model's default.

    Raises:
        InputError: the number is outside its range, or the steps would miss the window boundaries of a distilled model.
    """
    if num_inference_steps is None:
        return DEFAULT_NUM_INFERENCE_STEPS if distillation is None else distillation.windows
    if not 1 <= num_inference_steps <= MAX_NUM_INFERENCE_STEPS:
        raise InputError(
            f"num_inference_steps is {num_inference_steps}; it must be 1 to {MAX_NUM_INFERENCE_STEPS}",
            code=ErrorCode.out_of_range,
            field="num_inference_steps",
            value=num_inference_steps,
        )
    if distillation is not None and num_inference_steps % distillation.windows:
        raise InputError(
            f"num_inference_steps is {num_inference_steps}; this distilled model takes {distillation.windows} or a "
            "multiple of it",
            code=ErrorCode.unsupported,
            field="num_inference_steps",
            value=num_inference_steps,
        )
    return num_inference_steps


def check_supported_guidance(
    distillation: DistillationSpec | None,
    guidance: GuidanceConfig,
    negative_prompt: str,
    *,
    has_driving_video: bool = False,
    extra_conditions: Collection[str] = (),
) -> None:
    """Checks that a distilled model was trained for the guidance; any other model can follow any guidance.

    Raises:
        InputError: a schedule, a scale outside the trained range, another order, color rescaling or a negative prompt.
    """
    if distillation is None:
        return
    for name, schedule, trained in (
        ("text", guidance.text, distillation.text),
        ("audio", guidance.audio, distillation.audio),
    ):
        _check_guidance_schedule(name, schedule, trained)
    expression = guidance.expression
    if has_driving_video and expression.stop and (expression.scale_start, expression.scale_end) != (1, 1):
        raise _distilled_error(
            "guidance.expression.scale_start",
            expression.scale_start,
            "a distilled model has no expression guidance: use --expression-guidance-scale 1",
        )
    for name in extra_conditions:
        schedule = guidance.schedule(name)
        if schedule.stop and (schedule.scale_start, schedule.scale_end) != (1, 1):
            raise _distilled_error(
                f"guidance.conditions.{name}.scale_start",
                schedule.scale_start,
                "a distilled model has no guidance by conditions: leave it out",
            )
    if guidance.order is not distillation.formula:
        trained_order = distillation.formula.value
        raise _distilled_error(
            "guidance.order", guidance.order.value, f"this distilled model was trained with {trained_order}"
        )
    if guidance.color_rescale:
        raise _distilled_error(
            "guidance.color_rescale", guidance.color_rescale, "a distilled model has no branches to rescale to"
        )
    if negative_prompt:
        raise _distilled_error("negative_prompt", negative_prompt, "a distilled model cannot follow one")


def check_supported_scheduler(distillation: DistillationSpec | None, scheduler: SchedulerMixin) -> None:
    """Checks that the scheduler steps along the window boundaries that a distilled model was trained on.

    Raises:
        InputError: it is another scheduler, or has another flow shift.
    """
    if distillation is None:
        return
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        raise InputError(
            f"the scheduler is {type(scheduler).__name__}; a distilled model steps straight through its windows: use "
            "scheduler=euler",
            code=ErrorCode.unsupported,
            field="scheduler",
            value=type(scheduler).__name__,
        )
    if abs(scheduler.shift - distillation.shift) > 1e-6:
        raise InputError(
            f"flow_shift is {scheduler.shift:g}; this model was distilled with {distillation.shift:g}: use "
            f"flow_shift={distillation.shift:g}",
            code=ErrorCode.unsupported,
            field="flow_shift",
            value=scheduler.shift,
        )


def _check_guidance_schedule(name: str, schedule: GuidanceSchedule, trained_range: tuple[float, float]) -> None:
    if schedule.scale_start != schedule.scale_end or schedule.stop != 1:
        raise _distilled_error(
            f"guidance.{name}", schedule, "it is a schedule, and a distilled model takes one scale for all steps"
        )
    low, high = trained_range
    if not low <= schedule.scale_start <= high:
        raise _distilled_error(
            f"guidance.{name}.scale_start",
            schedule.scale_start,
            f"this distilled model was trained for {low:g} to {high:g}",
        )


def _distilled_error(name: str, value: object, limit: str) -> InputError:
    shown = f"'{value:.40}'" if isinstance(value, str) else value
    return InputError(
        f"{name} is {shown}; {limit}: change it, or use a model that is not distilled",
        code=ErrorCode.unsupported,
        field=name,
        value=value,
    )


def _check_driving_supported(facts: ModelFacts, needs_expression_encoder: bool) -> None:
    if "expression" not in facts.trained_modules:
        raise InputError(
            "a driving video was given, but this model has no expression module; give an adapter that has one: "
            "expression_adapter=FOLDER",
            code=ErrorCode.not_trained,
            field="driving_video",
        )
    if needs_expression_encoder and not facts.has_expression_encoder:
        raise InputError(
            "a driving video was given, but there is no expression encoder to read it; give the one that the model "
            "was trained with: expression_encoder=FOLDER",
            code=ErrorCode.missing_value,
            field="expression_encoder",
        )


def _check_conditions_supported(
    facts: ModelFacts, controls: GenerationControls, extra_conditions: Collection[str]
) -> None:
    for name in extra_conditions:
        registered_condition(name, "condition")
        if name not in facts.conditions or name not in facts.trained_modules:
            raise InputError(
                f"the condition '{name}' was given, but this model has no trained module for it; give an adapter that "
                "has one: adapter=FOLDER",
                code=ErrorCode.not_trained,
                field=name,
            )
    for field_name, names in (
        ("guidance.conditions", controls.guidance.conditions),
        ("condition_scales", controls.condition_scales),
    ):
        unused = sorted(names.keys() - set(extra_conditions))
        if unused:
            raise InputError(
                f"{field_name} names '{unused[0]}', but this video has no such condition; give its value "
                f"(--condition {unused[0]}=FILE), or leave it out",
                code=ErrorCode.missing_value,
                field=field_name,
                value=unused[0],
            )


def _check_motion_supported(trained_modules: Sequence[str], controls: GenerationControls) -> None:
    for name in ("expression_motion", "body_motion"):
        value = getattr(controls, name)
        if "motion" not in trained_modules and value != NEUTRAL_MOTION:
            raise InputError(
                f"{name} is {value:g}, but this model's motion module was never trained; leave it at "
                f"{NEUTRAL_MOTION}, or use an adapter that has the module",
                code=ErrorCode.not_trained,
                field=name,
                value=value,
            )


def _check_expert_guidance(facts: ModelFacts, guidance: GuidanceConfig) -> None:
    if guidance.text_2 is not None and not facts.has_experts:
        raise InputError(
            f"guidance.text_2 is {guidance.text_2:g}, but this model has one transformer for all steps; leave it out",
            code=ErrorCode.unsupported,
            field="guidance.text_2",
            value=guidance.text_2,
        )


def _resolve_face_scale(facts: ModelFacts, face_scale: float | None) -> float:
    trained = "face" in facts.trained_modules
    scale = float(trained) if face_scale is None else face_scale
    if scale and not trained:
        raise InputError(
            f"face_scale is {scale:g}, but this model's face module was never trained; leave it out, or use an "
            "adapter that has the module",
            code=ErrorCode.not_trained,
            field="face_scale",
            value=scale,
        )
    if scale and not facts.has_face_encoder:
        raise InputError(
            "this model attends to the face, but has no face encoder; give an ArcFace .onnx as face_encoder, or "
            "face_scale=0",
            code=ErrorCode.missing_value,
            field="face_encoder",
        )
    return scale
