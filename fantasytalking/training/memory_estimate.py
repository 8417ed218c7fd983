"""Describes the plan and the memory of a run without loading a base: --dry-run.

Weights, gradients and optimizer state are counted exactly. Activations are the tensors that autograd saves, found by
running one and two blocks on the meta device. Workspaces of kernels and of communication are not included.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fantasytalking.audio_tokens import WAV2VEC2_TIMING
from fantasytalking.audio_windows import tokens_per_window
from fantasytalking.checkpoints.adapter import ensure_condition
from fantasytalking.checkpoints.expression_adapter import ensure_expression_modules
from fantasytalking.checkpoints.lora import LoraSpec, add_lora
from fantasytalking.common.config import config_to_yaml
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.condition_registry import registered_condition
from fantasytalking.conditions import Conditions, ExpressionCondition, RegisteredValue
from fantasytalking.data.collate import AudioAlignment
from fantasytalking.data.dataset import matching_clips
from fantasytalking.data.manifest import ClipRecord, read_manifest
from fantasytalking.latent_geometry import LatentGeometry
from fantasytalking.models.presets import build_meta_transformer, load_model_config
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.training.config import BaseQuantization, MixedPrecision, OptimizerType, TrainConfig
from fantasytalking.training.frozen_base import is_quantized, quantized_bytes
from fantasytalking.training.objectives import build_objective
from fantasytalking.training.parameter_groups import BASE_GROUP, freeze_for_stage, group_of, trainable_table

ESTIMATED_SHARDS = 8
"""Number of processes of the sharded estimate."""
CLIP_IMAGE_TOKENS = 257
"""Tokens of a CLIP image embedding in Wan."""


OPTIMIZER_BYTES = {OptimizerType.adamw: 8, OptimizerType.adamw_8bit: 2, OptimizerType.muon: 4}
"""Bytes of optimizer state per trained weight: AdamW has two numbers, Muon one per matrix entry, and nearly all weights
are matrices."""


class ClipSize(NamedTuple):
    """Size of a bucket's clips, width and height in pixels."""

    width: int
    height: int
    frames: int
    fps: float
    people: int = 1

    @classmethod
    def parse(cls, text: str) -> "ClipSize":
        """Parses WIDTHxHEIGHTxFRAMES, as in 512x512x81, at the rate of the paper's clips.

        Raises:
            InputError: it is something else.
        """
        match = re.fullmatch(r"(\d{2,4})x(\d{2,4})x(\d{1,4})", text)
        if match is None:
            raise InputError(
                f"--clip-size is '{text}'; give WIDTHxHEIGHTxFRAMES, as in 512x512x81",
                code=ErrorCode.invalid_type,
                field="--clip-size",
                value=text,
            )
        width, height, frames = map(int, match.groups())
        return cls(width, height, frames, PAPER_FPS)

    def tokens(self, geometry: LatentGeometry) -> int:
        """Returns the number of video tokens per clip."""
        return math.prod(geometry.token_grid(self.frames, self.height, self.width))


PAPER_FPS = 23.0
PAPER_CLIP_SIZE = ClipSize(512, 512, 81, PAPER_FPS)
"""Assumed while there is no corpus."""


class MemoryEstimate(NamedTuple):
    """Memory of one process, in bytes."""

    frozen: int
    trainable: int
    """Trained weights in float32, or in bf16 with a float32 copy."""
    gradients: int
    optimizer: int
    ema: int
    activations: int
    gathered: int
    """Whole weights of two blocks: what FSDP and ZeRO-3 gather of the block that runs and of the next."""

    @property
    def total(self) -> int:
        """Memory of a single process: all parts but `gathered`."""
        return sum(self) - self.gathered

    @property
    def data_parallel(self) -> int:
        """Memory of a process under DDP, whose buckets are a second copy of the gradients."""
        return self.total + self.gradients

    def sharded(self, world_size: int) -> int:
        """Returns the bytes per process under FSDP or ZeRO-3, which divide everything but activations and gathered
        blocks; of a single process, those without them."""
        if world_size == 1:
            return self.total
        return (self.total - self.activations) // world_size + self.activations + self.gathered


