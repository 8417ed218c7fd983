"""Weights of a feature network from a file that others made: plain tensors, every name and shape as it must be."""

import os
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from fantasytalking.common.errors import InputError
from fantasytalking.common.tensor_io import check_shapes, read_pickle
from fantasytalking.evaluation.weights import MetricWeights, locate_metric_weights

REDOWNLOAD_HINT = "get the file again from its source"
BATCH_NORM_COUNTER = "num_batches_tracked"
"""Counts the steps of a batch norm's training; of no use afterwards, and absent from files of older versions."""

NetworkT = TypeVar("NetworkT", bound=nn.Module)


def require_weights(weights: MetricWeights, folder: Path | None) -> Path:
    """Where the weights of a metric are.

    Raises:
        InputError: they are not there, or are others than those known.
    """
    path = locate_metric_weights(weights, folder)
    if path is None:
        raise InputError(f"{weights.used_by} needs {weights.describe()} in the folder of weights, '{folder}'")
    return path


def compute_device() -> torch.device:
    """The GPU of this process's rank, as accelerate numbers them, or the CPU where there is none.

    Convolutions on it are full float32, so that scores do not depend on where they were computed.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def module_device(network: nn.Module) -> torch.device:
    """Where a network's weights are, and its inputs must be."""
    return next(network.parameters()).device


def load_strict(network: NetworkT, path: Path, *, require_counters: bool = True, prefix: str = "") -> NetworkT:
    """Fills a network from a torch file of plain tensors; on `compute_device`, to be evaluated only.

    Args:
        prefix: what the names of the network's tensors begin with in the file; others there are not looked at.
        require_counters: whether the file must hold the counters of batch norms too; if not, it may.

    Raises:
        InputError: no such file, not plain tensors, tensors missing, left over or of another shape.
    """
    tensors = read_pickle(path)
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise InputError(f"'{path}' holds no table of tensors; {REDOWNLOAD_HINT}")
    own = network.state_dict()
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not require_counters:
        own, tensors = (
            {name: value for name, value in table.items() if BATCH_NORM_COUNTER not in name} for table in (own, tensors)
        )
    found, wanted = ({name: tuple(tensor.shape) for name, tensor in table.items()} for table in (tensors, own))
    check_shapes(found, wanted, f"'{path}'", REDOWNLOAD_HINT)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    return network.to(compute_device()).eval().requires_grad_(False)
