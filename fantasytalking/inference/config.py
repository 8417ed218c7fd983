"""The configuration of inference (configs/*/infer.yaml)."""

from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any

from fantasytalking.common.devices import check_device_name
from fantasytalking.common.dtype import Dtype
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_VIDEO_SECONDS
from fantasytalking.common.validation import check_ranges
from fantasytalking.face_range import FaceRanges
from fantasytalking.inference.optimizations import OptimizationConfig
from fantasytalking.media.resolution import ResizeMode
from fantasytalking.pipeline.generation_plan import GenerationControls
from fantasytalking.pipeline.guidance import GUIDANCE_CONDITIONS, GuidanceSchedule
from fantasytalking.pipeline.loading.component_files import ComponentFiles
from fantasytalking.pipeline.portrait import PortraitOptions, parse_sizes
from fantasytalking.pipeline.schedulers import FLOW_SHIFT_RANGE, SchedulerType

MAX_FACES = 100


class Offload(Enum):
    """Components that wait in main memory while a GPU computes."""

    none = "none"
    """None."""
    model = "model"
    """All components but the one in use."""
    group = "group"
    """All blocks but the one in use: the least memory, and the slowest."""


@dataclass
class InferConfig(GenerationControls):
    """One video: the model, the portrait and the controls. Everything that determines the result."""

    # The model
    model: str = "nano"
    """Preset of the sizes: nano, wan1.3b, wan14b, wan2.2-5b or wan2.2-a14b (configs/*/model.yaml), or the path of
    another model.yaml."""
    base: str | None = None
    """Folder or hub id of the Wan base, or a folder that `save_pretrained` wrote; null: the preset's."""
    components: ComponentFiles = field(default_factory=ComponentFiles)
    """Single files in place of components of a Wan base. With all of them, no base is needed."""
    adapter: str | None = None
    """Adapter folder, or a released file; null where `base` is a saved pipeline, complete but for distillation."""
    adapter_2: str | None = None
    """Adapter folder of the low-noise expert, for a base with two (Wan2.2-I2V-A14B); `adapter` is then that of the
    high-noise one."""
    audio_encoder: str | None = None
    """Folder, file or hub id of the speech model that the adapter was trained with; null: the one in the base."""
    face_encoder: str | None = None
    """ArcFace .onnx; null: the one in the base."""
    expression_adapter: str | None = None
    """Adapter folder or FantasyPortrait's released checkpoint, with which videos can drive the faces; null: the one in
    expression_adapter of the base, or what adapter and base contain. Read only where a driving video is given."""
    expression_encoder: str | None = None
    """Folder of the encoder of driving videos; null: expression_encoder in the folder of that adapter or the base."""
    scheduler: SchedulerType = SchedulerType.euler
    flow_shift: float = 5.0
    """Shift of the noise levels towards high noise (released: 5). A saved pipeline has its own scheduler and shift."""
    max_text_tokens: int = 512
    """Tokens that prompts are padded to, as in training; Wan: 512."""
    dtype: Dtype = Dtype.float32
    """Of transformer, text and image encoder. VAE and audio encoder always work in float32."""
    device: str = "auto"
    """auto (the accelerator of this machine, or else the CPU), cpu, cuda, mps, xpu or npu."""
    offload: Offload = Offload.none
    optimizations: OptimizationConfig = field(default_factory=OptimizationConfig)
    notice: str = ""
    """A line about this model, printed before it runs."""

    # The portrait
    sizes: list[str] = field(default_factory=lambda: ["512x512"])
    """WIDTHxHEIGHT; the size of nearest aspect ratio is used."""
    resize_mode: ResizeMode = ResizeMode.fit
    """fit brings the faces to the size and place that the model was trained on; crop and letterbox do what they say."""
    min_face_fraction: float = 0.12
    """With fit or crop, zoom in until the face has this fraction of the height; 0: never."""
    face_index: int | None = None
    """The selected one of several faces, from 1 at the left."""
    face_indices: list[int] = field(default_factory=list)
    """Several selected faces, in the order of their audio and driving videos; empty: all, from the left."""

    # The run
    seed: int = 0
    """Seed of the noise."""
    max_seconds: float | None = None
    """Longest part of audio and driving videos that is used, in seconds; null: all."""
    stream: bool = False
    """Generate one window after another and write its frames at once; else all windows are denoised together."""

    def controls(self) -> GenerationControls:
        """Returns the controls of the generation alone."""
        return GenerationControls(**{entry.name: getattr(self, entry.name) for entry in fields(GenerationControls)})

    def portrait_options(self, face_ranges: FaceRanges | None = None) -> PortraitOptions:
        """Returns how images become portraits.

        Args:
            face_ranges: sizes and places of faces that the model knows (`ModelFacts.face_ranges`); None: unknown, so
                that fit acts as crop.
        """
        selected = self.face_indices or self.face_index
        return PortraitOptions(self.sizes, self.resize_mode, selected, self.min_face_fraction, face_ranges or {})

    def validate(self) -> None:
        """Validates everything that does not depend on the model's files.

        Raises:
            InputError: a value is outside its range, or two values exclude each other.
        """
        parse_sizes(self.sizes)
        limits: dict[str, tuple[float, float]] = {
            "flow_shift": FLOW_SHIFT_RANGE,
            "max_text_tokens": (1, 4096),
            "min_face_fraction": (0, 0.9),
            "seed": (0, 2**63 - 1),
            "max_seconds": (0.04, MAX_VIDEO_SECONDS),
            "face_index": (1, MAX_FACES),
        }
        check_ranges(self, limits)
        super().validate()
        if self.face_index is not None and self.face_indices:
            raise InputError(
                f"face_index is {self.face_index} and face_indices {self.face_indices}; give one of the two",
                code=ErrorCode.conflict,
                field="face_indices",
                value=self.face_indices,
            )
        if any(not 1 <= number <= MAX_FACES for number in self.face_indices) or len(self.face_indices) > MAX_FACES:
            raise InputError(
                f"face_indices is {self.face_indices}; give at most {MAX_FACES} numbers from 1 to {MAX_FACES}",
                code=ErrorCode.out_of_range,
                field="face_indices",
                value=self.face_indices,
            )
        ratios = self.optimizations.mag_ratios
        if ratios and len(ratios) != self.num_inference_steps:
            raise InputError(
                f"optimizations.mag_ratios has {len(ratios)} values; one per step is needed: set "
                f"num_inference_steps={len(ratios)}",
                code=ErrorCode.conflict,
                field="optimizations.mag_ratios",
                value=len(ratios),
            )
        for name, file in self.optimizations.lora_files().items():
            if file.strength and len(file.strength) != self.num_inference_steps:
                raise InputError(
                    f"optimizations.{name}.strength has {len(file.strength)} values; one per step is needed: set "
                    f"num_inference_steps={len(file.strength)}",
                    code=ErrorCode.conflict,
                    field=f"optimizations.{name}.strength",
                    value=len(file.strength),
                )
        if self.stream and self.optimizations.vae_tiling:
            raise InputError(
                "optimizations.vae_tiling is set, but tiles need the whole video and stream=true writes it window by "
                "window; leave out one",
                code=ErrorCode.conflict,
                field="optimizations.vae_tiling",
                value=True,
            )
        check_device_name(self.device)
        blocks = self.optimizations.offload_blocks
        if blocks is not None and self.offload is not Offload.group and self.optimizations.vram_limit_gib is None:
            raise InputError(
                f"optimizations.offload_blocks is {blocks}, but offload is {self.offload.value}; set offload=group, or "
                "leave it out",
                code=ErrorCode.conflict,
                field="optimizations.offload_blocks",
                value=blocks,
            )


