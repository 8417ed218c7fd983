"""The door of the transformer: every condition has the shape and dtype that the contract says."""

from typing import Any

import torch
from torch import Tensor

from fantasytalking.common.errors import InputError
from fantasytalking.conditions import Conditions, ExpressionCondition

PER_BRANCH_FIELDS = ("prompt_embeds", "condition_scale")
"""Conditions by which samples may differ that have their latents in common: what guidance branches differ by."""


def check_inputs(hidden_states: Tensor, timestep: Tensor, conditions: Conditions, config: Any) -> None:
    """Compares shapes and dtypes with the model's `config`; reads no values, so no device is waited for.

    Latents of batch 1 may be given with text and gates of many samples: those share what is computed before they part.

    Raises:
        InputError: naming the tensor, what it is and what it must be.
    """
    if hidden_states.ndim != 5 or hidden_states.shape[1] != config.out_channels:
        raise InputError(
            f"latents have the shape {tuple(hidden_states.shape)}; "
            f"(batch, {config.out_channels}, frames, height, width) is needed"
        )
    batch, _, frames, height, width = hidden_states.shape
    for name, size, patch in zip(
        ("frames", "height", "width"), (frames, height, width), config.patch_size, strict=True
    ):
        if size < patch or size % patch:
            raise InputError(f"latent {name} is {size}; it must be a multiple of {patch}, the transformer's patch")
    if timestep.shape != (batch,):
        raise InputError(f"timestep has the shape {tuple(timestep.shape)}; one a sample is needed: ({batch},)")

    windows = conditions.audio_embeds.shape[1] if conditions.audio_embeds.ndim == 4 else None
    if windows not in (1, frames):
        raise InputError(
            f"audio has the shape {tuple(conditions.audio_embeds.shape)}; (batch, windows, tokens, {config.audio_dim}) "
            f"with 1 window (clip level) or {frames} (one a latent frame) is needed"
        )
    tokens = conditions.audio_embeds.shape[2]
    speakers = 1 if conditions.speaker_regions is None else conditions.speaker_regions.shape[1]
    if config.audio_positions and windows != 1 and tokens != config.audio_positions * speakers:
        raise InputError(
            f"audio has {tokens} tokens a window; this model tells {config.audio_positions} places apart, for each of "
            f"{speakers} speakers: cut windows of the span that it was trained with"
        )
    if (conditions.image_embeds is None) != (config.image_dim is None):
        raise InputError(
            "image is None, but this base reads CLIP tokens; give them"
            if conditions.image_embeds is None
            else "image was given, but this base has no image cross-attention; give None"
        )
    expected: dict[str, tuple[int | None, ...]] = {
        "prompt_embeds": (None, config.text_dim),
        "image_embeds": (None, config.image_dim),
        "image_latents": (config.in_channels - config.out_channels, frames, height, width),
        "audio_embeds": (windows, tokens, config.audio_dim),
        "audio_mask": (windows, tokens),
        "face_embeds": (None, config.face_dim),
        "motion_intensity": (2,),
        "condition_scale": (2,),
        "guidance": (2,),
    }
    if conditions.guidance is not None and config.distillation is None:
        raise InputError(
            "guidance scales were given, but this model was not distilled and cannot follow them; give none"
        )
    samples = prediction_batch_size(batch, conditions)
    for name, shape in expected.items():
        value = getattr(conditions, name)
        if value is not None:
            _check_shape(name, value, samples if name in PER_BRANCH_FIELDS else batch, shape)
            _check_dtype(name, value, hidden_states.dtype)
    patch_h, patch_w = config.patch_size[1:]
    grid = (frames, height // patch_h, width // patch_w)
    if conditions.speaker_regions is not None:
        _check_speaker_regions(conditions.speaker_regions, tokens, batch, grid)
    if conditions.expression is not None:
        _check_expression(conditions.expression, hidden_states, samples, config, grid)


def _check_speaker_regions(regions: Tensor, tokens: int, batch: int, token_grid: tuple[int, int, int]) -> None:
    _check_shape("speaker_regions", regions, batch, (None, *token_grid))
    _check_bool("speaker_regions", regions, "True where a video token hears the speaker")
    if tokens % regions.shape[1]:
        raise InputError(
            f"audio has {tokens} tokens a window and there are {regions.shape[1]} speakers; "
            "every speaker needs as many tokens: join their windows with audio_windows.join_speakers"
        )


def _check_expression(
    expression: ExpressionCondition, hidden_states: Tensor, samples: int, config: Any, token_grid: tuple[int, int, int]
) -> None:
    if config.expression_dims is None:
        raise InputError(
            "an expression was given, but this model has no expression condition; "
            "give none, or build the model with portrait.expression_dims"
        )
    batch, num_frames, people = hidden_states.shape[0], 4 * (token_grid[0] - 1) + 1, expression.features.shape[1]
    _check_shape("expression.features", expression.features, batch, (None, num_frames, sum(config.expression_dims)))
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
            f"{people} expressions were given without regions, and each would drive every face; "
            "give expression.regions (fantasytalking.attention_regions makes them)"
        )


def prediction_batch_size(batch: int, conditions: Conditions) -> int:
    """Samples that are predicted: those of the latents or, where these are one for all, of the text and the gates."""
    return max(getattr(conditions, name).shape[0] for name in PER_BRANCH_FIELDS) if batch == 1 else batch


def _check_shape(name: str, value: Tensor, batch: int, shape: tuple[int | None, ...]) -> None:
    fits = value.ndim == len(shape) + 1 and value.shape[0] in (1, batch)
    fits = fits and all(size > 0 and want in (None, size) for size, want in zip(value.shape[1:], shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise InputError(
            f"{name} has the shape {tuple(value.shape)}; ({batch}, {wanted}) is needed, or batch 1 for all"
        )


def _check_dtype(name: str, value: Tensor, dtype: torch.dtype) -> None:
    if name == "audio_mask":
        _check_bool(name, value, "True where a token is real")
    elif value.dtype != dtype and not (value.is_floating_point() and torch.is_autocast_enabled(value.device.type)):
        raise InputError(f"{name} is {value.dtype} and the latents are {dtype}; use conditions.to(dtype={dtype})")


def _check_bool(name: str, value: Tensor, meaning: str) -> None:
    if value.dtype != torch.bool:
        raise InputError(f"{name} is {value.dtype}; torch.bool is needed, {meaning}")
