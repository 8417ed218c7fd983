"""Validates shapes and dtypes of the transformer's inputs against its configuration."""

import math
from typing import Any

import torch
from torch import Tensor

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.condition_registry import registered_condition
from fantasytalking.condition_specs import CONDITIONS, PER_BRANCH_TENSORS, TensorSpec
from fantasytalking.conditions import REGISTERED_PREFIX, Conditions, ExpressionCondition, flatten_conditions
from fantasytalking.latent_geometry import video_frame_count
from fantasytalking.models.image_conditioning import ImageConditioning


def check_inputs(hidden_states: Tensor, timestep: Tensor, conditions: Conditions, config: Any) -> None:
    """Validates shapes and dtypes against the model's `config`. Reads no values, so it waits for no device.

    Latents of batch 1 may come with prompts and condition scales of several samples, which then share every layer
    before the first cross-attention.

    Raises:
        InputError: names the tensor, its shape or dtype, and what is required.
    """
    if hidden_states.ndim != 5 or hidden_states.shape[1] != config.out_channels:
        raise _shape_error("latents", hidden_states, f"(batch, {config.out_channels}, frames, height, width)")
    batch, _, frames, height, width = hidden_states.shape
    for name, size, patch in zip(
        ("frames", "height", "width"), (frames, height, width), config.patch_size, strict=True
    ):
        if size < patch or size % patch:
            raise InputError(
                f"latent {name} is {size}; it must be a multiple of {patch}, the transformer's patch size",
                code=ErrorCode.shape_mismatch,
                field=f"latent {name}",
                value=size,
            )
    patch_h, patch_w = config.patch_size[1:]
    token_grid = (frames, height // patch_h, width // patch_w)
    if timestep.shape not in ((batch,), (batch, math.prod(token_grid))):
        raise _shape_error("timestep", timestep, f"({batch},), one per sample, or one per token")
    windows, tokens = _check_audio(conditions, config, frames)
    _check_optional_conditions(conditions, config)
    channels = config.in_channels, config.out_channels
    image_shape = ImageConditioning.from_channels(*channels).image_latents_shape(*channels, (frames, height, width))
    sizes = {
        "F": frames,
        "H": height,
        "W": width,
        "h": height // patch_h,
        "w": width // patch_w,
        "image_channels": image_shape[0],
        "image_frames": image_shape[1],
        "text_dim": config.text_dim,
        "image_dim": config.image_dim,
        "W*": windows,
        "L": tokens,
        "audio_dim": config.audio_dim,
        "face_dim": config.face_dim,
    }
    if config.expression is not None:
        sizes["frames"] = video_frame_count(frames, config.expression["temporal_stride"])
        sizes["expression_dim"] = sum(config.expression["dims"])
    specs = list(CONDITIONS)
    for name in conditions.registered or {}:
        sizes |= {f"{name}.{key}": size for key, size in config.conditions[name].items()}
        specs.append(registered_condition(name, "conditions").spec)
    samples, tensors = prediction_batch_size(batch, conditions), flatten_conditions(conditions)
    for spec in specs:
        for name, tensor in spec.tensors.items():
            if name in tensors:
                per_branch = samples if tensor.per_branch else batch
                _check_tensor(name, tensors[name], tensor, per_branch, sizes, hidden_states.dtype)
    if conditions.speaker_regions is not None:
        _check_speakers(tokens, conditions.speaker_regions.shape[1])
    if conditions.expression is not None:
        _check_people(conditions.expression)


def prediction_batch_size(batch: int, conditions: Conditions) -> int:
    """Number of predicted samples: that of the latents or, for latents of batch 1, of the per-branch conditions."""
    if batch > 1:
        return batch
    tensors = flatten_conditions(conditions)
    registered = [f"{REGISTERED_PREFIX}{name}.scale" for name in conditions.registered or {}]
    return max(tensors[name].shape[0] for name in (*PER_BRANCH_TENSORS, *registered) if name in tensors)


def _check_audio(conditions: Conditions, config: Any, frames: int) -> tuple[int, int]:
    """Returns the number of windows and of tokens per window."""
    audio = conditions.audio_embeds
    if audio.ndim != 4 or (audio.shape[1] != 1 and audio.shape[1] != frames):
        raise _shape_error(
            "audio_embeds",
            audio,
            f"(batch, windows, tokens, {config.audio_dim}) with 1 window (clip level) or {frames} (one per latent "
            "frame)",
        )
    windows, tokens = audio.shape[1:3]
    speakers = 1 if conditions.speaker_regions is None else conditions.speaker_regions.shape[1]
    if config.audio_positions and windows != 1 and tokens != config.audio_positions * speakers:
        raise InputError(
            f"audio_embeds has {tokens} tokens per window; this model has {config.audio_positions} positions for each "
            f"of {speakers} speakers; cut windows of the span that it was trained with",
            code=ErrorCode.shape_mismatch,
            field="audio_embeds",
            value=tokens,
        )
    return windows, tokens


def _check_optional_conditions(conditions: Conditions, config: Any) -> None:
    if conditions.image_embeds is None and config.image_dim is not None:
        raise InputError(
            f"image_embeds is None; this base needs CLIP states of width {config.image_dim}",
            code=ErrorCode.missing_value,
            field="image_embeds",
        )
    if conditions.image_embeds is not None and config.image_dim is None:
        raise InputError(
            "image_embeds is given, but this base has no image cross-attention; pass None",
            code=ErrorCode.unsupported,
            field="image_embeds",
        )
    if conditions.guidance is not None and config.distillation is None:
        raise InputError(
            "guidance is given, but this model is not distilled and cannot follow guidance scales; pass None",
            code=ErrorCode.not_trained,
            field="guidance",
        )
    if conditions.expression is not None and config.expression is None:
        raise InputError(
            "expression is given, but this model has no expression condition; pass None, or build the model with "
            "portrait.expression.dims",
            code=ErrorCode.not_trained,
            field="expression",
        )
    for name in conditions.registered or {}:
        if name not in (config.conditions or {}):
            raise InputError(
                f"the condition '{name}' is given, but this model has none of this name; leave it out, or load an "
                "adapter that has it",
                code=ErrorCode.not_trained,
                field=name,
            )


def _check_speakers(tokens: int, speakers: int) -> None:
    if tokens % speakers:
        raise InputError(
            f"audio_embeds has {tokens} tokens per window, not a multiple of the {speakers} speakers; "
            "concatenate the speakers' windows with audio_windows.join_speaker_windows",
            code=ErrorCode.shape_mismatch,
            field="audio_embeds",
            value=tokens,
        )


def _check_people(expression: ExpressionCondition) -> None:
    people = expression.features.shape[1]
    if expression.regions is None and people > 1:
        raise InputError(
            f"expression.regions is None for {people} people, so that each would drive every face; compute regions "
            "with fantasytalking.attention_regions",
            code=ErrorCode.missing_value,
            field="expression.regions",
        )


def _check_tensor(
    name: str, value: Tensor, spec: TensorSpec, batch: int, sizes: dict[str, Any], dtype: torch.dtype
) -> None:
    """Checks shape and type; an axis that `sizes` lacks gets its size from this tensor."""
    shape = tuple(int(axis) if axis.isdecimal() else sizes.get(axis) for axis in spec.axes)
    _check_shape(name, value, batch, shape)
    for axis, size in zip(spec.axes, value.shape[1:], strict=True):
        if axis not in sizes and axis != "*":
            sizes[axis] = size
    if spec.mask:
        _check_bool(name, value, spec.mask)
    else:
        _check_dtype(name, value, dtype)


def _check_shape(name: str, value: Tensor, batch: int, shape: tuple[int | None, ...]) -> None:
    # Sizes are compared one by one: torch.compile traces no `in` for symbolic sizes.
    fits = value.ndim == len(shape) + 1 and (value.shape[0] == 1 or value.shape[0] == batch)
    fits = fits and all(
        size > 0 and (want is None or want == size) for size, want in zip(value.shape[1:], shape, strict=True)
    )
    if not fits:
        required = ", ".join("any" if want is None else str(want) for want in shape)
        raise _shape_error(name, value, f"({batch}, {required}), or batch 1 for all samples")


def _shape_error(name: str, value: Tensor, required: str) -> InputError:
    shape = tuple(value.shape)
    return InputError(
        f"{name} has shape {shape}; expected {required}", code=ErrorCode.shape_mismatch, field=name, value=shape
    )


def _check_dtype(name: str, value: Tensor, dtype: torch.dtype) -> None:
    if value.dtype != dtype and not (value.is_floating_point() and torch.is_autocast_enabled(value.device.type)):
        raise InputError(
            f"{name} is {value.dtype}, but the latents are {dtype}; use conditions.to(dtype={dtype})",
            code=ErrorCode.invalid_type,
            field=name,
            value=value.dtype,
        )


def _check_bool(name: str, value: Tensor, meaning: str) -> None:
    if value.dtype != torch.bool:
        raise InputError(
            f"{name} is {value.dtype}; expected torch.bool, {meaning}",
            code=ErrorCode.invalid_type,
            field=name,
            value=value.dtype,
        )
