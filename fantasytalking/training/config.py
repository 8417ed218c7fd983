"""What a training run is: configs/<preset>/stage1.yaml and the other stages over these defaults."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from fantasytalking.attention_regions import BackgroundAttention
from fantasytalking.common.errors import InputError
from fantasytalking.data.collate import AudioAlignment, CollateConfig, MaskProjection
from fantasytalking.data.collate_multi_person import RegionBoxes
from fantasytalking.flow_matching import LossNormalization, SigmaConfig
from fantasytalking.models.cfg_branches import CfgOrder
from fantasytalking.models.guidance_embedder import MAX_DISTILLATION_WINDOWS, MAX_GUIDANCE_SCALE, DistillationSpec
from fantasytalking.training.expression_condition import ExpressionConditionConfig
from fantasytalking.training.limits import check_fraction, check_range
from fantasytalking.training.validation_config import HoldoutConfig, ValidationConfig


class LossWeight(Enum):
    """Where in the picture errors count."""

    uniform = "uniform"
    """Everywhere alike: stage 1."""
    lip = "lip"
    """Lip mask times loss when p > eta, else everywhere (paper section 3.2): stage 2."""


class MaskSampling(Enum):
    """How often p of the lip-mask loss is drawn. The paper leaves it open."""

    sample = "sample"
    """For every clip: each batch holds both kinds, so the gradient is less noisy."""
    step = "step"
    """Once for the whole global batch."""


class ReferenceDropoutTarget(Enum):
    """What is taken away when the reference is dropped. The paper only says that it is."""

    face = "face"
    """The face attention. The first frame stays, as in every branch of inference and as a frozen base needs it."""
    image = "image"
    """The first frame (its latents, their mask, and the CLIP tokens), so that the face tokens must carry the person."""
    all = "all"
    """Both."""


class LRSchedule(Enum):
    """Of the learning rate, after the warm-up."""

    constant = "constant"
    linear = "linear"
    """Down to `min_lr_ratio` at the last step."""
    cosine = "cosine"


class OptimizerType(Enum):
    """How weights are stepped."""

    adamw = "adamw"
    muon = "muon"
    """Orthogonalised momentum for matrices, AdamW for the rest: fewer steps for what is trained from nothing."""


class MixedPrecision(Enum):
    """Arithmetic of forward and backward. What trains is kept in float32; in bf16 the frozen base is kept in bf16."""

    no = "fp32"
    bf16 = "bf16"


class WandbMode(Enum):
    """Where wandb writes."""

    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class LossConfig:
    """The loss of a stage."""

    weight: LossWeight = LossWeight.uniform
    eta: float = 0.2
    """Share of clips (or steps) whose loss is not masked (paper: 0.2)."""
    mask_sampling: MaskSampling = MaskSampling.sample
    normalization: LossNormalization = LossNormalization.positions
    """positions: on average a lip counts 1 and the rest eta, as in the paper's formula. mask: the lips' mean error."""
    sigmas: SigmaConfig = field(default_factory=SigmaConfig)

    def validate(self) -> None:
        """Holds eta in its limits."""
        check_fraction("loss.eta", self.eta)


@dataclass
class DropoutConfig:
    """How often each condition is left out, independently of the others (paper: 0.1 each)."""

    reference: float = 0.1
    audio: float = 0.1
    """Closes the audio gate, as guidance does at inference."""
    prompt: float = 0.1
    """Sets the text states to zeros, which are what Wan pads every prompt with."""
    expression: float = 0.2
    """Closes the expression's gate; of a stage that trains it (FantasyPortrait: 0.2, reference and prompt alike)."""
    reference_target: ReferenceDropoutTarget = ReferenceDropoutTarget.face

    def validate(self) -> None:
        """Holds the shares in their limits."""
        for name in ("reference", "audio", "prompt", "expression"):
            check_fraction(f"dropout.{name}", getattr(self, name))


