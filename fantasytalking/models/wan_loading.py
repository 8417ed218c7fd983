"""A portrait transformer put together from a Wan base: base tensors strict, the paper's modules fresh."""

import inspect
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import nn

from fantasytalking.common.errors import InputError
from fantasytalking.common.hub import local_folder, resolve_local
from fantasytalking.common.tensor_io import (
    LazyTensors,
    check_shapes,
    open_model_folder,
    open_safetensors,
    read_json,
    safetensors_metadata,
)
from fantasytalking.models.audio_projector import AudioProjector
from fantasytalking.models.cross_attention import PortraitCrossAttention
from fantasytalking.models.diffusers_internals import float32_module_names
from fantasytalking.models.expression_config import check_expression_config
from fantasytalking.models.expression_projector import ExpressionProjector
from fantasytalking.models.face_resampler import FaceResampler
from fantasytalking.models.motion_embedder import MotionEmbedder
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel

ADAPTER_MODULES: dict[str, tuple[str, ...]] = {
    "audio": ("audio_projector.*", "blocks.*.attn2.audio_[kv]_proj.weight"),
    "face": ("face_resampler.*", "blocks.*.attn2.face_[kv]_proj.weight"),
    "motion": ("motion_embedder.*",),
    "expression": ("expression_projector.*", "blocks.*.attn2.expression_[kv]_proj.weight"),
    "guidance": ("guidance_embedder.*",),
}
"""The paper's modules and the names of their parameters; every other parameter is the base's. The expression's are
there only in a model with `expression_dims`, the guidance's only in a distilled one."""

WAN_HEAD_DIM = 128
"""Of every published Wan 2.1 model."""


def adapter_module_of(name: str) -> str | None:
    """Which of the paper's modules a parameter belongs to; None for the base."""
    for module, patterns in ADAPTER_MODULES.items():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            return module
    return None


def load_from_wan(
    source: str | Path,
    module_config: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    materialize: bool = True,
) -> FantasyTalkingTransformer3DModel:
    """A fresh portrait transformer on the weights of a Wan image-to-video base, which it equals bit for bit.

    Args:
        source: a diffusers folder (a pipeline's or the transformer's own), a single safetensors file in Wan's original
            or diffusers' names, or a hub id. Of a whole portrait transformer the base is taken.
        module_config: configuration of the paper's modules (`audio_dim` ... `motion_width`); defaults else.
        dtype: of the parameters, but for those that Wan keeps in float32; None = as stored.
        materialize: False leaves the base's tensors unwritten, which takes no memory yet: for a process that is sent
            them. Needs a dtype.

    Raises:
        InputError: nothing there, not a Wan transformer, or tensors missing, left over or of other shapes.
    """
    config, tensors = _open_base(source)
    return build_from_wan(config, module_config or {}, tensors, dtype, materialize)


def build_from_wan(
    base_config: Mapping[str, Any],
    module_config: Mapping[str, Any],
    tensors: LazyTensors,
    dtype: torch.dtype | None = None,
    materialize: bool = True,
) -> FantasyTalkingTransformer3DModel:
    """The model of the configurations `base_config` and `module_config` with every base tensor set from `tensors`.

    All shapes are compared before the first tensor is read, so nothing is ever half-loaded. `materialize` is
    `load_from_wan`'s.

    Raises:
        InputError: an unknown configuration key, or `tensors` are not exactly the base's.
    """
    _check_config({**base_config, **module_config}, tensors)
    with torch.device("meta"):
        model = FantasyTalkingTransformer3DModel(**{**base_config, **module_config})
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items() if adapter_module_of(name) is None}
    found = {name: shape for name, shape in tensors.shapes.items() if "norm_added_q" not in name}  # never read by Wan
    check_shapes(found, wanted, tensors.source, "it must be a Wan 2.1 image-to-video transformer")

    config = model.config
    model.rope = WanRotaryPosEmbed(config.attention_head_dim, config.patch_size, config.rope_max_seq_len)
    if materialize:
        state = {name: _cast_base_tensor(name, tensors.read(name), dtype, model) for name in wanted}
    else:
        assert dtype is not None, "what is not read has no dtype of its own"
        state = {name: torch.empty(shape, dtype=parameter_dtype(model, name, dtype)) for name, shape in wanted.items()}
    fresh_dtype = dtype or state["proj_out.weight"].dtype
    for module in model.modules():
        initialize_new_module(module, fresh_dtype)
    state.update({name: value for name, value in model.state_dict().items() if adapter_module_of(name)})
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def initialize_new_module(module: nn.Module, dtype: torch.dtype) -> None:
    """Gives a meta-device module of the paper's, when it is one, memory and its first weights."""
    if isinstance(module, PortraitCrossAttention):
        for projection in (module.audio_k_proj, module.audio_v_proj, module.face_k_proj, module.face_v_proj):
            projection.to_empty(device="cpu").to(dtype)
        module.reset_audio_parameters()
        module.reset_face_parameters()
        if module.has_expression:
            module.expression_k_proj.to_empty(device="cpu").to(dtype)
            module.expression_v_proj.to_empty(device="cpu").to(dtype)
            module.reset_expression_parameters()
    elif isinstance(module, AudioProjector | FaceResampler | MotionEmbedder | ExpressionProjector):
        module.to_empty(device="cpu").to(dtype)
        module.reset_parameters()


def diffusers_to_wan_names(names: list[str], source: str) -> dict[str, str]:
    """Diffusers' names of Wan's original names: {diffusers: original}, by diffusers' own single-file conversion.

    Raises:
        InputError: names of Wan-Animate, another model that the conversion would rename as well.
    """
    other = [name for name in names if "face_adapter" in name or "motion_encoder" in name]
    if other:
        raise InputError(f"'{source}' holds '{other[0]}'; Wan-Animate is another model, give a Wan 2.1 transformer")
    markers: dict[str, Any] = {name: name for name in names}
    return convert_wan_transformer_to_diffusers(markers)


