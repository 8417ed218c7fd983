"""torch.compile of the blocks that train."""

import os
import shutil

import torch

from fantasytalking.common.errors import InputError
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel


def compile_blocks(model: FantasyTalkingTransformer3DModel, device: torch.device) -> None:
    """Lets PyTorch compile them one by one, since they are alike; names and weights stay as they are.

    Raises:
        InputError: there is nothing to compile with.
    """
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise InputError(
            f"compile is true, but there is no C++ compiler '{compiler}'; install one or set compile=false"
        )
    for block in model.blocks:
        block.compile()
