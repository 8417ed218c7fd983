"""Layouts in which models are published: files, names of the tensors in them, and how each tensor is stored."""

import math
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import NamedTuple

import torch
from diffusers import AutoencoderKLWan
from torch import nn

from fantasytalking.checkpoints.adapter import ADAPTER_FILE
from fantasytalking.common.stored_tensors import FLOAT8_DTYPES, FLOAT8_MARKER, SCALE_ENDINGS
from fantasytalking.inference.loading_plan import LoadedWeights, StoredWeight, can_stay_quantized, plan_component
from fantasytalking.inference.rehearsal.original_names import (
    llama_text_encoder_name,
    original_transformer_name,
    original_vae_name,
)
from fantasytalking.inference.rehearsal.random_weights import RandomTensor
from fantasytalking.models.experts import Expert
from fantasytalking.models.wan_loading import adapter_module_of
from fantasytalking.pipeline.loading.options import FLOAT32_COMPONENTS, MODEL_COMPONENTS

REHEARSED_MODULES = ("audio", "face", "motion")
TIED_NAMES = ("encoder.embed_tokens.weight",)
"""umT5's second name of its embedding, which files leave out."""
SINGLE_FILE_LATENT_CHANNELS = 16
"""Of the VAE that is read from a single file, Wan 2.1's."""
GGUF_EMBEDDING = "Q8_0"
"""Of umT5's embedding, whatever the file's quantization, about as llama.cpp stores it."""


class WeightFormat(Enum):
    """How the weights are stored. In single files, transformers and umT5 are in the format, the VAE is in bfloat16 and
    CLIP in float16; names are those of the published files. wav2vec2 is a folder in all of them."""

    safetensors = "safetensors"
    """diffusers' folders: bfloat16 in shards of 5 GiB, VAE and wav2vec2 in float32."""
    fp8 = "fp8"
    """Single files: linear layers of the blocks in float8_e4m3fn without scales."""
    fp8_scaled = "fp8_scaled"
    """The same with a scale per layer."""
    gguf_q8_0 = "gguf_q8_0"
    """GGUF: linear layers of the blocks in Q8_0."""
    gguf_q4_0 = "gguf_q4_0"
    """GGUF: linear layers of the blocks in Q4_0."""

    @property
    def quantization(self) -> str | None:
        """Name of the GGUF quantization; None: another kind of file."""
        return self.value.removeprefix("gguf_").upper() if self.value.startswith("gguf_") else None


class StoredComponent(NamedTuple):
    """A file, or a folder of shards."""

    component: str
    tensors: dict[str, RandomTensor]
    """By name in the file."""
    parameters: dict[str, str]
    """Names in the file of the component's parameters, by parameter. Scales and markers belong to none."""


StoredFiles = dict[str, StoredComponent]
"""What is written, by path in the work folder. A path with a suffix is a file, any other a folder of shards."""


def plan_files(models_by_name: Mapping[str, nn.Module], weight_format: WeightFormat) -> StoredFiles:
    """Returns what is written of a model whose components are on the meta device."""
    files: StoredFiles = {}
    for name, model in models_by_name.items():
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items() if key not in TIED_NAMES}
        if name.startswith("transformer"):
            adapter = {key: shape for key, shape in shapes.items() if adapter_module_of(key) in REHEARSED_MODULES}
            files[f"{_adapter_folder(name)}/{ADAPTER_FILE}"] = _stored(name, adapter, lambda *_: torch.bfloat16)
            shapes = {key: shape for key, shape in shapes.items() if adapter_module_of(key) is None}
        if weight_format is WeightFormat.safetensors or not _is_single_file(name, model):
            dtype = torch.float32 if name in FLOAT32_COMPONENTS else torch.bfloat16
            files[f"base/{name}"] = _stored(name, shapes, lambda *_, dtype=dtype: dtype)
        else:
            path, stored = _single_file(name, shapes, weight_format)
            files[f"files/{path}"] = stored
    return files


def files_bytes(files: StoredFiles) -> int:
    """Returns the bytes on the disk of `plan_files`, without headers and configurations."""
    return sum(tensor.num_bytes for stored in files.values() for tensor in stored.tensors.values())


def plan_loading(
    models_by_name: Mapping[str, nn.Module],
    files: StoredFiles,
    dtype: torch.dtype,
    *,
    is_aligned: bool,
    is_for_cpu: bool,
    keeps_quantized: bool,
    groups: Mapping[str, int],
) -> dict[str, LoadedWeights]:
    """Returns what the weights take, by component in the order of loading.

    Args:
        models_by_name: in the dtypes that they are loaded in.
        dtype: of all components but those that stay in float32.
        is_aligned: whether the tensors of safetensors files lie where a CPU computes with them.
        is_for_cpu: whether a CPU computes.
        keeps_quantized: whether linear layers keep what a quantized file stores.
        groups: of `onloaded_groups`.
    """
    loaded = {}
    for name in MODEL_COMPONENTS:
        if name in models_by_name:
            own_files = {path: each for path, each in files.items() if each.component == name}
            stored = [
                weight
                for path, each in own_files.items()
                if not path.endswith(ADAPTER_FILE)
                for weight in _stored_weights(each, is_aligned, keeps_quantized)
            ]
            own_dtype = torch.float32 if name in FLOAT32_COMPONENTS else dtype
            total = sum(value.nbytes for value in models_by_name[name].parameters())
            loaded[name] = plan_component(name, total, stored, own_dtype, is_for_cpu, groups[name])
    return loaded


