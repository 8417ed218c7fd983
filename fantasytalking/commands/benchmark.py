"""`fantasytalking benchmark`: measures speed and memory."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fantasytalking.commands.invocation import Invocation
from fantasytalking.common.files import existing_file

DESCRIPTION = """Measures speed and memory as ratios within one run.

    {command} [--only ROW ...] [--device D] [--dtype D]

Every row alternates between its sides and prints medians, so that the ratios hold when the machine's own speed drifts.
"""


def _guided_step(given: argparse.Namespace) -> str:
    import torch

    from fantasytalking.benchmarking.guided_step import (
        CPU_GUIDED_STEP_SIZE,
        GPU_GUIDED_STEP_SIZE,
        benchmark_guided_step,
    )

    device = torch.device(given.device)
    usual = ["float32", "bfloat16"] if device.type == "cpu" else ["bfloat16"]
    dtypes = [getattr(torch, name) for name in ([given.dtype] if given.dtype else usual)]
    return benchmark_guided_step(
        GPU_GUIDED_STEP_SIZE if device.type == "cuda" else CPU_GUIDED_STEP_SIZE, device, dtypes
    )


def _tracking(given: argparse.Namespace) -> str:
    from fantasytalking.benchmarking.tracking import benchmark_tracking

    return benchmark_tracking(existing_file(given.video, "video") if given.video else None)


def _evaluation(given: argparse.Namespace) -> str:
    from fantasytalking.benchmarking.evaluation_throughput import benchmark_evaluation

    return benchmark_evaluation()


def _training_step(given: argparse.Namespace) -> str:
    import torch

    from fantasytalking.benchmarking.training_step import (
        CPU_TRAINING_STEP_SIZE,
        GPU_TRAINING_STEP_SIZE,
        benchmark_training_step,
    )

    device = torch.device(given.device)
    dtype = getattr(torch, given.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    return benchmark_training_step(
        GPU_TRAINING_STEP_SIZE if device.type == "cuda" else CPU_TRAINING_STEP_SIZE, device, dtype
    )


def _compiled_step(given: argparse.Namespace) -> str:
    import torch

    from fantasytalking.benchmarking.compiled_step import benchmark_compiled_step

    return benchmark_compiled_step(torch.device(given.device), getattr(torch, given.dtype or "bfloat16"))


BENCHMARK_ROWS = {
    "compiled_step": _compiled_step,
    "evaluation": _evaluation,
    "guided_step": _guided_step,
    "tracking": _tracking,
    "training_step": _training_step,
}


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments and prints one section per row."""
    import torch

    parser = invocation.parser(DESCRIPTION)
    parser.add_argument(
        "--only", nargs="+", choices=sorted(BENCHMARK_ROWS), default=sorted(BENCHMARK_ROWS), metavar="ROW"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="default: float32 on CPU (guided_step: both, compiled_step: bfloat16), bfloat16 on a GPU",
    )
    parser.add_argument("--video", type=Path, help="for tracking; default: a clip of the portrait world")
    given = parser.parse_args(arguments)
    for row in given.only:
        print(f"## {row}\n\n{BENCHMARK_ROWS[row](given)}\n", flush=True)
