"""Builds modules on the meta device, without memory and without initialization."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_INITIALIZERS = frozenset(
    value for name, value in vars(nn.init).items() if name.endswith("_") and not name.startswith("_")
)


class _SkipInitialization(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs a function; torch.nn.init's return the tensor as it is."""
        if func in _INITIALIZERS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def on_meta() -> Iterator[None]:
    """Creates tensors on the meta device, which has no values to initialize: it would take as long as all the rest."""
    with torch.device("meta"), _SkipInitialization():
        yield
