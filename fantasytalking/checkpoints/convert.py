"""Converts between the released formats and ours, and computes reference forwards for comparison."""

from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor

from fantasytalking.audio_windows import clip_level_window, released_frame_windows
from fantasytalking.checkpoints.adapter import ADAPTER_FILE, AdapterConfig, read_adapter, save_adapter_tensors
from fantasytalking.checkpoints.reference_forward import portrait_reference_forward
from fantasytalking.checkpoints.released_audio import (
    check_released_audio,
    from_released_audio,
    read_released_audio,
    to_released_audio,
    write_released_audio,
)
from fantasytalking.checkpoints.released_portrait import (
    is_released_portrait,
    read_released_expression,
    released_adapter_config,
    write_released_expression,
)
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write, existing_file
from fantasytalking.common.stored_tensors import LazyTensors
from fantasytalking.common.tensor_io import check_shapes, open_safetensors, safetensors_metadata
from fantasytalking.common.weight_files import open_weights
from fantasytalking.conditions import Conditions
from fantasytalking.latent_geometry import WAN21_GEOMETRY
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import (
    build_from_wan,
    diffusers_to_wan_names,
    infer_wan_config,
    open_wan_single_file,
)


def convert_checkpoint(source: str | Path, output: str | Path) -> str:
    """Converts a checkpoint according to its kind.

    - an adapter folder with audio or expression -> the released format (.ckpt, .pt, .pth or .safetensors);
    - the released audio or portrait checkpoint -> an adapter folder, or the released format in another container if
      `output` has a file suffix;
    - a Wan transformer in a single file -> a diffusers folder.

    Returns:
        A sentence that describes the result.

    Raises:
        InputError: the source is none of these, or is damaged.
    """
    source, output = Path(source), Path(output)
    if source.is_dir() or source.name == ADAPTER_FILE:
        config, tensors = read_adapter(source)
        if config.lora is not None or config.base_tensors:
            raise InputError(
                f"'{source}' contains changes of the base, which the released format cannot store; use an adapter "
                "without LoRA and base tensors",
                code=ErrorCode.unsupported,
                field="lora" if config.lora is not None else "base_tensors",
            )
        if config.modules == ["expression"]:
            count = write_released_expression(tensors, output)
            return f"wrote {count} tensors in the released portrait format to '{output}'"
        released = to_released_audio(tensors)
        check_released_audio(released, str(source))
        write_released_audio(released, output)
        return f"wrote {len(released)} tensors in the released format to '{output}'"
    if _is_wan_transformer(existing_file(source, "input")):
        count = convert_wan_to_diffusers(source, output)
        return f"wrote {count} tensors of a Wan transformer in diffusers' layout to '{output}'"
    if is_released_portrait(source):
        return _convert_expression(source, output)
    released = read_released_audio(source)
    if output.suffix:
        write_released_audio(released, output)
        return f"wrote {len(released)} tensors in the released format to '{output}'"
    save_adapter_tensors(
        from_released_audio(released), output, AdapterConfig(modules=["audio"], audio_window="official")
    )
    return f"wrote an adapter of {len(released)} tensors to '{output}'; it contains audio, but neither face nor motion"


def _convert_expression(source: Path, output: Path) -> str:
    tensors = read_released_expression(source)
    if output.suffix:
        count = write_released_expression(tensors, output)
        return f"wrote {count} tensors in the released portrait format to '{output}'"
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    save_adapter_tensors(tensors, output, released_adapter_config(shapes, str(source)))
    return f"wrote an adapter of {len(tensors)} tensors to '{output}'; it contains expression only"


