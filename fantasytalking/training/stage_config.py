"""Configuration of a training stage: objective, loss, dropout, LoRA, distillation and the expression condition."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.validation import check_fraction, check_range
from fantasytalking.condition_registry import registered_condition
from fantasytalking.condition_specs import CONDITIONS
from fantasytalking.data.collate import AudioAlignment
from fantasytalking.flow_matching import LossNormalization, SigmaConfig
from fantasytalking.models.cfg_branches import CfgOrder
from fantasytalking.models.experts import Expert
from fantasytalking.models.guidance_embedder import MAX_DISTILLATION_WINDOWS, MAX_GUIDANCE_SCALE, DistillationSpec
from fantasytalking.training.expression_condition import ExpressionConditionConfig


class ObjectiveType(Enum):
    """Training method, by name; see `fantasytalking.training.objectives.OBJECTIVES`."""

    flow_matching = "flow_matching"
    """Predicts the velocity from data to noise: stages 1 and 2 and the portrait stage."""
    distillation = "distillation"
    """Piecewise rectified flow with folded-in guidance: stage 3. Settings: `stage.distillation`."""


class LossWeight(Enum):
    """Spatial weight of the loss."""

    uniform = "uniform"
    """Every position counts equally: stage 1."""
    lip = "lip"
    """Lip mask times the loss if p > eta, uniform otherwise (paper section 3.2): stage 2."""


class MaskSampling(Enum):
    """How often p of the lip-mask loss is drawn. The paper leaves it open."""

    sample = "sample"
    """Once per clip: every batch has masked and unmasked clips, so the gradient is less noisy."""
    step = "step"
    """Once per step, for the whole global batch."""


class ReferenceDropoutTarget(Enum):
    """What is removed when the reference is dropped. The paper leaves it open."""

    face = "face"
    """The face attention. The first frame stays, as in every guidance branch and as a frozen base requires."""
    image = "image"
    """The first frame (latents, mask and CLIP tokens), so that the face tokens must carry the identity."""
    all = "all"
    """Both."""


@dataclass
class LossConfig:
    """Loss of a stage."""

    weight: LossWeight = LossWeight.uniform
    eta: float = 0.2
    """Fraction of clips (or steps) whose loss is not masked, in [0, 1] (paper: 0.2)."""
    mask_sampling: MaskSampling = MaskSampling.sample
    normalization: LossNormalization = LossNormalization.positions
    """positions: divides by all positions, so that lips count 1 and the rest eta on average (the paper's formula).
    mask: divides by the mask's area, which gives the mean error of the lips."""
    sigmas: SigmaConfig = field(default_factory=SigmaConfig)

    def validate(self) -> None:
        """Validates eta."""
        check_fraction("stage.loss.eta", self.eta)


DROPOUT_NAMES = tuple(dict.fromkeys(spec.dropout for spec in CONDITIONS if spec.dropout is not None))
"""Keys of `DropoutConfig` that hold a probability."""


@dataclass
class DropoutConfig:
    """Probability, in [0, 1], of dropping each condition independently of the others (paper: 0.1 each)."""

    reference: float = 0.1
    audio: float = 0.1
    """Sets the scale of the audio attention to 0, as guidance does at inference."""
    prompt: float = 0.1
    """Sets the prompt embeddings to zeros, which is what Wan pads every prompt with."""
    expression: float = 0.2
    """Sets the scale of the expression attention to 0; only for stages with an expression condition (FantasyPortrait:
    0.2, which also drops reference and prompt at 0.2)."""
    reference_target: ReferenceDropoutTarget = ReferenceDropoutTarget.face

    def validate(self) -> None:
        """Validates the probabilities."""
        for name in DROPOUT_NAMES:
            check_fraction(f"stage.dropout.{name}", getattr(self, name))


@dataclass
class RegisteredConditionConfig:
    """A registered condition of a stage (`fantasytalking.condition_registry`), fed by the clips' values."""

    sizes: dict[str, int] = field(default_factory=dict)
    """Sizes of its module; missing ones have the registered defaults."""
    dropout: float = 0.1
    """Probability, in [0, 1], of setting its scale to 0, as guidance does at inference."""


@dataclass
class LoraConfig:
    """Low-rank adaptation of the base (PEFT)."""

    rank: int = 0
    """0 disables the LoRA."""
    alpha: float = 64.0
    """The update is scaled by alpha / rank."""
    target_modules: list[str] = field(
        default_factory=lambda: [
            f"{attention}.{layer}" for attention in ("attn1", "attn2") for layer in ("to_q", "to_k", "to_v", "to_out.0")
        ]
    )
    """Suffixes of the names of the adapted linear layers: of the base, and of adapter modules such as
    attn2.audio_k_proj, which is then trained at low rank instead of whole."""

    def validate(self) -> None:
        """Validates rank, alpha and the target modules."""
        check_range("stage.lora.rank", self.rank, 0, 1024)
        check_range("stage.lora.alpha", self.alpha, 1e-3, 1e5)
        if self.rank and not self.target_modules:
            raise InputError(
                "stage.lora.target_modules is empty; name the layers, as in [attn1.to_q,attn1.to_v]",
                code=ErrorCode.missing_value,
                field="stage.lora.target_modules",
                value=[],
            )


@dataclass
class DistillationConfig:
    """Few-step distillation with guidance folded in: stage 3 (see `fantasytalking.training.distillation`)."""

    num_windows: int = 4
    """K: number of sampling steps of the student."""
    teacher_steps_per_window: int = 4
    """Guided teacher steps per window, each of three forward passes."""
    flow_shift: float = 5.0
    """Shift of the noise levels of teacher and student, and of the videos that the student generates."""
    text_guidance_range: list[float] = field(default_factory=lambda: [1.0, 7.0])
    """Smallest and largest text guidance scale that the student learns."""
    audio_guidance_range: list[float] = field(default_factory=lambda: [1.0, 7.0])
    """Smallest and largest audio guidance scale that the student learns."""
    guidance_order: CfgOrder = CfgOrder.text_first
    window_start_fraction: float = 0.5
    """Fraction of clips sampled at the start of a window, where the student is evaluated at inference; the others are
    uniform within it, as in the publication (fraction 0)."""
    embedder_dim: int = 128
    """Inner width of the guidance embedder."""
    save_float16: bool = False
    """Whether the adapter is saved in float16."""

    def validate(self) -> None:
        """Validates counts, shift and guidance ranges."""
        check_range("stage.distillation.num_windows", self.num_windows, 1, MAX_DISTILLATION_WINDOWS)
        check_range("stage.distillation.teacher_steps_per_window", self.teacher_steps_per_window, 1, 1000)
        check_range("stage.distillation.flow_shift", self.flow_shift, 0.01, 100)
        check_range("stage.distillation.embedder_dim", self.embedder_dim, 1, 8192)
        check_fraction("stage.distillation.window_start_fraction", self.window_start_fraction)
        for name in ("text_guidance_range", "audio_guidance_range"):
            scales = getattr(self, name)
            if len(scales) != 2 or not 0 <= scales[0] <= scales[1] <= MAX_GUIDANCE_SCALE:
                raise InputError(
                    f"stage.distillation.{name} is {scales}; it must be [smallest, largest] within 0 to "
                    f"{MAX_GUIDANCE_SCALE:g}, as in [1, 7]",
                    code=ErrorCode.out_of_range,
                    field=f"stage.distillation.{name}",
                    value=scales,
                )

    def to_spec(self) -> DistillationSpec:
        """Returns what the model is built with and what its adapter records."""
        text, audio = ((scales[0], scales[1]) for scales in (self.text_guidance_range, self.audio_guidance_range))
        return DistillationSpec(self.num_windows, self.flow_shift, text, audio, self.guidance_order, self.embedder_dim)


@dataclass
class StageConfig:
    """Everything in which the stages differ."""

    name: str = MISSING
    alignment: AudioAlignment = MISSING
    """clip or frame (paper section 3.1)."""
    steps: int = MISSING
    """Number of optimizer steps in total, also when resumed."""
    objective: ObjectiveType | None = None
    """Training method; None selects distillation if `distillation` is set and flow_matching otherwise."""
    trainable: list[str] = field(default_factory=lambda: ["audio", "face", "motion"])
    """Shell patterns of parameter names, or: audio, face, motion, expression, guidance, a name in `conditions` (the
    adapter's modules), base (everything else) and * (all). LoRA layers always train."""
    init_from: str | None = None
    """Initial weights: an adapter folder (stage 1's, for stage 2), the released audio or portrait weights, or the saved
    pipeline that is also the base; None: randomly initialized modules."""
    expert: Expert | None = None
    """Transformer that trains, of a base with two: high or low noise levels, which are then the only ones drawn; None
    for any other base."""
    loss: LossConfig = field(default_factory=LossConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    expression: ExpressionConditionConfig | None = None
    """Adds an expression condition, fed by the clips' expressions; None: audio alone drives the faces."""
    conditions: dict[str, RegisteredConditionConfig] = field(default_factory=dict)
    """Registered conditions by name, which are added to a model that lacks them."""
    distillation: DistillationConfig | None = None
    """Settings of the distillation objective."""

    def validate(self) -> None:
        """Validates the stage's numbers and that objective and settings fit together."""
        check_range("stage.steps", self.steps, 1, 10**8)
        if not self.trainable:
            raise InputError(
                "stage.trainable is empty; name what trains, as in stage.trainable=[audio,face,motion]",
                code=ErrorCode.missing_value,
                field="stage.trainable",
                value=[],
            )
        if (self.resolved_objective is ObjectiveType.distillation) != (self.distillation is not None):
            raise InputError(
                f"stage.objective is {self.resolved_objective.value}, but stage.distillation is "
                f"{'not set' if self.distillation is None else 'set'}; leave out stage.objective, or set both",
                code=ErrorCode.conflict,
                field="stage.objective",
                value=self.resolved_objective.value,
            )
        for name, condition in self.conditions.items():
            registered_condition(name, "stage").resolve_sizes(condition.sizes, "stage")
            check_fraction(f"stage.conditions.{name}.dropout", condition.dropout)
        if self.distillation is not None:
            self._validate_distillation()

    @property
    def resolved_objective(self) -> ObjectiveType:
        """The objective that trains the stage."""
        if self.objective is not None:
            return self.objective
        return ObjectiveType.flow_matching if self.distillation is None else ObjectiveType.distillation

    @property
    def save_float16(self) -> bool:
        """Whether the adapter is saved in float16."""
        return any(part is not None and part.save_float16 for part in (self.expression, self.distillation))

    def _validate_distillation(self) -> None:
        """Teacher and student share one network, so only modules that the teacher bypasses may train."""
        if self.trainable != ["guidance"]:
            raise InputError(
                f"stage.trainable is {self.trainable}; distillation trains the guidance embedder and a LoRA: use "
                "stage.trainable=[guidance]",
                code=ErrorCode.conflict,
                field="stage.trainable",
                value=self.trainable,
            )
        if not self.lora.rank:
            raise InputError(
                "stage.lora.rank is 0; distillation trains the guidance embedder and a LoRA: use a rank above 0",
                code=ErrorCode.conflict,
                field="stage.lora.rank",
                value=0,
            )
        if self.init_from is None:
            raise InputError(
                "stage.init_from is not set; distillation needs a teacher: set it to the adapter of stage 2",
                code=ErrorCode.missing_value,
                field="stage.init_from",
            )
        if self.expression is not None:
            raise InputError(
                "stage.expression is set; distillation folds in the guidance of text and audio only: distill the "
                "adapter of stage 2 and train the expression condition separately",
                code=ErrorCode.conflict,
                field="stage.expression",
            )
        if self.conditions:
            raise InputError(
                f"stage.conditions has {', '.join(self.conditions)}; distillation folds in the guidance of text and "
                "audio only: leave them out",
                code=ErrorCode.conflict,
                field="stage.conditions",
                value=list(self.conditions),
            )
        for name in ("reference", "audio", "prompt"):
            if rate := getattr(self.dropout, name):
                raise InputError(
                    f"stage.dropout.{name} is {rate}; distillation drops no condition: use 0",
                    code=ErrorCode.conflict,
                    field=f"stage.dropout.{name}",
                    value=rate,
                )
