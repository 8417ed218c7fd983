"""Builds a portrait transformer from a Wan base: base tensors loaded strictly, the paper's modules initialized."""

import inspect
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import nn

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.hub import local_folder, resolve_local
from fantasytalking.common.stored_tensors import LazyTensors
from fantasytalking.common.tensor_io import (
    check_shapes,
    open_model_folder,
    safetensors_metadata,
)
from fantasytalking.common.text import shortened
from fantasytalking.common.text_files import read_json
from fantasytalking.common.weight_files import open_weights, without_prefix
from fantasytalking.condition_registry import registered_condition, registered_conditions
from fantasytalking.condition_specs import CONDITIONS
from fantasytalking.models.audio_projector import AudioProjector
from fantasytalking.models.cross_attention import PortraitCrossAttention
from fantasytalking.models.diffusers_internals import float32_module_names
from fantasytalking.models.expression_config import upgrade_expression_keys
from fantasytalking.models.expression_projector import ExpressionProjector
from fantasytalking.models.face_resampler import FaceResampler
from fantasytalking.models.meta_building import on_meta
from fantasytalking.models.motion_embedder import MotionEmbedder
from fantasytalking.models.registered_module import RegisteredModule
from fantasytalking.models.stored_linear import keep_stored_weights
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.transformer_config import check_transformer_config

SINGLE_FILE_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.")
"""What other programs put before the names of all tensors of a transformer."""
ORIGINAL_CLASS_NAME = "WanModel"
"""`_class_name` in the config.json of Wan's own repositories."""
TEXT_TO_VIDEO_PIPELINES = ("WanPipeline",)
"""Pipelines of diffusers that start from text alone, unless their model_index.json has `expand_timesteps`."""
WAN21_LATENT_CHANNELS = 16
WAN_HEAD_DIM = 128
"""Attention head width of every published Wan model."""


def adapter_modules() -> dict[str, tuple[str, ...]]:
    """Returns the modules of an adapter, the paper's and those of registered conditions, with patterns of their names.

    All other parameters belong to the base. Expression parameters exist only in a model with an `expression` section,
    guidance parameters only in a distilled model, those of registered conditions in a model that names them.
    """
    return _adapter_modules(tuple(registered_conditions()))


