"""The floating-point types that configurations name."""

from enum import Enum

import torch


class Dtype(Enum):
    """Floating-point type of a model's weights and arithmetic."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The `torch.dtype` of the same name."""
        dtype = getattr(torch, self.value)
        assert isinstance(dtype, torch.dtype)
        return dtype
