"""Weights as the finished folder holds them."""

import torch
from torch import nn


def to_half_precision(model: nn.Module) -> None:
    """Moves all floating-point weights to the CPU and to float16, laid out plainly as files want them.

    float16 and not bfloat16: trained weights lie far within its range, and it keeps three bits more of them.
    """
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point():
            value.data = value.data.to("cpu", torch.float16).contiguous()