def convert_wan_to_diffusers(source: Path, output: Path) -> int:
    """Writes a single-file Wan transformer as a diffusers folder.

    Returns:
        Number of tensors.

    Raises:
        InputError: tensors are missing, unexpected or of other shapes than a Wan transformer's.
    """
    config, tensors = open_wan_single_file(source)
    with torch.device("meta"):
        model = WanTransformer3DModel(**config)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    check_shapes(tensors.shapes, expected, f"'{source}'", "it must be a Wan transformer")
    with atomic_write(output) as temporary:
        model.save_config(temporary)
        state = {name: tensors.read(name).contiguous() for name in expected}
        save_file(state, temporary / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    return len(expected)


def reference_forward(reference: str | Path) -> dict[str, Tensor]:
    """Runs our model on the weights, inputs and metadata of a reference file of the released code.

    A file with `ip_adapter.*` belongs to the portrait method: see `reference_forward.portrait_reference_forward`. A
    file of the audio method has `wan.*` (Wan's original names), `proj_model.*` and `audio_processor.*` (parts of the
    released checkpoint), `in.*` (latents (1,16,F,h,w), image_condition (1,20,F,h,w), text_embeds, image_embeds,
    timestep, audio_features (1,L,768)), and the metadata num_heads, num_frames, audio_scale and per_frame.

    Returns:
        prediction and prediction_without_audio (1,16,F,h,w), and audio_windows (1,F,L,C): projected features in the
        released code's windows, zero where padded.

    Raises:
        InputError: the file is not a reference, or its content is inconsistent.
    """
    path = existing_file(reference, "reference")
    if is_released_portrait(path):
        return portrait_reference_forward(path)
    metadata = reference_metadata(path)
    stored = open_safetensors(path)
    model = reference_model(stored, metadata, str(path))
    inputs = reference_inputs(stored, str(path))
    features, num_frames = inputs["audio_features"], metadata["num_frames"]
    stride = WAN21_GEOMETRY.temporal_stride
    by_frame = metadata["per_frame"]
    windows = released_frame_windows(features, num_frames, stride) if by_frame else clip_level_window(features)
    dtype = features.dtype
    conditions = Conditions(
        prompt_embeds=inputs["text_embeds"],
        image_embeds=inputs["image_embeds"],
        image_latents=inputs["image_condition"],
        audio_embeds=windows.tokens,
        audio_mask=windows.mask,
        face_embeds=torch.zeros(1, 1, model.config.face_dim, dtype=dtype),
        motion_intensity=torch.full((1, 2), 0.5, dtype=dtype),
        condition_scale=torch.tensor([[metadata["audio_scale"], 0.0]], dtype=dtype),
    )
    silent = conditions._replace(condition_scale=torch.zeros(1, 2, dtype=dtype))
    with torch.no_grad():
        return {
            "prediction": model(inputs["latents"], inputs["timestep"], conditions).sample,
            "prediction_without_audio": model(inputs["latents"], inputs["timestep"], silent).sample,
            "audio_windows": released_frame_windows(
                model.audio_projector(features, frame_level=False), num_frames, stride
            ).tokens,
        }


def _is_wan_transformer(path: Path) -> bool:
    """Whether a file has a Wan transformer. Torch files of parts that are loaded whole have not."""
    return any(name.endswith("patch_embedding.weight") for name in open_weights(path).shapes)


def reference_metadata(path: Path) -> dict[str, Any]:
    """Parses the metadata of a reference file of the audio method for `reference_model`.

    Returns:
        num_frames, audio_scale, eps (default 1e-6), per_frame (bool), and num_heads as text.

    Raises:
        InputError: an entry is missing or cannot be parsed.
    """
    text = safetensors_metadata(path)
    required = ("num_heads", "num_frames", "audio_scale", "per_frame")
    missing = [name for name in required if name not in text]
    if missing:
        raise InputError(
            f"'{path}' has no metadata '{missing[0]}'; a reference of the audio method has {', '.join(required)}",
            code=ErrorCode.missing_value,
            field=missing[0],
        )
    values: dict[str, Any] = {}
    for name, parse in (("num_frames", int), ("audio_scale", float), ("eps", float)):
        value = text.get(name, "1e-06")
        try:
            values[name] = parse(value)
        except ValueError as error:
            raise InputError(
                f"'{path}': metadata {name} is '{value}'; a number is required",
                code=ErrorCode.invalid_type,
                field=name,
                value=value,
            ) from error
    if text["per_frame"] not in ("True", "False"):
        raise InputError(
            f"'{path}': metadata per_frame is '{text['per_frame']}'; True or False is required",
            code=ErrorCode.invalid_choice,
            field="per_frame",
            value=text["per_frame"],
        )
    return {**values, "per_frame": text["per_frame"] == "True", "num_heads": text["num_heads"]}


def reference_model(stored: LazyTensors, metadata: dict[str, Any], source: str) -> FantasyTalkingTransformer3DModel:
    """Builds our model with the weights `wan.*`, `proj_model.*` and `audio_processor.*` of a reference file.

    Args:
        stored: tensors of the file.
        metadata: from `reference_metadata`.
        source: name of the file in error messages.

    Raises:
        InputError: tensors are missing, unexpected or of other shapes.
    """
    original = [name.removeprefix("wan.") for name in stored.shapes if name.startswith("wan.")]
    base = stored.renamed({ours: f"wan.{name}" for ours, name in diffusers_to_wan_names(original, source).items()})
    config = infer_wan_config(base.shapes, {"num_heads": metadata["num_heads"]}, source)
    released = {
        name: stored.read(name) for name in stored.shapes if name.startswith(("proj_model.", "audio_processor."))
    }
    check_released_audio(released, source)
    token_dim, feature_dim = released["proj_model.proj.weight"].shape
    model = build_from_wan(
        {**config, "eps": metadata["eps"]},
        # Face and motion modules are new and add nothing, so they have the smallest sizes.
        {
            "audio_dim": feature_dim,
            "audio_token_dim": token_dim,
            "face_tokens": 1,
            "face_token_dim": 8,
            "face_width": 8,
            "face_depth": 1,
            "face_heads": 1,
            "motion_width": 8,
        },
        base,
    )
    adapter = from_released_audio(released)
    state = model.state_dict()
    expected = {name: tuple(state[name].shape) for name in state if name in adapter or "audio_" in name}
    check_shapes(
        {name: tuple(value.shape) for name, value in adapter.items()}, expected, source, "base and audio parts differ"
    )
    with torch.no_grad():
        for name, value in adapter.items():
            state[name].copy_(value)
    return model


def reference_inputs(stored: LazyTensors, source: str) -> dict[str, Tensor]:
    """Reads the tensors `in.*` of a reference file of the audio method: see `reference_forward`.

    Raises:
        InputError: a tensor is missing.
    """
    names = ("latents", "image_condition", "text_embeds", "image_embeds", "timestep", "audio_features")
    missing = [name for name in names if f"in.{name}" not in stored.shapes]
    if missing:
        raise InputError(
            f"'{source}' has no tensor 'in.{missing[0]}'; a reference of the audio method has in.{', in.'.join(names)}",
            code=ErrorCode.shape_mismatch,
            field=f"in.{missing[0]}",
        )
    return {name: stored.read(f"in.{name}") for name in names}
