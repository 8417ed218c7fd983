"""Lists the tensors in the files of a model, without reading their values, for the plan of memory."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch

from fantasytalking.common.gguf_file import GGUF_SUFFIX
from fantasytalking.common.stored_tensors import FLOAT8_DTYPES, LazyTensors
from fantasytalking.common.weight_files import WEIGHT_SUFFIXES, open_weights
from fantasytalking.encoders.single_files.image_encoder import open_image_encoder_file
from fantasytalking.encoders.single_files.text_encoder import open_text_encoder_file
from fantasytalking.encoders.single_files.vae import open_vae_file
from fantasytalking.inference.loading_plan import (
    CPU_ALIGNMENT,
    LoadedWeights,
    StoredWeight,
    can_stay_quantized,
    plan_component,
)
from fantasytalking.models.experts import Expert
from fantasytalking.models.wan_loading import open_wan_single_file
from fantasytalking.pipeline.loading.component_files import original_components
from fantasytalking.pipeline.loading.options import FLOAT32_COMPONENTS, MODEL_COMPONENTS

OPENERS = {
    "vae": open_vae_file,
    "text_encoder": open_text_encoder_file,
    "image_encoder": open_image_encoder_file,
    "transformer": open_wan_single_file,
    "transformer_2": open_wan_single_file,
}
"""How the single file of a component is opened."""
ADAPTERS = {"adapter": Expert.high.component, "adapter_2": Expert.low.component}
"""Components that adapters extend."""


def stored_weights(base: Path, separate: Mapping[str, Path], *, keeps_quantized: bool) -> dict[str, list[StoredWeight]]:
    """Returns the tensors of each component of a model, in the order of loading; those of adapters at the end.

    Args:
        base: a folder of diffusers or of Wan's own repository, or the file of a transformer.
        separate: paths that are not in the base, by the names of `model_sources.source_names`.
        keeps_quantized: whether linear layers keep what a quantized file stores.

    Raises:
        InputError: a file is damaged or of a format that is not read.
    """
    found = {}
    in_base = {"transformer": base} if base.is_file() else original_components(base)
    for component in MODEL_COMPONENTS:
        own = in_base.get(component, base / component)
        path = separate.get(f"components.{component}", separate.get(component, own))
        weights = [
            weight for tensors in _open(component, path) for weight in _stored(tensors, component, keeps_quantized)
        ]
        if weights:
            found[component] = weights
    for name, component in ADAPTERS.items():
        if name in separate and component in found:
            found[component] += [weight._replace(is_copied=True) for weight in _adapter_weights(separate[name])]
    return found


def plan_stored_weights(
    stored: Mapping[str, Sequence[StoredWeight]],
    dtype: torch.dtype,
    is_for_cpu: bool,
    onloaded_groups: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, LoadedWeights]:
    """Returns what the tensors of `stored_weights` take.

    Args:
        dtype: of all components but those that stay in float32.
        is_for_cpu: whether a CPU computes.
        onloaded_groups: of `onloaded_group_bytes`, by component; empty: nothing is offloaded.
    """
    planned = {}
    for name, weights in stored.items():
        own = torch.float32 if name in FLOAT32_COMPONENTS else dtype
        total = sum(weight.num_values for weight in weights) * own.itemsize
        planned[name] = plan_component(name, total, weights, own, is_for_cpu, onloaded_groups.get(name, 0))
    return planned


def _open(component: str, path: Path) -> Iterator[LazyTensors]:
    if path.is_dir():
        yield from (open_weights(file) for file in sorted(path.glob("*.safetensors")))
    elif path.is_file():
        yield OPENERS[component](path)[1] if component in OPENERS else open_weights(path)


def _adapter_weights(path: Path) -> Iterator[StoredWeight]:
    files = [path] if path.is_file() else [file for file in sorted(path.glob("*")) if file.suffix in WEIGHT_SUFFIXES]
    for file in files:
        yield from _stored(open_weights(file), "adapter", keeps_quantized=False)


def _stored(tensors: LazyTensors, component: str, keeps_quantized: bool) -> Iterator[StoredWeight]:
    is_gguf = Path(tensors.source).suffix.lower() == GGUF_SUFFIX
    for name, shape in tensors.shapes.items():
        count = math.prod(shape)
        dtype, reader = tensors.dtypes.get(name), tensors.quantized.get(name)
        quantized = None if reader is None else reader()  # mapped, not read
        is_blocks = quantized is not None and quantized.block_format is not None
        size = count * (dtype.itemsize if dtype is not None else 0)
        is_plain = quantized is None and dtype not in FLOAT8_DTYPES and not is_gguf
        yield StoredWeight(
            count,
            size if quantized is None else quantized.values.nbytes,
            None if is_blocks else dtype,
            quantized is not None and quantized.scale is not None,
            is_plain and tensors.read(name).data_ptr() % CPU_ALIGNMENT == 0,
            keeps_quantized and quantized is not None and can_stay_quantized(component, name, len(shape)),
            is_copied=is_gguf,
        )