def infer_wan_config(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str], source: str) -> dict[str, Any]:
    """The base configuration that tensors in diffusers' names imply.

    The number of heads is not in the shapes: it is the metadata's `num_heads`, or else follows from heads of 128.

    Raises:
        InputError: a tensor that every Wan transformer has is missing, or the heads cannot be told.
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
        raise InputError(f"'{source}' is not a Wan transformer: {error} is missing or has an odd shape") from error


def _num_heads(dim: int, stated: str | None, source: str) -> int:
    if stated is None:
        if dim % WAN_HEAD_DIM:
            raise InputError(
                f"'{source}': the width {dim} is not a multiple of {WAN_HEAD_DIM}, Wan's head size; "
                "state num_heads in the file's metadata, or give a diffusers folder"
            )
        return dim // WAN_HEAD_DIM
    if not stated.isdecimal() or not int(stated) or dim % int(stated) or dim // int(stated) < 12:
        raise InputError(
            f"'{source}': metadata num_heads is '{stated}'; it must divide the width {dim} into 12 or more"
        )
    return int(stated)


def _open_base(source: str | Path) -> tuple[dict[str, Any], LazyTensors]:
    path = Path(resolve_local(source))
    if path.is_file():
        return open_wan_single_file(path)
    folder = path if path.is_dir() else _download_base(str(source))
    if not (folder / "config.json").is_file() and (folder / "transformer" / "config.json").is_file():
        folder = folder / "transformer"
    return _select_base(_read_base_config(folder), open_model_folder(folder))


def _select_base(config: dict[str, Any], tensors: LazyTensors) -> tuple[dict[str, Any], LazyTensors]:
    """What is the base's of a folder, which may be a portrait transformer's as a saved pipeline has it."""
    known = inspect.signature(WanTransformer3DModel.__init__).parameters
    ours = inspect.signature(FantasyTalkingTransformer3DModel.__init__).parameters.keys() - known.keys()
    base = {name: name for name in tensors.shapes if adapter_module_of(name) is None}
    return {key: value for key, value in config.items() if key not in ours}, tensors.renamed(base)


def open_wan_single_file(path: Path) -> tuple[dict[str, Any], LazyTensors]:
    """Configuration and tensors of a single safetensors file, Wan's original names turned into diffusers'.

    Raises:
        InputError: not safetensors, or not a Wan transformer.
    """
    tensors = open_safetensors(path)
    if any(".self_attn." in name for name in tensors.shapes):
        tensors = tensors.renamed(diffusers_to_wan_names(list(tensors.shapes), str(path)))
    return infer_wan_config(tensors.shapes, safetensors_metadata(path), str(path)), tensors


def _read_base_config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    class_name = config.get("_class_name")
    if class_name not in (WanTransformer3DModel.__name__, FantasyTalkingTransformer3DModel.__name__):
        raise InputError(
            f"'{folder}' holds a {class_name or 'model without a class name'}; "
            f"a {WanTransformer3DModel.__name__} folder is needed"
        )
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _download_base(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(hub_id, allow_patterns=["transformer/*"])
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"base '{hub_id}' is no local folder or file and was not had from the hub; "
            f"hf download {hub_id} --local-dir {local_folder(hub_id)}"
        ) from error
    return Path(folder)


def _check_config(config: Mapping[str, Any], tensors: LazyTensors) -> None:
    """Keys known, values of the kind of their defaults and as many blocks as stored, before anything is built."""
    parameters = inspect.signature(FantasyTalkingTransformer3DModel.__init__).parameters
    for key, value in config.items():
        if key not in parameters:
            raise InputError(f"{tensors.source}: the transformer's configuration has the unknown key '{key}'")
        default = parameters[key].default
        kinds: tuple[type, ...] = (type(default),)
        if key in ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len"):
            kinds = (int, type(None))
        elif key in ("patch_size", "expression_dims", "expression_learned"):
            kinds = (tuple, list) if default is not None else (tuple, list, type(None))
        sizes = value if isinstance(value, tuple | list) else [value] if isinstance(value, int) else []
        if not isinstance(value, kinds) or any(
            type(size) not in (int, bool) or not 0 <= size <= 2**20 for size in sizes
        ):
            raise InputError(f"{tensors.source}: the transformer's configuration has {key} = {value!r}")
    check_expression_config(config, tensors.source)
    blocks = {name.split(".")[1] for name in tensors.shapes if name.startswith("blocks.")}
    if config.get("num_layers") != len(blocks):
        raise InputError(
            f"{tensors.source}: the configuration says {config.get('num_layers')} layers, there are {len(blocks)}; "
            "it must be a Wan 2.1 image-to-video transformer"
        )


def parameter_dtype(model: nn.Module, name: str, dtype: torch.dtype) -> torch.dtype:
    """`dtype`, or float32 for a parameter of the modules that Wan keeps in it."""
    keep = any(part in float32_module_names(model) for part in name.split("."))
    return torch.float32 if keep else dtype


def _cast_base_tensor(
    name: str, tensor: torch.Tensor, dtype: torch.dtype | None, model: FantasyTalkingTransformer3DModel
) -> torch.Tensor:
    if not tensor.is_floating_point():
        raise InputError(f"the base tensor '{name}' is {tensor.dtype}; floating-point weights are needed")
    return tensor if dtype is None else tensor.to(parameter_dtype(model, name, dtype))