@cache
def _adapter_modules(registered: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    specs = (*CONDITIONS, *(registered_condition(name, "adapter").spec for name in registered))
    return {spec.name: spec.parameter_patterns for spec in specs if spec.module is not None}


def adapter_module_of(name: str) -> str | None:
    """Returns the adapter module that a parameter belongs to, or None for a parameter of the base."""
    for module, patterns in adapter_modules().items():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            return module
    return None


def load_from_wan(
    source: str | Path,
    module_config: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    materialize: bool = True,
    subfolder: str = "transformer",
    keep_quantized: bool = False,
) -> FantasyTalkingTransformer3DModel:
    """Builds a new portrait transformer on a Wan image-to-video base, whose predictions it equals bit for bit.

    Args:
        source: a diffusers folder (of a pipeline or a transformer), a folder of Wan's own repository, a single file
            (`WEIGHT_SUFFIXES`) with Wan's original or diffusers' names, or a hub ID. From a portrait transformer, the
            base is loaded.
        module_config: configuration of the paper's modules (fields of `PortraitConfig`); missing fields take their
            defaults.
        dtype: dtype of the parameters, except those that Wan keeps in float32; None = as stored, and where weights
            are quantized, one that can be computed with: bfloat16 for float8, or float32 for float8 with scales and
            GGUF.
        materialize: False leaves the base's tensors uninitialized, which takes no memory yet: for a process that
            receives them from another. Requires a dtype.
        subfolder: of the transformer in a pipeline's folder: transformer, or transformer_2 for the low-noise expert of
            a base with two.
        keep_quantized: whether linear layers keep their weights as the source stores them, in GGUF blocks, float8 or
            int8, and dequantize them in every call.

    Raises:
        InputError: the source is missing or not a Wan transformer, or tensors are missing, unexpected or of other
            shapes; or none of its weights is quantized, and they are to stay so.
    """
    config, tensors = open_base(source, subfolder)
    return build_from_wan(config, module_config or {}, tensors, dtype, materialize, keep_quantized)


def build_from_wan(
    base_config: Mapping[str, Any],
    module_config: Mapping[str, Any],
    tensors: LazyTensors,
    dtype: torch.dtype | None = None,
    materialize: bool = True,
    keep_quantized: bool = False,
) -> FantasyTalkingTransformer3DModel:
    """Builds the model of `base_config` and `module_config` and loads every base tensor from `tensors`.

    All shapes are compared before the first tensor is read, so a model is never partly loaded. `dtype`,
    `materialize` and `keep_quantized` are as in `load_from_wan`.

    Raises:
        InputError: a configuration key is unknown, or `tensors` are not exactly the base's.
    """
    _check_num_layers(base_config, tensors)
    check_transformer_config({**base_config, **module_config}, tensors.source)
    dtype = dtype or tensors.dequantized_to
    model = _build_on_meta({**base_config, **module_config}, tensors.source)
    expected = {
        name: tuple(value.shape) for name, value in model.state_dict().items() if adapter_module_of(name) is None
    }
    found = {name: shape for name, shape in tensors.shapes.items() if "norm_added_q" not in name}  # unused by Wan
    check_shapes(found, expected, tensors.source, "it must be a Wan image-to-video transformer")

    config = model.config
    model.rope = WanRotaryPosEmbed(config.attention_head_dim, config.patch_size, config.rope_max_seq_len)
    kept = keep_stored_weights(model, tensors, expected, dtype) if keep_quantized else set()
    if keep_quantized and not kept:
        raise InputError(
            f"'{tensors.source}' has no linear layer in GGUF blocks, float8 or int8 whose weight could stay as stored; "
            "use optimizations.quantization=none, int8 or float8",
            code=ErrorCode.conflict,
            field="optimizations.quantization",
            value="stored",
        )
    if materialize:
        read = [name for name in expected if name not in kept]
        state = {name: _read_base_tensor(tensors, name, dtype, model) for name in read}
    else:
        assert dtype is not None, "tensors that are not read need a dtype"
        state = {
            name: torch.empty(shape, dtype=parameter_dtype(model, name, dtype)) for name, shape in expected.items()
        }
    fresh_dtype = dtype or state["proj_out.weight"].dtype
    for module in model.modules():
        initialize_new_module(module, fresh_dtype)
    own = model.state_dict()
    state.update({name: value for name, value in own.items() if name in kept or adapter_module_of(name)})
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def initialize_new_module(module: nn.Module, dtype: torch.dtype) -> None:
    """Allocates and initializes a meta-device module if an adapter has it."""
    if isinstance(module, PortraitCrossAttention):
        for name in module.decoupled:
            for projection in module.pair(name):
                projection.to(dtype).to_empty(device="cpu")
        module.reset_decoupled_parameters()
    elif isinstance(module, RegisteredModule):
        module.materialize(dtype)
    elif isinstance(module, AudioProjector | FaceResampler | MotionEmbedder | ExpressionProjector):
        module.to(dtype).to_empty(device="cpu")
        module.reset_parameters()


def diffusers_to_wan_names(names: list[str], source: str) -> dict[str, str]:
    """Returns {diffusers name: original name} for Wan's original names, by diffusers' single-file conversion.

    Raises:
        InputError: the names are those of Wan-Animate, another model that the conversion would also rename.
    """
    other = [name for name in names if "face_adapter" in name or "motion_encoder" in name]
    if other:
        raise InputError(
            f"'{source}' contains the tensor '{other[0]}' of Wan-Animate; use a Wan transformer",
            code=ErrorCode.shape_mismatch,
            field=other[0],
        )
    markers: dict[str, Any] = {name: name for name in names}
    return convert_wan_transformer_to_diffusers(markers)


def infer_wan_config(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str], source: str) -> dict[str, Any]:
    """Infers the base configuration from the shapes of tensors in diffusers' names.

    The number of heads does not follow from the shapes: it is the metadata's `num_heads`, else the width divided by
    `WAN_HEAD_DIM`.

    Raises:
        InputError: a tensor that every Wan transformer has is missing, or the number of heads cannot be inferred.
    """
    try:
        dim, in_channels, *patch_size = shapes["patch_embedding.weight"]
        heads = _num_heads(dim, metadata.get("num_heads"), source)
        blocks = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
        image = shapes.get("condition_embedder.image_embedder.norm1.weight")
        position = shapes.get("condition_embedder.image_embedder.pos_embed")
        return {
            "patch_size": tuple(patch_size),
            "num_attention_heads": heads,
            "attention_head_dim": dim // heads,
            "in_channels": in_channels,
            "out_channels": shapes["proj_out.weight"][0] // (patch_size[0] * patch_size[1] * patch_size[2]),
            "text_dim": shapes["condition_embedder.text_embedder.linear_1.weight"][1],
            "freq_dim": shapes["condition_embedder.time_embedder.linear_1.weight"][1],
            "ffn_dim": shapes["blocks.0.ffn.net.0.proj.weight"][0],
            "num_layers": len(blocks),
            "cross_attn_norm": "blocks.0.norm2.weight" in shapes,
            "image_dim": image[0] if image else None,
            "added_kv_proj_dim": dim if "blocks.0.attn2.add_k_proj.weight" in shapes else None,
            "pos_embed_seq_len": position[1] if position else None,
        }
    except InputError:
        raise
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise InputError(
            f"'{source}' is not a Wan transformer: {error} is missing or has an unexpected shape; use a Wan "
            "transformer",
            code=ErrorCode.shape_mismatch,
            field=str(error),
        ) from error


