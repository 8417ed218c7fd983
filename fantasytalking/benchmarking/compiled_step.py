"""Row compiled_step: a training step of nano with PyTorch's attention, with the trainer's, and with compiled blocks."""

import torch

from fantasytalking.benchmarking.training_step import (
    GPU_TRAINING_STEP_SIZE,
    TrainingStepSize,
    TrainingVariant,
    benchmark_training_step,
)

NANO_SIZE = TrainingStepSize(
    "nano",
    layers=8,
    latents=(9, 12, 12),
    batch_size=8,
    rounds=9,
    gradient_checkpointing=False,
    text_tokens=16,
    image_tokens=17,
)
"""33 frames of 96 pixels."""


def benchmark_compiled_step(device: torch.device, dtype: torch.dtype) -> str:
    """All of nano trains on a CPU, the adapters of the full model on a GPU; gives a Markdown table."""
    if device.type == "cuda":
        return benchmark_training_step(
            GPU_TRAINING_STEP_SIZE,
            device,
            dtype,
            {"as it is": TrainingVariant(), "compiled blocks": TrainingVariant(compiled=True)},
        )
    sides = {
        "PyTorch's attention": TrainingVariant(("*",), matmul_attention=False),
        "the trainer's: plain products in bfloat16": TrainingVariant(("*",)),
        "the same, compiled blocks": TrainingVariant(("*",), compiled=True),
    }
    return benchmark_training_step(NANO_SIZE, device, dtype, sides)