@dataclass
class LoraConfig:
    """Low-rank adaptation of the base (PEFT); rank 0 = none."""

    rank: int = 0
    alpha: float = 64.0
    """The update is scaled by alpha / rank."""
    target_modules: list[str] = field(
        default_factory=lambda: [
            f"{attention}.{layer}" for attention in ("attn1", "attn2") for layer in ("to_q", "to_k", "to_v", "to_out.0")
        ]
    )
    """Ends of the names of the layers that get one."""

    def validate(self) -> None:
        """Holds rank and alpha in their limits."""
        check_range("lora.rank", self.rank, 0, 1024)
        check_range("lora.alpha", self.alpha, 1e-3, 1e5)
        if self.rank and not self.target_modules:
            raise InputError("lora.targets is empty; name the layers, as in lora.targets=[attn1.to_q,attn1.to_v]")


@dataclass
class DistillationConfig:
    """Few steps with guidance folded in: stage 3 (fantasytalking/training/distillation.py)."""

    num_windows: int = 4
    """K: steps that the student will take."""
    teacher_steps_per_window: int = 4
    """Guided steps of the teacher for each of them; every one is three calls."""
    flow_shift: float = 5.0
    """Of the noise levels of both, and so of the videos that the student will make."""
    text_guidance_range: list[float] = field(default_factory=lambda: [1.0, 7.0])
    """Least and largest scale of text guidance that the student learns."""
    audio_guidance_range: list[float] = field(default_factory=lambda: [1.0, 7.0])
    guidance_order: CfgOrder = CfgOrder.text_first
    window_start_fraction: float = 0.5
    """Share of the clips asked at the very start of a window, where K steps ask; the others anywhere in it, as in the
    publication, whose share is 0."""
    embedder_dim: int = 128
    """Inner width of the guidance embedder."""
    save_float16: bool = False
    """Whether the adapter is written in float16."""

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        check_range("stage.distillation.num_windows", self.num_windows, 1, MAX_DISTILLATION_WINDOWS)
        check_range("stage.distillation.teacher_steps_per_window", self.teacher_steps_per_window, 1, 1000)
        check_range("stage.distillation.flow_shift", self.flow_shift, 0.01, 100)
        check_range("stage.distillation.embedder_dim", self.embedder_dim, 1, 8192)
        check_fraction("stage.distillation.window_start_fraction", self.window_start_fraction)
        for name in ("text_guidance_range", "audio_guidance_range"):
            scales = getattr(self, name)
            if len(scales) != 2 or not 0 <= scales[0] <= scales[1] <= MAX_GUIDANCE_SCALE:
                raise InputError(
                    f"stage.distillation.{name} is {scales}; it must be two scales, the least and the largest, "
                    f"0 to {MAX_GUIDANCE_SCALE:g}, as in [1, 7]"
                )

    def to_spec(self) -> DistillationSpec:
        """What the student will follow."""
        text, audio = ((scales[0], scales[1]) for scales in (self.text_guidance_range, self.audio_guidance_range))
        return DistillationSpec(self.num_windows, self.flow_shift, text, audio, self.guidance_order, self.embedder_dim)


