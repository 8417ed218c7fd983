"""AdamW whose two moments take one byte per weight: torchao's, with a float32 scale for every 256 values.

Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (arXiv 2110.02861).
"""

from collections.abc import Callable
from typing import Any

import torch
from torchao.optim import AdamW8bit


class BlockwiseAdamW(AdamW8bit):
    """torchao's AdamW8bit, whose update is compiled on a GPU and runs as it is on a CPU."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates the weights."""
        if any(parameter.is_cuda for group in self.param_groups for parameter in group["params"]):
            return super().step(closure)
        with torch.compiler.set_stance("force_eager"):  # compiling every shape takes minutes
            return super().step(closure)