def describe_plan(config: TrainConfig, world_size: int = 1, clip_size: ClipSize | None = None) -> str:
    """Returns the resolved configuration, the parameter table, the clip sizes and the memory estimate as text.

    Args:
        world_size: number of processes, which determines the global batch.
        clip_size: size of the largest clips; None: that of the corpus, or the paper's while there is none.

    Raises:
        InputError: a manifest exists but is damaged, or a trainable pattern matches nothing.
    """
    model = build_meta_model(config)
    sizes = _count_clip_sizes(config)
    geometry = load_model_config(config.model).geometry
    largest = clip_size or largest_clip_size(config, sizes)
    memory = estimate_memory(config, largest, model)
    lines = [config_to_yaml(config).rstrip(), "", trainable_table(model), ""]
    per_process = config.batch_size * config.gradient_accumulation_steps
    lines += [_bucket_line(size, clips, per_process * world_size) for size, clips in sorted(sizes.items())]
    if not sizes:
        assumed = "the paper's clips" if clip_size is None else "clips of the given size"
        lines.append(f"no corpus yet at {', '.join(config.data.manifests)}; assuming {assumed}:")
    lines.append(
        f"largest clip: {largest.width}x{largest.height}, {largest.frames} frames = {largest.tokens(geometry):,} tokens"
    )
    lines.append(f"{config.stage.steps:,} steps of {per_process} clips per process, {world_size} process(es)")
    if sizes:
        epochs = config.stage.steps * per_process * world_size / sum(sizes.values())
        lines.append(f"{epochs:.1f} epochs")
    gib = {name: f"{value / 2**30:.2f}" for name, value in memory._asdict().items() if name != "gathered"}
    loading = (memory.frozen + memory.trainable) / 2**30
    lines += [
        "",
        "estimated memory per process, GiB: " + ", ".join(f"{name} {value}" for name, value in gib.items()),
        f"one process: {memory.total / 2**30:.2f} GiB; DDP: {memory.data_parallel / 2**30:.2f} GiB; "
        f"FSDP or ZeRO-3 on {ESTIMATED_SHARDS}: {memory.sharded(ESTIMATED_SHARDS) / 2**30:.2f} GiB each",
        f"CPU memory while loading: first process {loading:.2f} GiB, every other process (receives the base) "
        f"{_bytes_before_broadcast(model) / 2**30:.2f} GiB",
    ]
    return "\n".join(lines)


def largest_clip_size(config: TrainConfig, sizes: Iterable[ClipSize] | None = None) -> ClipSize:
    """Returns the size of the clips with most tokens; the paper's where there is no corpus yet.

    Args:
        sizes: those of the corpus; None: they are read from the manifests.
    """
    geometry = load_model_config(config.model).geometry
    sizes = _count_clip_sizes(config) if sizes is None else sizes
    return max(sizes, key=lambda size: size.tokens(geometry), default=PAPER_CLIP_SIZE)


def _bytes_before_broadcast(model: FantasyTalkingTransformer3DModel) -> int:
    """Bytes of a process before it receives the base: the adapter's modules, in float32."""
    return sum(4 * value.numel() for name, value in model.named_parameters() if group_of(name) != BASE_GROUP)


def estimate_memory(config: TrainConfig, size: ClipSize, model: FantasyTalkingTransformer3DModel) -> MemoryEstimate:
    """Returns the memory of one process with whole parameters that trains `model` on clips of `size`."""
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    frozen = quantized_bytes(config, model) + sum(
        value.numel() * _frozen_number_bytes(config, name, value)
        for name, value in model.named_parameters()
        if not value.requires_grad and not is_quantized(config, name)
    )
    return MemoryEstimate(
        frozen=frozen,
        trainable=trained * 4,
        gradients=trained * 4,
        optimizer=trained * OPTIMIZER_BYTES[config.optimizer.type],
        ema=trained * 4 if config.optimizer.ema_decay else 0,
        activations=activation_bytes(config, size),
        gathered=2 * sum(value.numel() for value in model.blocks[0].parameters()) * _compute_bytes(config),
    )


