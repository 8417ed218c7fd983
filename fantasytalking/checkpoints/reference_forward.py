"""Runs our model on reference files of the released FantasyPortrait code."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fantasytalking.attention_regions import regions_from_masks
from fantasytalking.checkpoints.released_portrait import (
    RELEASED_PORTRAIT_PARTS,
    RELEASED_RESAMPLER_HEAD_DIM,
    in_our_names,
    released_expression_config,
)
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.stored_tensors import LazyTensors
from fantasytalking.common.tensor_io import check_shapes, open_safetensors, safetensors_metadata
from fantasytalking.conditions import Conditions, ExpressionCondition
from fantasytalking.latent_geometry import WAN21_GEOMETRY
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import build_from_wan, diffusers_to_wan_names, infer_wan_config

PORTRAIT_REFERENCE_INPUTS = (
    "latents",
    "image_condition",
    "text_embeds",
    "image_embeds",
    "timestep",
    "expression_features",
)


def portrait_reference_forward(path: Path) -> dict[str, Tensor]:
    """Runs our model on the weights, inputs and metadata of a reference file of the portrait method.

    The file has `wan.*` (Wan's original names), the four parts of the released adapter, `in.*` (latents (1,16,F,h,w),
    image_condition (1,20,F,h,w), text_embeds, image_embeds, timestep, expression_features (people, frames, 554) and,
    for several people, face_regions (people, H, W)), and the metadata num_heads, num_frames and portrait_scale.

    Returns:
        prediction and prediction_without_portrait (1,16,F,h,w). For one person, prediction masks padding, and
        prediction_padding_attended is the released code's prediction; for several, padding is attended as released.

    Raises:
        InputError: the file is not a reference, or its content is inconsistent.
    """
    stored = open_safetensors(path)
    text = safetensors_metadata(path)
    model = _model(stored, text, str(path))
    inputs = _inputs(stored, str(path))
    conditions = _conditions(stored, inputs, text, str(path))
    expression = conditions.expression
    assert expression is not None
    several = expression.features.shape[1] > 1

    def predict(padding: str, driven: bool = True) -> Tensor:
        assert model.expression_config is not None
        model.configure_expression(replace(model.expression_config, padding=padding))
        branch = conditions if driven else conditions._replace(expression=None)
        return model(inputs["latents"], inputs["timestep"], branch).sample

    with torch.no_grad():
        attended = predict("attended")
        outputs = {
            "prediction": attended if several else predict("masked"),
            "prediction_without_portrait": predict("masked", driven=False),
        }
        return outputs if several else {**outputs, "prediction_padding_attended": attended}


def _model(stored: LazyTensors, metadata: dict[str, str], source: str) -> FantasyTalkingTransformer3DModel:
    original = [name.removeprefix("wan.") for name in stored.shapes if name.startswith("wan.")]
    base = stored.renamed({ours: f"wan.{name}" for ours, name in diffusers_to_wan_names(original, source).items()})
    config = infer_wan_config(base.shapes, {"num_heads": _required_metadata(metadata, "num_heads", source)}, source)
    prefixes = tuple(f"{part}." for part in RELEASED_PORTRAIT_PARTS)
    released = in_our_names(stored.renamed({name: name for name in stored.shapes if name.startswith(prefixes)}))
    sizes = released_expression_config(released.shapes, source, _head_dim(metadata, source))
    scale = _parse_number(_required_metadata(metadata, "portrait_scale", source), "portrait_scale", source)
    # Audio, face and motion modules are new and add nothing, so they have the smallest sizes.
    small: dict[str, Any] = dict.fromkeys(
        ("audio_dim", "audio_token_dim", "face_token_dim", "face_width", "motion_width"), 8
    )
    model = build_from_wan(
        {**config, "eps": _parse_number(metadata.get("eps", "1e-06"), "eps", source)},
        {
            **small,
            "expression": replace(sizes, scale=scale).to_dict(),
            "face_tokens": 1,
            "face_depth": 1,
            "face_heads": 1,
        },
        base,
    )
    state = model.state_dict()
    check_shapes(
        released.shapes,
        {name: tuple(value.shape) for name, value in state.items() if "expression_" in name},
        source,
        "base and portrait parts differ",
    )
    with torch.no_grad():
        for name, value in released.read_all().items():
            state[name].copy_(value)
    return model


def _conditions(stored: LazyTensors, inputs: dict[str, Tensor], metadata: dict[str, str], source: str) -> Conditions:
    features = inputs["expression_features"]
    num_frames = int(_parse_number(_required_metadata(metadata, "num_frames", source), "num_frames", source))
    if features.ndim != 3 or not features.numel() or features.shape[1] != num_frames:
        raise InputError(
            f"'{source}': expression_features has shape {tuple(features.shape)}; "
            f"expected (people, {num_frames}, features)",
            code=ErrorCode.shape_mismatch,
            field="in.expression_features",
            value=tuple(features.shape),
        )
    dtype, regions = features.dtype, None
    if "in.face_regions" in stored.shapes:
        regions = regions_from_masks(stored.read("in.face_regions"), num_frames, WAN21_GEOMETRY)[None]
    return Conditions(
        prompt_embeds=inputs["text_embeds"],
        image_embeds=inputs["image_embeds"],
        image_latents=inputs["image_condition"],
        audio_embeds=torch.zeros(1, 1, 1, 8, dtype=dtype),
        audio_mask=torch.zeros(1, 1, 1, dtype=torch.bool),
        face_embeds=torch.zeros(1, 1, 512, dtype=dtype),
        motion_intensity=torch.full((1, 2), 0.5, dtype=dtype),
        condition_scale=torch.zeros(1, 2, dtype=dtype),
        expression=ExpressionCondition(
            features=features[None],
            present=torch.ones(1, *features.shape[:2], dtype=torch.bool),
            regions=regions,
            scale=torch.ones(1, dtype=dtype),
        ),
    )


def _inputs(stored: LazyTensors, source: str) -> dict[str, Tensor]:
    missing = [name for name in PORTRAIT_REFERENCE_INPUTS if f"in.{name}" not in stored.shapes]
    if missing:
        raise InputError(
            f"'{source}' has no tensor 'in.{missing[0]}'; a portrait reference has "
            f"in.{', in.'.join(PORTRAIT_REFERENCE_INPUTS)}",
            code=ErrorCode.shape_mismatch,
            field=f"in.{missing[0]}",
        )
    return {name: stored.read(f"in.{name}") for name in PORTRAIT_REFERENCE_INPUTS}


def _required_metadata(metadata: dict[str, str], name: str, source: str) -> str:
    if name not in metadata:
        raise InputError(
            f"'{source}' has no metadata '{name}', which a portrait reference has",
            code=ErrorCode.missing_value,
            field=name,
        )
    return metadata[name]


def _parse_number(value: str, name: str, source: str) -> float:
    try:
        number = float(value)
    except ValueError as error:
        raise InputError(
            f"'{source}': metadata {name} is '{value}'; a number is required",
            code=ErrorCode.invalid_type,
            field=name,
            value=value,
        ) from error
    if not 0 <= number <= 1e6:
        raise InputError(
            f"'{source}': metadata {name} is '{value}'; it must be 0 to 1,000,000",
            code=ErrorCode.out_of_range,
            field=name,
            value=value,
        )
    return number


def _head_dim(metadata: dict[str, str], source: str) -> int:
    """Returns the head width of the resamplers: `dim_head=N` in the metadata `resampler`, else the released one."""
    stated = re.search(r"\bdim_head=(\d{1,5})\b", metadata.get("resampler", ""))
    head_dim = int(stated[1]) if stated else RELEASED_RESAMPLER_HEAD_DIM
    if not head_dim:
        raise InputError(
            f"'{source}': metadata resampler is '{metadata['resampler']}'; dim_head must be at least 1",
            code=ErrorCode.out_of_range,
            field="resampler",
            value=metadata["resampler"],
        )
    return head_dim
