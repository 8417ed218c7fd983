"""Runs models on the meta device to learn what a run takes: bytes of the tensors alive at once, and operations.

Kernels' own workspaces are not seen. Attention counts as a fused kernel, which stores no logits.
"""

import math
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry


class MetaRun(NamedTuple):
    """What a run takes."""

    peak_bytes: int
    """Largest sum of the tensors that are alive at once, weights not included."""
    operations: float
    """Of matrix products, convolutions and attention."""


def run_on_meta(work: Callable[[], object], models: Iterable[nn.Module]) -> MetaRun:
    """Runs `work`, which calls `models` on the meta device, and returns what it takes.

    Args:
        models: models whose weights are not counted.
    """
    for _ in range(2):  # what the first run loads on its way keeps some of its tensors alive
        tracker = _Tracker(models)
        with torch.no_grad(), torch.device("meta"), tracker, _FusedAttention(tracker):
            work()
    return MetaRun(tracker.peak, tracker.operations)


class _Tracker(TorchDispatchMode):
    def __init__(self, models: Iterable[nn.Module]) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.operations = 0.0
        self._known = {
            value.untyped_storage()._cdata for model in models for value in (*model.parameters(), *model.buffers())
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            self.operations += flop_registry[packet](*args, **(kwargs or {}), out_val=output)
        for value in tree_iter(output):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return output

    def _add(self, storage: Any) -> None:
        address, count = storage._cdata, storage.nbytes()
        if address in self._known:
            return
        self._known.add(address)
        self.alive += count
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._remove, address, count)

    def _remove(self, address: int, count: int) -> None:
        self._known.discard(address)
        self.alive -= count


class _FusedAttention(TorchFunctionMode):
    """Attention as one operation, and every question about values answered with yes, as finite values would."""

    def __init__(self, tracker: _Tracker) -> None:
        super().__init__()
        self._tracker = tracker

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            query, key, value = named["query"], named["key"], named["value"]
            products = math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
            self._tracker.operations += 2.0 * products
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        if func is Tensor.__bool__:
            return True
        return func(*args, **(kwargs or {}))
