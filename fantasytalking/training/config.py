"""Configuration of a training run: the defaults of configs/<preset>/stage1.yaml and the other stages."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from fantasytalking.attention_regions import BackgroundAttention
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.validation import check_fraction, check_range
from fantasytalking.data.collate import CollateConfig, MaskProjection
from fantasytalking.data.collate_multi_person import RegionBoxes
from fantasytalking.flow_matching import FULL_SIGMA_RANGE
from fantasytalking.models.image_conditioning import ImageConditioning
from fantasytalking.models.presets import load_model_config
from fantasytalking.training.stage_config import ObjectiveType, ReferenceDropoutTarget, StageConfig


class LRSchedule(Enum):
    """Learning rate after the warmup."""

    constant = "constant"
    linear = "linear"
    """Linear decay to `min_lr_ratio` at the last step."""
    cosine = "cosine"
    """Half a cosine to `min_lr_ratio` at the last step."""


class OptimizerType(Enum):
    """Update rule of the weights."""

    adamw = "adamw"
    adamw_8bit = "adamw_8bit"
    """AdamW with moments of one byte per weight (torchao)."""
    muon = "muon"
    """Orthogonalized momentum for matrices, AdamW for the rest: fewer steps for modules trained from scratch."""


class MixedPrecision(Enum):
    """Precision of forward and backward (accelerate's names). Trained weights are float32 in either."""

    no = "no"
    """float32."""
    bf16 = "bf16"
    """bfloat16 autocast, and a frozen base in bfloat16."""


class BaseQuantization(Enum):
    """Storage of the linear layers of a frozen base."""

    none = "none"
    """As `mixed_precision` says."""
    int8 = "int8"
    """One byte per weight, with a scale per row."""
    float8 = "float8"
    """float8_e4m3fn, with a scale per row."""
    stored = "stored"
    """As the base's file stores them: in GGUF blocks, float8 or int8."""


class WandbMode(Enum):
    """Where wandb writes."""

    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class TrainingDataConfig:
    """Prepared clips of a run."""

    manifests: list[str] = MISSING
    """manifest.jsonl files written by prepare_data. They may be moved between resumed runs, but not change."""
    exclude: list[str] = field(default_factory=list)
    """Clips to leave out: names or shell patterns, such as those of damaging clips in not_finite.jsonl. May change when
    a run is resumed."""
    refit_motion_normalizer: bool = False
    """Fits the motion normalizer to these clips, whatever they were prepared with: a model trained from scratch gets
    the full range of intensities, and corpora with different constants can be mixed."""
    max_text_tokens: int = 512
    """Prompt embeddings are padded or truncated to this many tokens (Wan: 512)."""
    audio_window_seconds: float = CollateConfig.audio_window_seconds
    """Audio window of a latent frame, in seconds."""
    lip_mask_projection: MaskProjection = MaskProjection.causal
    """How the lip mask was projected to latent space: causal groups of frames, or trilinear as in the paper."""
    region_boxes: RegionBoxes = RegionBoxes.still
    """Face boxes of several people: still, as inference has them, or tracked."""
    background: BackgroundAttention = BackgroundAttention.everyone
    num_workers: int = 2
    """Data loading processes per training process; 0 loads in the training process."""
    max_unreadable_fraction: float = 0.01
    """Largest fraction of unreadable clips, in [0, 1]. Their neighbors replace them; above it training stops. A single
    unreadable clip does not stop it, unless this is 0."""

    def validate(self) -> None:
        """Validates manifests and numbers."""
        if not self.manifests:
            raise InputError(
                "data.manifests is empty; give the manifest.jsonl of a prepared corpus",
                code=ErrorCode.missing_value,
                field="data.manifests",
                value=[],
            )
        check_range("data.num_workers", self.num_workers, 0, 256)
        check_fraction("data.max_unreadable_fraction", self.max_unreadable_fraction)


@dataclass
class OptimizerConfig:
    """Optimizer, learning rate schedule, gradient clipping and weight averaging."""

    type: OptimizerType = OptimizerType.adamw
    learning_rate: float = 1e-4
    """Learning rate after the warmup (paper: 1e-4)."""
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    """Applies to matrices, never to vectors (biases, norms)."""
    warmup_steps: int = 500
    """Steps over which the learning rate rises linearly from zero."""
    lr_schedule: LRSchedule = LRSchedule.constant
    min_lr_ratio: float = 0.0
    """Learning rate at the last step over `learning_rate`, in [0, 1] (linear and cosine only)."""
    max_grad_norm: float = 1.0
    """Gradients of a larger global norm are scaled down to it."""
    max_nonfinite_steps: int = 10
    """Steps in a row whose loss or gradient is not finite, after which training stops. Such a step changes nothing; its
    clips are written to the run's not_finite.jsonl."""
    ema_decay: float = 0.0
    """Decay of the moving average of the trained weights, for validation and the final adapter; 0 disables it."""

    def validate(self) -> None:
        """Validates every number."""
        check_range("optimizer.learning_rate", self.learning_rate, 1e-12, 10)
        for name in ("beta1", "beta2", "ema_decay"):
            check_range(f"optimizer.{name}", getattr(self, name), 0, 0.999999)
        check_range("optimizer.epsilon", self.epsilon, 1e-30, 1)
        check_range("optimizer.weight_decay", self.weight_decay, 0, 10)
        check_range("optimizer.warmup_steps", self.warmup_steps, 0, 10**7)
        check_fraction("optimizer.min_lr_ratio", self.min_lr_ratio)
        check_range("optimizer.max_grad_norm", self.max_grad_norm, 1e-6, 1e6)
        check_range("optimizer.max_nonfinite_steps", self.max_nonfinite_steps, 1, 10**8)


@dataclass
class CheckpointsConfig:
    """Checkpoints to resume from."""

    interval: int = 500
    """Steps between checkpoints."""
    keep_last_n: int = 2
    """Number of checkpoints that are kept."""

    def validate(self) -> None:
        """Validates both numbers."""
        check_range("checkpoints.interval", self.interval, 1, 10**8)
        check_range("checkpoints.keep_last_n", self.keep_last_n, 1, 1000)


@dataclass
class LoggingConfig:
    """Metrics of a run; log.jsonl is always written."""

    interval: int = 10
    """Steps between reports."""
    trackers: list[str] = field(default_factory=list)
    """Any of tensorboard and wandb."""
    project: str = "fantasytalking"
    """Project name for the trackers."""
    wandb_mode: WandbMode = WandbMode.offline

    def validate(self) -> None:
        """Validates interval and trackers."""
        check_range("logging.interval", self.interval, 1, 10**6)
        for name in self.trackers:
            if name not in ("tensorboard", "wandb"):
                raise InputError(
                    f"logging.trackers has '{name}'; it must be tensorboard or wandb",
                    code=ErrorCode.invalid_choice,
                    field="logging.trackers",
                    value=name,
                )


@dataclass
class HoldoutConfig:
    """Loss on clips that are not trained on, written to the run's held_out.jsonl."""

    interval: int = 0
    """Steps between evaluations; 0 disables them."""
    manifests: list[str] = field(default_factory=list)
    """manifest.jsonl files written by prepare_data, of identities that the run does not train on."""
    max_clips: int = 32
    """Largest number of clips; the seed selects them."""

    def validate(self) -> None:
        """Validates the numbers and that clips are given if needed."""
        check_range("holdout.interval", self.interval, 0, 10**8)
        check_range("holdout.max_clips", self.max_clips, 1, 10**6)
        if self.interval and not self.manifests:
            raise InputError(
                f"holdout.manifests is empty and holdout.interval is {self.interval}; give the manifest.jsonl of a "
                "prepared corpus",
                code=ErrorCode.missing_value,
                field="holdout.manifests",
                value=[],
            )


@dataclass
class ValidationConfig:
    """Video of a fixed portrait, animated by audio, driving videos or both."""

    interval: int = 0
    """Steps between videos; 0 disables them."""
    image: str | None = None
    """Image file of the portrait."""
    audio: str | None = None
    """Audio file; optional if there are driving videos."""
    driving_videos: list[str] = field(default_factory=list)
    """Videos of a face, one per face of the portrait; only for stages with an expression condition."""
    expression_encoder: str | None = None
    """Encoder of the driving videos; None: that of the inference configuration, else the one next to stage.init_from or
    in the base."""
    max_seconds: float = 4.0
    """Largest duration in seconds, of the audio or, without audio, of the driving videos."""
    prompt: str = "A person is talking."
    motion: float = 0.5
    """Motion intensity in [0, 1]."""
    num_inference_steps: int = 30
    seed: int = 0
    infer_config: str | None = None
    """YAML of inference settings, for guidance and encoders; None: configs/<model>/infer.yaml."""

    def validate(self) -> None:
        """Validates the numbers and that a portrait and what drives it are given if needed."""
        check_range("validation.interval", self.interval, 0, 10**8)
        check_range("validation.max_seconds", self.max_seconds, 0.2, 30)
        check_range("validation.seed", self.seed, 0, 2**63 - 1)
        check_fraction("validation.motion", self.motion)
        check_range("validation.num_inference_steps", self.num_inference_steps, 1, 1000)
        if self.interval and not self.image:
            raise InputError(
                f"validation.image is not set and validation.interval is {self.interval}; give an image file",
                code=ErrorCode.missing_value,
                field="validation.image",
            )
        if self.interval and not self.audio and not self.driving_videos:
            raise InputError(
                f"neither validation.audio nor validation.driving_videos is set and validation.interval is "
                f"{self.interval}; give an audio file, or a video per face",
                code=ErrorCode.missing_value,
                field="validation.audio",
            )


@dataclass
class TrainConfig:
    """A training run."""

    model: str = "nano"
    """Preset of the model sizes: nano, wan1.3b, wan14b, wan2.2-5b or wan2.2-a14b (configs/*/model.yaml), or the path of
    another model.yaml."""
    base: str | None = None
    """Folder, file or hub id of the Wan base; None: the preset's."""
    output: str = MISSING
    """Folder of the run: checkpoints/, adapter/, log.jsonl, held_out.jsonl, validation/."""
    seed: int = 0
    batch_size: int = 1
    """Clips per process and forward pass."""
    gradient_accumulation_steps: int = 1
    """Forward passes per step. Global batch size = batch_size x gradient_accumulation_steps x processes."""
    mixed_precision: MixedPrecision = MixedPrecision.bf16
    base_quantization: BaseQuantization = BaseQuantization.none
    """Storage of the matrices in the base's blocks that do not train: int8 and float8 halve the memory of a base in
    bf16, and the weights are dequantized in every call. Matrices of the adapter's modules that do not train are then in
    the type of the base, also in the saved adapter. Not under FSDP and DeepSpeed, which divide the base instead."""
    gradient_checkpointing: bool = True
    activation_offload: bool = False
    """Keeps what the backward pass needs in main memory, which takes time for the transfers; with
    `gradient_checkpointing` the inputs of the blocks."""
    attention_backend: str | None = None
    """Attention backend by diffusers' name (native, _native_math, flash, ...); None: PyTorch's choice, or matrix
    products in bfloat16 on a CPU."""
    compile: bool = False
    """Compiles the blocks with torch.compile, which takes a minute or two before the first step. Needs a C++ compiler
    on a CPU."""
    stage: StageConfig = field(default_factory=StageConfig)
    data: TrainingDataConfig = field(default_factory=TrainingDataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    checkpoints: CheckpointsConfig = field(default_factory=CheckpointsConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    holdout: HoldoutConfig = field(default_factory=HoldoutConfig)

    def collate_config(self) -> CollateConfig:
        """Returns the collator's configuration for the stage, validated.

        Raises:
            InputError: a value is out of range, or the preset does not exist.
        """
        preset = load_model_config(self.model)
        config = CollateConfig(
            alignment=self.stage.alignment,
            audio_window_seconds=self.data.audio_window_seconds,
            max_text_tokens=self.data.max_text_tokens,
            lip_mask_projection=self.data.lip_mask_projection,
            expression=self.stage.expression is not None,
            conditions=tuple(self.stage.conditions),
            region_boxes=self.data.region_boxes,
            background=self.data.background,
            geometry=preset.geometry,
            image_conditioning=preset.image_conditioning,
            image_embeds=preset.wan.image_dim is not None,
        )
        config.validate()
        return config

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Noise levels that the trained transformer predicts: all, or those of the expert."""
        boundary_ratio, expert = load_model_config(self.model).boundary_ratio, self.stage.expert
        return FULL_SIGMA_RANGE if expert is None or boundary_ratio is None else expert.sigma_range(boundary_ratio)

    def validate(self) -> None:
        """Validates the numbers and that the sections fit together."""
        check_range("seed", self.seed, 0, 2**63 - 1)
        check_range("batch_size", self.batch_size, 1, 4096)
        check_range("gradient_accumulation_steps", self.gradient_accumulation_steps, 1, 65536)
        self._check_reference_dropout(self.collate_config())
        self._check_expert()
        if self.holdout.interval and self.stage.resolved_objective is not ObjectiveType.flow_matching:
            raise InputError(
                f"holdout.interval is {self.holdout.interval}, but the held-out error is that of flow matching and "
                f"the objective is {self.stage.resolved_objective.value}; use 0",
                code=ErrorCode.conflict,
                field="holdout.interval",
                value=self.holdout.interval,
            )
        if self.validation.driving_videos and self.stage.expression is None:
            raise InputError(
                f"validation.driving_videos has {len(self.validation.driving_videos)} video(s), but the stage has no "
                "expression condition for them; leave them out, or set stage.expression",
                code=ErrorCode.conflict,
                field="validation.driving_videos",
                value=self.validation.driving_videos,
            )

    def _check_expert(self) -> None:
        """A run trains one transformer: of a base with two, the stage says which."""
        has_experts, expert = load_model_config(self.model).boundary_ratio is not None, self.stage.expert
        if has_experts != (expert is not None):
            cure = "high, then low in another run" if has_experts else "it has one transformer: leave it out"
            raise InputError(
                f"stage.expert is {'not set' if expert is None else expert.value} for the model {self.model}; {cure}",
                code=ErrorCode.missing_value if has_experts else ErrorCode.unsupported,
                field="stage.expert",
                value=None if expert is None else expert.value,
            )
        if has_experts and self.stage.distillation is not None:
            raise InputError(
                f"stage.distillation is set for the model {self.model}, but the windows of a distilled model are "
                "crossed by one transformer, and here two share them; leave it out, or use a few-step LoRA for each "
                "expert at inference (optimizations.few_step_lora)",
                code=ErrorCode.unsupported,
                field="stage.distillation",
            )

    def _check_reference_dropout(self, collate: CollateConfig) -> None:
        """The first frame of a base that is given it as latent frame 0 cannot be dropped: a frame would be missing."""
        dropout = self.stage.dropout
        drops_image = dropout.reference and dropout.reference_target is not ReferenceDropoutTarget.face
        if drops_image and collate.image_conditioning is ImageConditioning.first_frame_replace:
            raise InputError(
                f"stage.dropout.reference_target is {dropout.reference_target.value}, but the base of {self.model} is "
                "given the first frame as a frame of the video, which cannot be dropped; use face",
                code=ErrorCode.conflict,
                field="stage.dropout.reference_target",
                value=dropout.reference_target.value,
            )
