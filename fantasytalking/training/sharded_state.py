"""Weights and optimizer of a run under FSDP, as one distributed checkpoint of torch without the frozen base."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_optimizer_state_dict
from torch.distributed.tensor import DTensor

TRAINED_SHARDS_FOLDER = "trained"
"""Folder within a checkpoint, with a part of every process."""
MODEL_KEY = "model"
_OPTIONS = StateDictOptions(ignore_frozen_params=True)


def save_trained_shards(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Writes what trains and the optimizer's state. Call on every process."""
    distributed_checkpoint.save(_trained_state(model, optimizer), checkpoint_id=folder / TRAINED_SHARDS_FOLDER)


def load_trained_shards(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Restores what `save_trained_shards` wrote, also on another number of processes. Call on every process.

    Raises:
        CheckpointException: the checkpoint lacks something that trains.
    """
    state = _trained_state(model, optimizer)  # its weights are those of the model, so that they are loaded in place
    distributed_checkpoint.load(state, checkpoint_id=folder / TRAINED_SHARDS_FOLDER)
    set_optimizer_state_dict(model, optimizer, optim_state_dict=state["optimizer"], options=_OPTIONS)


def gather_tensors(model: nn.Module, is_needed: Callable[[str], bool], keep: bool) -> dict[str, Tensor]:
    """Returns whole tensors of the model's state on the CPU, gathered one after another. Call on every process.

    Args:
        is_needed: whether the tensor of a name is needed.
        keep: whether this process keeps them; others return nothing.
    """
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not is_needed(name):
            continue
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if keep:
            state[name] = whole.cpu().clone()
    return state


def _trained_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer, options=_OPTIONS)
    return {MODEL_KEY: weights, "optimizer": moments}