def apply_options(config: InferConfig, values: dict[str, Any]) -> InferConfig:
    """Returns the configuration with the options that are not None, validated again.

    Args:
        values: fields of the configuration, and the shorthands motion (both intensities), size (the only size),
            {text,audio,expression}_guidance_scale (a constant scale) and condition_guidance_scales (the same by
            registered condition).

    Raises:
        InputError: a value is outside its range.
    """
    values = {name: value for name, value in values.items() if value is not None}
    motion, size = values.pop("motion", None), values.pop("size", None)
    if motion is not None:
        values = {"expression_motion": motion, "body_motion": motion, **values}
    if size is not None:
        values["sizes"] = [size]
    if "face_indices" in values:  # a single face replaces several selected in the configuration, and vice versa
        selected = values.pop("face_indices")
        is_single = len(selected) == 1
        values |= {"face_index": selected[0] if is_single else None, "face_indices": [] if is_single else selected}
    by_condition = values.pop("condition_guidance_scales", {})
    registered = {name: GuidanceSchedule.from_scale(scale) for name, scale in by_condition.items()}
    schedules: dict[str, Any] = {"conditions": {**config.guidance.conditions, **registered}}
    for name in GUIDANCE_CONDITIONS:
        scale = values.pop(f"{name}_guidance_scale", None)
        if scale is not None:
            schedules[name] = replace(getattr(config.guidance, name), scale_start=scale, scale_end=scale)
    config = replace(config, guidance=replace(config.guidance, **schedules), **values)
    config.validate()
    return config
