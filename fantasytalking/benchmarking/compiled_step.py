"""Benchmark row compiled_step: a training step with PyTorch's attention, the trainer's, and compiled blocks."""

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
    """Times a step of all of nano on a CPU, or of the adapters of the full model on a GPU.

    Returns:
        a Markdown table.
    """
    if device.type != "cpu":
        return benchmark_training_step(
            GPU_TRAINING_STEP_SIZE,
            device,
            dtype,
            {"eager": TrainingVariant(), "compiled blocks": TrainingVariant(compiled=True)},
        )
    variants = {
        "PyTorch's attention": TrainingVariant(("*",), matmul_attention=False),
        "the trainer's: matrix products in bfloat16": TrainingVariant(("*",)),
        "the same, compiled blocks": TrainingVariant(("*",), compiled=True),
    }
    return benchmark_training_step(NANO_SIZE, device, dtype, variants)
