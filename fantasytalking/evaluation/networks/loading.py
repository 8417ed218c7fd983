"""Weights of a feature network from a file that others made: plain tensors, every name and shape as it must be."""

import os
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from fantasytalking.common.errors import InputError
from fantasytalking.common.tensor_io import compare_shapes, read_pickle
from fantasytalking.evaluation.weights import Weights, find

CURE = "get the file again from its source"
COUNTER = "num_batches_tracked"
"""Counts the steps of a batch norm's training; of no use afterwards, and absent from files of older versions."""

NetworkT = TypeVar("NetworkT", bound=nn.Module)


def located(need: Weights, folder: Path | None) -> Path:
    """Where the weights of a metric are.

    Raises:
        InputError: they are not there, or are others than those known.
    """
    path = find(need, folder)
    if path is None:
        raise InputError(f"{need.used_by} needs {need.told()} in the folder of weights, '{folder}'")
    return path


def compute_device() -> torch.device:
    """The GPU of this process's rank, as accelerate numbers them, or the CPU where there is none.

    Convolutions on it are full float32, so that scores do not depend on where they were computed.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def device_of(network: nn.Module) -> torch.device:
    """Where a network's weights are, and its inputs must be."""
    return next(network.parameters()).device


def load_strictly(network: NetworkT, path: Path, *, counters: bool = True, part: str = "") -> NetworkT:
    """Fills a network from a torch file of plain tensors; on `compute_device`, to be evaluated only.

    Args:
        part: what the names of the network's tensors begin with in the file; others there are not looked at.
        counters: whether the file must hold the counters of batch norms too; if not, it may.

    Raises:
        InputError: no such file, not plain tensors, tensors missing, left over or of another shape.
    """
    tensors = read_pickle(path)
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise InputError(f"'{path}' holds no table of tensors; {CURE}")
    own = network.state_dict()
    tensors = {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}
    if not counters:
        own, tensors = (
            {name: value for name, value in table.items() if COUNTER not in name} for table in (own, tensors)
        )
    found, wanted = ({name: tuple(tensor.shape) for name, tensor in table.items()} for table in (tensors, own))
    compare_shapes(found, wanted, f"'{path}'", CURE)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    return network.to(compute_device()).eval().requires_grad_(False)