def _num_heads(dim: int, stated: str | None, source: str) -> int:
    if stated is None:
        if dim % WAN_HEAD_DIM:
            raise InputError(
                f"'{source}': the width is {dim}, not a multiple of {WAN_HEAD_DIM}, Wan's head width; "
                "set num_heads in the file's metadata, or use a diffusers folder",
                code=ErrorCode.missing_value,
                field="num_heads",
                value=dim,
            )
        return dim // WAN_HEAD_DIM
    if not stated.isdecimal() or not int(stated) or dim % int(stated) or dim // int(stated) < 12:
        raise InputError(
            f"'{source}': metadata num_heads is '{stated}'; it must divide the width {dim} into 12 or more",
            code=ErrorCode.out_of_range,
            field="num_heads",
            value=stated,
        )
    return int(stated)


def open_base(source: str | Path, subfolder: str) -> tuple[dict[str, Any], LazyTensors]:
    """Opens a Wan base for `build_from_wan`: see `load_from_wan`.

    Returns:
        Configuration of the transformer, and its tensors in diffusers' names.

    Raises:
        InputError: the source is missing or not an image-to-video transformer.
    """
    path = Path(resolve_local(source))
    if path.is_file():
        config, tensors = open_wan_single_file(path)
        _check_inferred_conditioning(config, path)
        return config, tensors
    folder = path if path.is_dir() else _download_base(str(source), subfolder)
    pipeline = folder / "model_index.json"
    if not (folder / "config.json").is_file() and (folder / subfolder / "config.json").is_file():
        folder = folder / subfolder
    if _is_original_folder(folder):
        config, tensors = _with_inferred_config(open_model_folder(folder), _original_metadata(folder))
        _check_inferred_conditioning(config, folder)
        return config, tensors
    config = _read_base_config(folder)
    _check_image_conditioning(config, pipeline)
    return _select_base(config, open_model_folder(folder))


def _check_image_conditioning(config: Mapping[str, Any], pipeline: Path) -> None:
    """Rejects a text-to-video base, whose transformer has the same channels as one that replaces the first frame."""
    if config.get("in_channels") != config.get("out_channels") or not pipeline.is_file():
        return
    values = read_json(pipeline)
    if values.get("_class_name") in TEXT_TO_VIDEO_PIPELINES and not values.get("expand_timesteps"):
        raise InputError(
            f"'{pipeline.parent}' is a text-to-video base, which was not trained to continue an image; use an "
            "image-to-video base, or Wan2.2-TI2V-5B",
            code=ErrorCode.unsupported,
            field="base",
            value=str(pipeline.parent),
        )


def _check_inferred_conditioning(config: Mapping[str, Any], source: Path) -> None:
    """Rejects Wan 2.1's text-to-video transformers, by their channels; Wan2.2-TI2V-5B has those of another VAE."""
    if config["in_channels"] == config["out_channels"] == WAN21_LATENT_CHANNELS:
        raise InputError(
            f"'{source}' is a text-to-video transformer, which was not trained to continue an image; use that of an "
            "image-to-video base",
            code=ErrorCode.unsupported,
            field="base",
            value=str(source),
        )


def read_base_config(source: str | Path) -> dict[str, Any]:
    """Returns the configuration of a base's transformer, with defaults: see `load_from_wan`.

    Raises:
        InputError: as `load_from_wan`.
    """
    defaults = inspect.signature(WanTransformer3DModel.__init__).parameters.values()
    known = {each.name: each.default for each in defaults if each.default is not inspect.Parameter.empty}
    return known | open_base(source, "transformer")[0]


def _select_base(config: dict[str, Any], tensors: LazyTensors) -> tuple[dict[str, Any], LazyTensors]:
    """Selects the base's part of a folder, which may contain a whole portrait transformer."""
    known = inspect.signature(WanTransformer3DModel.__init__).parameters
    ours = inspect.signature(FantasyTalkingTransformer3DModel.__init__).parameters.keys() - known.keys()
    base = {name: name for name in tensors.shapes if adapter_module_of(name) is None}
    return {key: value for key, value in config.items() if key not in ours}, tensors.renamed(base)