@dataclass
class StageConfig:
    """What makes a stage: everything in which the stages may differ."""

    name: str = MISSING
    alignment: AudioAlignment = MISSING
    """clip or frame (paper section 3.1)."""
    steps: int = MISSING
    """Steps in all, also when resumed."""
    trainable: list[str] = field(default_factory=lambda: ["audio", "face", "motion"])
    """Shell patterns of parameter names; audio, face and motion stand for the paper's modules, base for everything else
    and * for all. LoRA layers train whenever there are any."""
    init_from: str | None = None
    """An adapter folder of ours (stage 1's, for stage 2), the released audio or portrait weights, or the saved pipeline
    that is the base as well; none: fresh modules."""
    loss: LossConfig = field(default_factory=LossConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    expression: ExpressionConditionConfig | None = None
    """Adds an expression condition and gives it the clips' expressions; none: the faces are driven by sound alone."""
    distillation: DistillationConfig | None = None
    """Teaches what `init_from` brings to make videos in few steps; none: ordinary training."""

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        check_range("stage.steps", self.steps, 1, 10**8)
        if not self.trainable:
            raise InputError("stage.trainable is empty; name what trains, as in stage.trainable=[audio,face,motion]")
        if self.distillation is not None:
            self._check_distillation()

    @property
    def save_float16(self) -> bool:
        """Whether the adapter is written in float16."""
        return any(part is not None and part.save_float16 for part in (self.expression, self.distillation))

    def _check_distillation(self) -> None:
        """Teacher and student are one network, so only what the teacher leaves out may train."""
        if self.trainable != ["guidance"] or not self.lora.rank:
            raise InputError(
                f"stage.distillation trains the guidance embedder and a LoRA; stage.trainable is {self.trainable}, "
                f"stage.lora.rank {self.lora.rank}: use stage.trainable=[guidance] and a rank above 0"
            )
        if self.init_from is None:
            raise InputError("stage.distillation has no teacher; set stage.init_from to the adapter of stage 2")
        if self.expression is not None:
            raise InputError(
                "stage.distillation folds in the guidance of text and audio alone, and stage.expression is set; distil "
                "the adapter of stage 2 and train the expression condition apart from it"
            )
        dropped = [name for name in ("reference", "audio", "prompt") if getattr(self.dropout, name)]
        if dropped:
            raise InputError(
                f"stage.dropout.{dropped[0]} is {getattr(self.dropout, dropped[0])}; distillation drops nothing: use 0"
            )


@dataclass
class TrainingDataConfig:
    """The prepared clips of a run."""

    manifests: list[str] = MISSING
    """manifest.jsonl files of prepare_data."""
    refit_motion_normalizer: bool = False
    """Motion is normalised anew over these clips, whatever they were prepared with: one that begins from nothing has
    all of its range, and corpora of different constants go together."""
    max_text_tokens: int = 512
    """Text states are padded or cut to this many tokens; Wan: 512."""
    audio_window_seconds: float = CollateConfig.audio_window_seconds
    """Span of a latent frame's audio window."""
    lip_mask_projection: MaskProjection = MaskProjection.causal
    """How the lip mask came to latent space: causal groups, or trilinear as in the paper."""
    region_boxes: RegionBoxes = RegionBoxes.still
    """Of several people: still boxes as inference knows them, or tracked ones."""
    background: BackgroundAttention = BackgroundAttention.everyone
    num_workers: int = 2
    """Processes that read clips, for each training process; 0 = none of their own."""
    max_unreadable_fraction: float = 0.01
    """Clips that cannot be read are replaced by their neighbours; training stops when more than this share is."""

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        if not self.manifests:
            raise InputError("data.manifests is empty; give the manifest.jsonl of a prepared corpus")
        check_range("data.num_workers", self.num_workers, 0, 256)
        check_fraction("data.max_unreadable_fraction", self.max_unreadable_fraction)

    def collate_config(self, alignment: AudioAlignment, expression: bool = False) -> CollateConfig:
        """The batches of a stage; checked when the configuration is."""
        own = (self.audio_window_seconds, self.max_text_tokens, self.lip_mask_projection)
        config = CollateConfig(alignment, *own, expression, self.region_boxes, self.background)
        config.validate()
        return config


@dataclass
class OptimizerConfig:
    """The optimiser, its learning rate over time, clipping and averaging."""

    type: OptimizerType = OptimizerType.adamw
    learning_rate: float = 1e-4
    """Paper: 1e-4."""
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    """On matrices; never on vectors (biases, norms)."""
    warmup_steps: int = 500
    """Steps over which the learning rate rises from zero."""
    lr_schedule: LRSchedule = LRSchedule.constant
    min_lr_ratio: float = 0.0
    """Of the learning rate at the last step, for linear and cosine."""
    max_grad_norm: float = 1.0
    """Largest norm of the gradient of a step."""
    ema_decay: float = 0.0
    """Moving average of what trains, for validation and for the final adapter; 0 = none."""

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        check_range("optimizer.learning_rate", self.learning_rate, 1e-12, 10)
        for name in ("beta1", "beta2", "ema_decay"):
            check_range(f"optimiser.{name}", getattr(self, name), 0, 0.999999)
        check_range("optimizer.epsilon", self.epsilon, 1e-30, 1)
        check_range("optimizer.weight_decay", self.weight_decay, 0, 10)
        check_range("optimizer.warmup_steps", self.warmup_steps, 0, 10**7)
        check_fraction("optimizer.min_lr_ratio", self.min_lr_ratio)
        check_range("optimizer.max_grad_norm", self.max_grad_norm, 1e-6, 1e6)


@dataclass
class CheckpointsConfig:
    """Checkpoints to resume from."""

    interval: int = 500
    keep_last_n: int = 2

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        check_range("checkpoints.interval", self.interval, 1, 10**8)
        check_range("checkpoints.keep_last_n", self.keep_last_n, 1, 1000)


@dataclass
class LoggingConfig:
    """What is told while it trains; log.jsonl is always written."""

    interval: int = 10
    trackers: list[str] = field(default_factory=list)
    """Of tensorboard and wandb."""
    project: str = "fantasytalking"
    wandb_mode: WandbMode = WandbMode.offline

    def validate(self) -> None:
        """Holds the values in their limits."""
        check_range("logging.interval", self.interval, 1, 10**6)
        for name in self.trackers:
            if name not in ("tensorboard", "wandb"):
                raise InputError(f"logging.trackers has '{name}'; tensorboard and wandb are known")


@dataclass
class TrainConfig:
    """A training run."""

    model: str = "nano"
    """Preset of the sizes: nano, wan1.3b or wan14b (configs/*/model.yaml)."""
    base: str | None = None
    """Folder, file or hub id of the Wan base; none: the preset's."""
    output: str = MISSING
    """Folder of the run: checkpoints/, adapter/, log.jsonl, held_out.jsonl, validation/."""
    seed: int = 0
    batch_size: int = 1
    """Clips a process takes at once."""
    gradient_accumulation_steps: int = 1
    """Times it does so before the weights change. Global batch = batch x accumulation x processes."""
    mixed_precision: MixedPrecision = MixedPrecision.bf16
    gradient_checkpointing: bool = True
    attention_backend: str | None = None
    """Attention backend by diffusers' name (native, _native_math, flash, ...); none: PyTorch's choice, or plain
    products in bfloat16 on a CPU."""
    compile: bool = False
    """PyTorch compiles the blocks, for a minute or two before the first step. On a CPU it needs a C++ compiler."""
    stage: StageConfig = field(default_factory=StageConfig)
    data: TrainingDataConfig = field(default_factory=TrainingDataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    checkpoints: CheckpointsConfig = field(default_factory=CheckpointsConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    holdout: HoldoutConfig = field(default_factory=HoldoutConfig)

    def validate(self) -> None:
        """Holds the numbers in their limits and the parts against each other."""
        check_range("seed", self.seed, 0, 2**63 - 1)
        check_range("batch", self.batch_size, 1, 4096)
        check_range("accumulation", self.gradient_accumulation_steps, 1, 65536)
        self.data.collate_config(self.stage.alignment)
        if self.holdout.interval and self.stage.distillation is not None:
            raise InputError(
                f"holdout.interval is {self.holdout.interval}, and a distilled model's steps have no error of that "
                "kind; "
                "use 0"
            )
        if self.validation.driving_videos and self.stage.expression is None:
            raise InputError(
                f"validation.driving_videos names {len(self.validation.driving_videos)} video(s), and this stage has "
                "no "
                "expression "
                "condition that they could drive; leave them out, or set stage.expression"
            )
