"""Builds a model whose configuration follows from the shapes of its tensors, and loads them one at a time."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.stored_tensors import LazyTensors
from fantasytalking.common.tensor_io import check_shapes
from fantasytalking.models.stored_linear import keep_stored_weights

MAX_LAYERS = 256
"""Most layers of an encoder; umT5-XXL has 24, CLIP ViT-H 32."""

_ModelT = TypeVar("_ModelT", bound=nn.Module)


def build_from_tensors(
    make_model: Callable[[], _ModelT],
    tensors: LazyTensors,
    dtype: torch.dtype,
    component_name: str,
    tied: Mapping[str, str] | None = None,
    keep_quantized: bool = False,
) -> _ModelT:
    """Builds a model without memory for its weights and loads exactly its tensors, in evaluation mode.

    Args:
        make_model: calls the constructor.
        tensors: in the model's names.
        dtype: dtype of the parameters, except those that the model keeps in float32.
        component_name: name of the component in messages ("VAE").
        tied: parameters that share another one's tensor, by name; they are not among `tensors`.
        keep_quantized: whether linear layers keep weights that the file stores quantized, as `keep_stored_weights`.

    Raises:
        InputError: tensors are missing, unexpected, of another shape or not floating point.
    """
    with init_empty_weights(include_buffers=False):
        model = make_model()
    tied = tied or {}
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in tied}
    check_shapes(tensors.shapes, expected, f"{component_name} '{tensors.source}'", "get the file again from its source")
    kept = keep_stored_weights(model, tensors, expected, dtype) if keep_quantized else set()
    read = [name for name in expected if name not in kept]
    state = {name: _read(tensors, name, encoder_parameter_dtype(model, name, dtype)) for name in read}
    state |= {name: value for name, value in model.state_dict().items() if name in kept}
    model.load_state_dict(state | {alias: state[name] for alias, name in tied.items()}, strict=True, assign=True)
    for alias, name in tied.items():
        module, _, leaf = alias.rpartition(".")
        setattr(model.get_submodule(module), leaf, model.get_parameter(name))
    return model.eval().requires_grad_(False)


def renamed_by_patterns(
    tensors: LazyTensors, patterns: Sequence[tuple[str, str]], ignored: Sequence[str] = ()
) -> LazyTensors:
    """Returns the tensors under new names.

    Args:
        patterns: regular expressions of whole names, and replacements; other names stay.
        ignored: regular expressions of whole names that are left out.

    Raises:
        InputError: two tensors get one name.
    """
    names: dict[str, str] = {}
    for name in tensors.shapes:
        if any(re.fullmatch(pattern, name) for pattern in ignored):
            continue
        hit = next(((pattern, new) for pattern, new in patterns if re.fullmatch(pattern, name)), None)
        new = name if hit is None else re.sub(hit[0], hit[1], name)
        if new in names:
            raise InputError(
                f"'{tensors.source}' contains '{names[new]}' and '{name}', two spellings of one tensor; get the file "
                "again",
                code=ErrorCode.malformed_file,
                field=name,
            )
        names[new] = name
    return tensors.renamed(names)


def layer_count(tensors: LazyTensors, prefix: str) -> int:
    """Returns the number of layers whose names begin with `prefix` and a number.

    Raises:
        InputError: there are none, or more than `MAX_LAYERS`.
    """
    numbers = {name.removeprefix(prefix).split(".")[0] for name in tensors.shapes if name.startswith(prefix)}
    if not 1 <= len(numbers) <= MAX_LAYERS:
        raise InputError(
            f"'{tensors.source}' has {len(numbers)} layers '{prefix}N'; 1 to {MAX_LAYERS} are read",
            code=ErrorCode.shape_mismatch,
            field=prefix,
            value=len(numbers),
        )
    return len(numbers)


def axis_sizes(tensors: LazyTensors, name: str, num_axes: int, requirement: str) -> tuple[int, ...]:
    """Returns the shape of a tensor from which a configuration follows.

    Args:
        requirement: what the file must be, for the message.

    Raises:
        InputError: the tensor is missing, has another number of axes, or is empty.
    """
    shape = tensors.shapes.get(name)
    if shape is None or len(shape) != num_axes or 0 in shape:
        found = "has no tensor" if shape is None else f"has the shape {shape} of"
        raise InputError(
            f"'{tensors.source}' {found} '{name}'; it must be {requirement}",
            code=ErrorCode.shape_mismatch,
            field=name,
            value=shape,
        )
    return shape


def _read(tensors: LazyTensors, name: str, dtype: torch.dtype) -> Tensor:
    if name in tensors.quantized:
        return tensors.read_as(name, dtype)
    value = tensors.read(name)
    if not value.is_floating_point():
        raise InputError(
            f"'{tensors.source}': '{name}' is {value.dtype}; floating-point weights are required",
            code=ErrorCode.invalid_type,
            field=name,
            value=value.dtype,
        )
    return value.to(dtype)


def encoder_parameter_dtype(model: nn.Module, name: str, dtype: torch.dtype) -> torch.dtype:
    """Returns `dtype`, or float32 for a module that transformers keeps in float32 in place of float16."""
    kept = getattr(model, "_keep_in_fp32_modules", None) or () if dtype is torch.float16 else ()
    return torch.float32 if any(part in kept for part in name.split(".")) else dtype