def open_wan_single_file(path: Path) -> tuple[dict[str, Any], LazyTensors]:
    """Returns configuration and tensors of a single file (`WEIGHT_SUFFIXES`), in diffusers' names.

    Raises:
        InputError: the file cannot be read or is not a Wan transformer.
    """
    metadata = safetensors_metadata(path) if path.suffix == ".safetensors" else {}
    return _with_inferred_config(without_prefix(open_weights(path), SINGLE_FILE_PREFIXES), metadata)


def _with_inferred_config(tensors: LazyTensors, metadata: Mapping[str, str]) -> tuple[dict[str, Any], LazyTensors]:
    if any(".self_attn." in name for name in tensors.shapes):
        tensors = tensors.renamed(diffusers_to_wan_names(list(tensors.shapes), tensors.source))
    return infer_wan_config(tensors.shapes, metadata, tensors.source), tensors


def _is_original_folder(folder: Path) -> bool:
    """Whether a folder is Wan's own repository, with shards in the original names."""
    config = folder / "config.json"
    return config.is_file() and read_json(config).get("_class_name") == ORIGINAL_CLASS_NAME


def _original_metadata(folder: Path) -> dict[str, str]:
    heads = read_json(folder / "config.json").get("num_heads")
    return {} if heads is None else {"num_heads": str(heads)}


def _read_base_config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    class_name = config.get("_class_name")
    if class_name not in (WanTransformer3DModel.__name__, FantasyTalkingTransformer3DModel.__name__):
        raise InputError(
            f"'{folder}' contains a {class_name or 'model without a class name'}; "
            f"a {WanTransformer3DModel.__name__} folder is required",
            code=ErrorCode.invalid_choice,
            field="_class_name",
            value=class_name,
        )
    return {key: value for key, value in upgrade_expression_keys(config).items() if not key.startswith("_")}


def _download_base(hub_id: str, subfolder: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(hub_id, allow_patterns=["model_index.json", f"{subfolder}/*"])
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"base '{hub_id}' is neither a local folder nor a file and could not be downloaded; "
            f"run: hf download {hub_id} --local-dir {local_folder(hub_id)}",
            code=ErrorCode.missing_weights,
            field="base",
            value=hub_id,
        ) from error
    return Path(folder)


def check_transformer_folder(folder: Path) -> None:
    """Validates the config.json of a saved portrait transformer before it is loaded; a missing file is left to loading.

    Raises:
        InputError: as `check_transformer_config`.
    """
    path = folder / "config.json"
    if path.is_file():
        config = upgrade_expression_keys(read_json(path))
        config = {key: value for key, value in config.items() if not key.startswith("_")}
        config.pop("quantization_config", None)
        check_transformer_config(config, f"'{path}'")


def _build_on_meta(config: Mapping[str, Any], source: str) -> FantasyTalkingTransformer3DModel:
    try:
        with on_meta():
            return FantasyTalkingTransformer3DModel(**config)
    except (ValueError, RuntimeError, TypeError, ArithmeticError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"{source}: no transformer can be built from its configuration ({reason}); it must be a Wan "
            "image-to-video transformer",
            code=ErrorCode.malformed_file,
            field="config.json",
        ) from error


def _check_num_layers(config: Mapping[str, Any], tensors: LazyTensors) -> None:
    blocks = {name.split(".")[1] for name in tensors.shapes if name.startswith("blocks.")}
    if config.get("num_layers") != len(blocks):
        raise InputError(
            f"{tensors.source}: num_layers is {shortened(config.get('num_layers'))}, but the file contains "
            f"{len(blocks)} blocks; it must be a Wan image-to-video transformer",
            code=ErrorCode.shape_mismatch,
            field="num_layers",
            value=config.get("num_layers"),
        )


def parameter_dtype(model: nn.Module, name: str, dtype: torch.dtype) -> torch.dtype:
    """Returns `dtype`, or float32 for a parameter of the modules that Wan keeps in float32."""
    keep = any(part in float32_module_names(model) for part in name.split("."))
    return torch.float32 if keep else dtype


def _read_base_tensor(
    tensors: LazyTensors, name: str, dtype: torch.dtype | None, model: FantasyTalkingTransformer3DModel
) -> torch.Tensor:
    if dtype is not None and name in tensors.quantized:
        return tensors.read_as(name, parameter_dtype(model, name, dtype))
    tensor = tensors.read(name)
    if not tensor.is_floating_point():
        raise InputError(
            f"the base tensor '{name}' is {tensor.dtype}; floating-point weights are required",
            code=ErrorCode.invalid_type,
            field=name,
            value=tensor.dtype,
        )
    return tensor if dtype is None else tensor.to(parameter_dtype(model, name, dtype))