def _stored_weights(stored: StoredComponent, is_aligned: bool, keeps_quantized: bool) -> Iterator[StoredWeight]:
    is_gguf = any(isinstance(tensor.kind, str) for tensor in stored.tensors.values())
    for parameter, name in stored.parameters.items():
        tensor = stored.tensors[name]
        dtype = tensor.kind if isinstance(tensor.kind, torch.dtype) else None
        is_quantized = dtype is None or dtype in FLOAT8_DTYPES
        stays = keeps_quantized and is_quantized and can_stay_quantized(stored.component, parameter, len(tensor.shape))
        has_scale = name.removesuffix(".weight") + SCALE_ENDINGS[0] in stored.tensors
        yield StoredWeight(
            math.prod(tensor.shape), tensor.num_bytes, dtype, has_scale, is_aligned, stays, is_copied=is_gguf
        )


Shapes = Mapping[str, tuple[int, ...]]
Kind = torch.dtype | str


def _stored(
    component: str,
    shapes: Shapes,
    kind: Callable[[str, tuple[int, ...]], Kind],
    renamed: Callable[[str], str] = lambda name: name,
) -> StoredComponent:
    tensors = {renamed(name): RandomTensor.of(name, shape, kind(name, shape)) for name, shape in shapes.items()}
    return StoredComponent(component, tensors, {name: renamed(name) for name in shapes})


def _is_single_file(name: str, model: nn.Module) -> bool:
    if isinstance(model, AutoencoderKLWan):
        return bool(model.config["z_dim"] == SINGLE_FILE_LATENT_CHANNELS)
    return name != "audio_encoder"


def _single_file(name: str, shapes: Shapes, weight_format: WeightFormat) -> tuple[str, StoredComponent]:
    if name == "vae":
        return "wan_2.1_vae.safetensors", _stored(name, shapes, lambda *_: torch.bfloat16, original_vae_name)
    if name == "image_encoder":
        stored = _stored(name, shapes, lambda *_: torch.float16, lambda key: f"vision_model.{key}")
        return "clip_vision_h.safetensors", stored
    is_text = name == "text_encoder"
    quantization = weight_format.quantization
    if quantization is not None:
        renamed = llama_text_encoder_name if is_text else original_transformer_name
        stored = _stored(name, shapes, lambda key, shape: _gguf_kind(key, shape, quantization), renamed)
        return f"{name}_{quantization}.gguf", stored
    stored = _stored(
        name,
        shapes,
        lambda key, shape: torch.float8_e4m3fn if _is_quantized(key, shape) else torch.bfloat16,
        (lambda key: key) if is_text else original_transformer_name,
    )
    if weight_format is WeightFormat.fp8_scaled:
        stored = _with_scales(stored)
    return f"{name}_{weight_format.value}.safetensors", stored


def _is_quantized(name: str, shape: tuple[int, ...]) -> bool:
    """Whether published files quantize a parameter: the linear layers of the blocks."""
    is_block = name.startswith(("blocks.", "encoder.block."))
    return is_block and name.endswith(".weight") and len(shape) == 2 and "relative_attention_bias" not in name


def _gguf_kind(name: str, shape: tuple[int, ...], quantization: str) -> Kind:
    """Other matrices are in float16; vectors, modulations and the patches' convolution in float32."""
    if _is_quantized(name, shape):
        return quantization
    if name == "shared.weight":
        return GGUF_EMBEDDING
    is_matrix = len(shape) == 2 and name.endswith(".weight") and "relative_attention_bias" not in name
    return torch.float16 if is_matrix else torch.float32


def _with_scales(stored: StoredComponent) -> StoredComponent:
    tensors: dict[str, RandomTensor] = {FLOAT8_MARKER: RandomTensor((2,), torch.float8_e4m3fn, 0.0, 0.0)}
    for name, tensor in stored.tensors.items():
        if tensor.kind is torch.float8_e4m3fn:
            scale = name.removesuffix(".weight") + SCALE_ENDINGS[0]
            tensors[scale] = RandomTensor((), torch.float32, tensor.deviation, 0.0)
            tensor = tensor._replace(deviation=1.0)
        tensors[name] = tensor
    return stored._replace(tensors=tensors)


def _adapter_folder(component: str) -> str:
    return "adapter_2" if component == Expert.low.component else "adapter"
