"""Row compiled_step: a training step of nano with PyTorch's attention, with the trainer's, and with compiled blocks."""

import torch

from fantasytalking.benchmarking.training_step import GPU_SIZE, Side, TrainingStepSize, training_step

NANO_SIZE = TrainingStepSize(
    "nano",
    layers=8,
    latents=(9, 12, 12),
    batch=8,
    rounds=9,
    checkpointing=False,
    text_tokens=16,
    image_tokens=17,
)
"""33 frames of 96 pixels."""


def compiled_step(device: torch.device, dtype: torch.dtype) -> str:
    """All of nano trains on a CPU, the adapters of the full model on a GPU; gives a Markdown table."""
    if device.type == "cuda":
        return training_step(GPU_SIZE, device, dtype, {"as it is": Side(), "compiled blocks": Side(compiled=True)})
    sides = {
        "PyTorch's attention": Side(("*",), products=False),
        "the trainer's: plain products in bfloat16": Side(("*",)),
        "the same, compiled blocks": Side(("*",), compiled=True),
    }
    return training_step(NANO_SIZE, device, dtype, sides)