def _frozen_number_bytes(config: TrainConfig, name: str, value: Tensor) -> int:
    """The adapter's modules are float32 whether they train or not, but for matrices beside a quantized base."""
    is_compact = config.base_quantization is not BaseQuantization.none and value.ndim == 2
    return 2 if config.mixed_precision is MixedPrecision.bf16 and (group_of(name) == BASE_GROUP or is_compact) else 4


def activation_bytes(config: TrainConfig, size: ClipSize) -> int:
    """Returns the bytes that autograd saves for the backward pass of one micro-batch."""
    preset = load_model_config(config.model)
    layers = preset.wan.num_layers
    one, two = (_saved_tensor_bytes(config, size, count) for count in (1, 2))
    per_block, rest = two - one, 2 * one - two
    if not config.gradient_checkpointing:
        return rest + per_block * layers
    width = preset.wan.num_attention_heads * preset.wan.attention_head_dim
    if config.activation_offload:  # the inputs of the blocks are in main memory
        return rest + per_block
    # What is kept of a block is its input, which has autocast's type.
    inputs = config.batch_size * size.tokens(preset.geometry) * width * _compute_bytes(config)
    return rest + per_block + layers * inputs


def _compute_bytes(config: TrainConfig) -> int:
    """Bytes of a number of autocast's type."""
    return 2 if config.mixed_precision is MixedPrecision.bf16 else 4


def build_meta_model(config: TrainConfig, num_layers: int | None = None) -> FantasyTalkingTransformer3DModel:
    """Returns the model of a run on the meta device, with its trainable parameters set.

    Args:
        num_layers: number of blocks; None: that of the preset.
    """
    preset = load_model_config(config.model)
    if num_layers is not None:
        preset = replace(preset, wan=replace(preset.wan, num_layers=num_layers))
    model = build_meta_transformer(preset)
    build_objective(config.stage).add_modules(model)
    if config.stage.expression is not None:
        with torch.device("meta"):
            ensure_expression_modules(model, config.stage.expression.to_module_config(preset.geometry.temporal_stride))
    for name, condition in config.stage.conditions.items():
        with torch.device("meta"):
            ensure_condition(model, name, condition.sizes)
    lora = config.stage.lora
    if lora.rank:
        with torch.device("meta"):
            add_lora(model, LoraSpec(lora.rank, lora.alpha, tuple(lora.target_modules)), torch.float32)
    freeze_for_stage(model, config.stage)
    return model


def _count_clip_sizes(config: TrainConfig) -> Counter[ClipSize]:
    present = [path for path in config.data.manifests if Path(path).exists()]
    records = [record for path in present for record in read_manifest(path)]
    if len(present) < len(config.data.manifests):
        return Counter(map(_clip_size, records))  # data.exclude may be about the missing ones
    left_out = matching_clips([record.clip for record in records], config.data.exclude)
    return Counter(_clip_size(record) for record in records if record.clip not in left_out)


def _clip_size(record: ClipRecord) -> ClipSize:
    return ClipSize(record.width, record.height, record.frames, record.fps, record.people)


