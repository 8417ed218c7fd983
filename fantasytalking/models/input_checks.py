"""Validates shapes and dtypes of the transformer's inputs against its configuration."""

import math
from typing import Any

import torch
from torch import Tensor

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.conditions import Conditions, ExpressionCondition
from fantasytalking.latent_geometry import video_frame_count
from fantasytalking.models.image_conditioning import ImageConditioning

PER_BRANCH_FIELDS = ("prompt_embeds", "condition_scale")
"""Fields of `Conditions` that may differ between guidance branches which share their latents."""


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
    expected: dict[str, tuple[int | None, ...]] = {
        "prompt_embeds": (None, config.text_dim),
        "image_embeds": (None, config.image_dim),
        "image_latents": ImageConditioning.from_channels(config.in_channels, config.out_channels).image_latents_shape(
            config.in_channels, config.out_channels, (frames, height, width)
        ),
        "audio_embeds": (windows, tokens, config.audio_dim),
        "audio_mask": (windows, tokens),
        "face_embeds": (None, config.face_dim),
        "motion_intensity": (2,),
        "condition_scale": (2,),
        "guidance": (2,),
    }
    samples = prediction_batch_size(batch, conditions)
    for name, shape in expected.items():
        value = getattr(conditions, name)
        if value is not None:
            _check_shape(name, value, samples if name in PER_BRANCH_FIELDS else batch, shape)
            _check_dtype(name, value, hidden_states.dtype)
    if conditions.speaker_regions is not None:
        _check_speaker_regions(conditions.speaker_regions, tokens, batch, token_grid)
    if conditions.expression is not None:
        _check_expression(conditions.expression, hidden_states, samples, config, token_grid)


def prediction_batch_size(batch: int, conditions: Conditions) -> int:
    """Number of predicted samples: that of the latents or, for latents of batch 1, of the per-branch conditions."""
    return max(getattr(conditions, name).shape[0] for name in PER_BRANCH_FIELDS) if batch == 1 else batch


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


def _check_speaker_regions(regions: Tensor, tokens: int, batch: int, token_grid: tuple[int, int, int]) -> None:
    _check_shape("speaker_regions", regions, batch, (None, *token_grid))
    _check_bool("speaker_regions", regions, "True where a video token attends to the speaker")
    if tokens % regions.shape[1]:
        raise InputError(
            f"audio_embeds has {tokens} tokens per window, not a multiple of the {regions.shape[1]} speakers; "
            "concatenate the speakers' windows with audio_windows.join_speaker_windows",
            code=ErrorCode.shape_mismatch,
            field="audio_embeds",
            value=tokens,
        )


def _check_expression(
    expression: ExpressionCondition, hidden_states: Tensor, samples: int, config: Any, token_grid: tuple[int, int, int]
) -> None:
    if config.expression is None:
        raise InputError(
            "expression is given, but this model has no expression condition; pass None, or build the model with "
            "portrait.expression.dims",
            code=ErrorCode.not_trained,
            field="expression",
        )
    batch, people = hidden_states.shape[0], expression.features.shape[1]
    num_frames, num_features = (
        video_frame_count(token_grid[0], config.expression["temporal_stride"]),
        sum(config.expression["dims"]),
    )
    _check_shape("expression.features", expression.features, batch, (None, num_frames, num_features))
    _check_shape("expression.present", expression.present, batch, (people, num_frames))
    _check_shape("expression.scale", expression.scale, samples, ())
    _check_bool("expression.present", expression.present, "True where a frame has features")
    for name in ("features", "scale"):
        _check_dtype(f"expression.{name}", getattr(expression, name), hidden_states.dtype)
    if expression.regions is not None:
        _check_shape("expression.regions", expression.regions, batch, (people, *token_grid))
        _check_bool("expression.regions", expression.regions, "True where a video token attends to the person")
    elif people > 1:
        raise InputError(
            f"expression.regions is None for {people} people, so that each would drive every face; compute regions "
            "with fantasytalking.attention_regions",
            code=ErrorCode.missing_value,
            field="expression.regions",
        )


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
    if name == "audio_mask":
        _check_bool(name, value, "True where a token is real")
    elif value.dtype != dtype and not (value.is_floating_point() and torch.is_autocast_enabled(value.device.type)):
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
