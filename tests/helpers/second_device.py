"""A device beside the CPU for machines without one: it computes on the CPU, and refuses to mix with it as a GPU would.

Its tensors call themselves "meta" but hold numbers. What a test moves there and calls within `second_device()` raises
where a tensor was left behind, and takes the ways that are not the CPU's own. A GPU's kernels and types are not tested.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

SECOND_DEVICE = torch.device("meta")
_OPS = torch.ops.aten
_MAY_MIX = {
    _OPS._to_copy.default,
    _OPS.copy_.default,
    _OPS.index.Tensor,
    _OPS.index_put.default,
    _OPS.index_put_.default,
}
"""As on a GPU: copies between devices, and places to look up that lie on the CPU. Numbers of no dimension may too."""


class SecondDeviceTensor(Tensor):
    """A tensor on the second device."""

    cpu_tensor: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "SecondDeviceTensor":
        far: SecondDeviceTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=SECOND_DEVICE,
        )
        return far

    def __init__(self, held: Tensor) -> None:
        self.cpu_tensor = held

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(function, args, kwargs or {})


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Gives the device; `.to(device)` and `device=` work within, and what was moved is used within only."""
    with _FillMode(), _DispatchMode(), torch.no_grad():
        yield SECOND_DEVICE


class _DispatchMode(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(function, args, kwargs or {})


class _FillMode(TorchFunctionMode):
    """What fills memory with numbers from Python does so before anything is dispatched: first here, then there."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor):
            device = kwargs.pop("device", None)
            made = function(*args, **kwargs)
            return made if device is None else made.to(device)
        if function is Tensor.new_tensor:
            kept, numbers = args
            return torch.tensor(numbers, dtype=kwargs.get("dtype") or kept.dtype).to(kept.device)
        return function(*args, **kwargs)


def _compute(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The same on the CPU; the result is far where the arguments are, or where it is asked for."""
    given, form = tree_flatten((args, kwargs))
    far = any(isinstance(value, SecondDeviceTensor) for value in given)
    left = [
        value
        for value in given
        if isinstance(value, Tensor) and not isinstance(value, SecondDeviceTensor) and value.ndim
    ]
    if far and left and function not in _MAY_MIX:
        raise RuntimeError(f"{function} mixes devices: of shape {tuple(left[0].shape)} one was left on the CPU")
    if (asked := kwargs.get("device")) is not None:
        far = torch.device(asked) == SECOND_DEVICE
    elif function is _OPS.copy_.default:
        far = isinstance(args[0], SecondDeviceTensor)
    here = [_to_cpu(value) for value in given]
    wrappers = {
        id(value.cpu_tensor): value for value in given if isinstance(value, SecondDeviceTensor)
    }  # of what is changed in place
    args, kwargs = tree_unflatten(here, form)
    return tree_map(lambda made: _to_second_device(made, far, wrappers), function(*args, **kwargs))


def _to_cpu(value: Any) -> Any:
    if isinstance(value, SecondDeviceTensor):
        return value.cpu_tensor
    return torch.device("cpu") if value == SECOND_DEVICE and isinstance(value, torch.device) else value


def _to_second_device(made: Any, far: bool, wrappers: dict[int, SecondDeviceTensor]) -> Any:
    if not isinstance(made, Tensor):
        return made
    return wrappers.get(id(made), SecondDeviceTensor(made) if far else made)