def _bucket_line(size: ClipSize, clips: int, global_batch_size: int) -> str:
    people = f", {size.people} people" if size.people > 1 else ""
    line = f"bucket {size.width}x{size.height}, {size.frames} frames at {size.fps:g} fps{people}: {clips} clips"
    if clips >= global_batch_size:
        return line
    every = -(-global_batch_size // clips)
    return f"{line}, fewer than the {global_batch_size} of a step: one step in about {every} epochs repeats them"


def _saved_tensor_bytes(config: TrainConfig, size: ClipSize, num_layers: int) -> int:
    model = build_meta_model(config, num_layers)
    dtype = torch.bfloat16 if config.mixed_precision is MixedPrecision.bf16 else torch.float32
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    latents, conditions = meta_inputs(config, size, model, dtype)
    num_tokens = size.tokens(load_model_config(config.model).geometry)
    own = {_storage_id(value) for value in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}  # keeps the tensors alive, so that no storage address is reused

    def keep(tensor: Tensor) -> Tensor:
        if _storage_id(tensor) not in own and not _is_attention_weights(tensor, conditions, num_tokens, model):
            kept[_storage_id(tensor)] = tensor
        return tensor

    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(latents, torch.zeros(config.batch_size, device="meta"), conditions)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _is_attention_weights(
    tensor: Tensor, conditions: Conditions, num_tokens: int, model: FantasyTalkingTransformer3DModel
) -> bool:
    """Whether a tensor is queries by keys: fused kernels do not save it, but the meta device has no fused kernels."""
    if tensor.ndim < 3 or tensor.shape[:-2].numel() % model.config.num_attention_heads:
        return False
    image = 0 if conditions.image_embeds is None else conditions.image_embeds.shape[1]
    keys = [
        num_tokens,
        conditions.prompt_embeds.shape[1],
        image,
        conditions.audio_embeds.shape[2],
        model.config.face_tokens,
    ]
    if conditions.expression is not None:
        assert model.expression_projector is not None
        people = conditions.expression.present.shape[1]
        stride = model.expression_projector.temporal_stride
        keys.append(people * (stride * model.expression_projector.tokens_per_frame + 1))
    return tensor.shape[-2] in (num_tokens, num_tokens // conditions.audio_embeds.shape[1]) and tensor.shape[-1] in keys


def meta_inputs(
    config: TrainConfig, size: ClipSize, model: FantasyTalkingTransformer3DModel, dtype: torch.dtype
) -> tuple[Tensor, Conditions]:
    """Returns latents and conditions of a micro-batch on the meta device."""
    geometry, batch, shape = load_model_config(config.model).geometry, config.batch_size, model.config
    grid = geometry.latent_shape(size.frames, size.height, size.width)
    by_clip = config.stage.alignment is AudioAlignment.clip
    windows = 1 if by_clip else grid[0]
    tokens = (
        int(size.frames / size.fps * WAV2VEC2_TIMING.tokens_per_second)  # as of all released audio encoders
        if by_clip
        else tokens_per_window(config.data.audio_window_seconds)
    )

    def empty(*rest: int) -> Tensor:
        return torch.empty(batch, *rest, device="meta", dtype=dtype)

    conditions = Conditions(
        prompt_embeds=empty(config.data.max_text_tokens, shape.text_dim),
        image_embeds=None if shape.image_dim is None else empty(CLIP_IMAGE_TOKENS, shape.image_dim),
        image_latents=empty(*model.image_conditioning.image_latents_shape(shape.in_channels, shape.out_channels, grid)),
        audio_embeds=empty(windows, tokens, shape.audio_dim),
        audio_mask=torch.ones(batch, windows, tokens, device="meta", dtype=torch.bool),
        face_embeds=empty(size.people, shape.face_dim),
        motion_intensity=empty(2),
        condition_scale=empty(2),
        expression=_meta_expression(config, size, geometry, dtype),
        registered={
            name: RegisteredValue(
                empty(*registered_condition(name, "stage").shape(model.config.conditions[name])), empty()
            )
            for name in config.stage.conditions
        }
        or None,
    )
    return empty(shape.out_channels, *grid), conditions


def _meta_expression(
    config: TrainConfig, size: ClipSize, geometry: LatentGeometry, dtype: torch.dtype
) -> ExpressionCondition | None:
    if config.stage.expression is None:
        return None
    grid = geometry.token_grid(size.frames, size.height, size.width)
    per_frame, regions = (config.batch_size, size.people, size.frames), (config.batch_size, size.people, *grid)
    with torch.device("meta"):
        return ExpressionCondition(
            features=torch.empty(*per_frame, sum(config.stage.expression.dims), dtype=dtype),
            present=torch.ones(per_frame, dtype=torch.bool),
            regions=torch.ones(regions, dtype=torch.bool),
            scale=torch.empty(config.batch_size, dtype=dtype),
        )


def _storage_id(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
