"""Strict loading of feature networks from files of plain tensors: every name and shape must match."""

import os
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.tensor_io import check_finite, check_shapes
from fantasytalking.common.torch_file import read_pickle

REDOWNLOAD_HINT = "download the file again from its source"
BATCH_NORM_COUNTER = "num_batches_tracked"
"""Step counter of a batch norm: unused after training, and absent from files of older versions."""

NetworkT = TypeVar("NetworkT", bound=nn.Module)


def compute_device() -> torch.device:
    """Returns the GPU of this process's rank, as accelerate assigns them, or the CPU if there is none.

    Convolutions use full float32, so that scores do not depend on the device.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def module_device(network: nn.Module) -> torch.device:
    """Returns the device of a network's weights, which its inputs must be on."""
    return next(network.parameters()).device


def load_strict(network: NetworkT, path: Path, *, require_counters: bool = True, prefix: str = "") -> NetworkT:
    """Loads a network from a torch file of plain tensors and moves it to `compute_device`, in evaluation mode.

    Args:
        network: network to fill.
        path: torch file.
        require_counters: whether the file must contain the counters of batch norms; if not, they are optional.
        prefix: prefix of the network's tensor names in the file; tensors without it are ignored.

    Returns:
        `network`.

    Raises:
        InputError: the file is missing or not plain tensors, or tensors are missing, unexpected, of another shape or
            not finite.
    """
    tensors = read_pickle(path)
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise InputError(
            f"'{path}' does not contain a dictionary of tensors; {REDOWNLOAD_HINT}",
            code=ErrorCode.malformed_file,
            field=path.name,
            value=str(path),
        )
    own = network.state_dict()
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not require_counters:
        own, tensors = (
            {name: value for name, value in table.items() if BATCH_NORM_COUNTER not in name} for table in (own, tensors)
        )
    found, wanted = ({name: tuple(tensor.shape) for name, tensor in table.items()} for table in (tensors, own))
    check_shapes(found, wanted, f"'{path}'", REDOWNLOAD_HINT)
    check_finite({name: tensors[name] for name, tensor in own.items() if tensor.is_floating_point()}, str(path))
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    return network.to(compute_device()).eval().requires_grad_(False)
