#!/usr/bin/env python
"""Measures speed and memory as ratios within one run.

    python scripts/benchmark.py [--rows ROW ...] [--device DEVICE] [--dtype DTYPE]

Each row runs its variants alternately and reports medians, so the ratios hold when the speed of the machine drifts.
"""

import argparse
from pathlib import Path

import torch

from fantasytalking.common.cli_aliases import add_argument_with_alias
from fantasytalking.common.errors import exit_cleanly
from fantasytalking.common.files import existing_file


def _guided_step(arguments: argparse.Namespace) -> str:
    from fantasytalking.benchmarking.guided_step import (
        CPU_GUIDED_STEP_SIZE,
        GPU_GUIDED_STEP_SIZE,
        benchmark_guided_step,
    )

    device = torch.device(arguments.device)
    default = ["float32", "bfloat16"] if device.type == "cpu" else ["bfloat16"]
    dtypes = [getattr(torch, name) for name in ([arguments.dtype] if arguments.dtype else default)]
    return benchmark_guided_step(
        GPU_GUIDED_STEP_SIZE if device.type == "cuda" else CPU_GUIDED_STEP_SIZE, device, dtypes
    )


def _tracking(arguments: argparse.Namespace) -> str:
    from fantasytalking.benchmarking.tracking import benchmark_tracking

    return benchmark_tracking(existing_file(arguments.video, "video") if arguments.video else None)


def _evaluation(arguments: argparse.Namespace) -> str:
    from fantasytalking.benchmarking.evaluation_throughput import benchmark_evaluation

    return benchmark_evaluation()


def _training_step(arguments: argparse.Namespace) -> str:
    from fantasytalking.benchmarking.training_step import (
        CPU_TRAINING_STEP_SIZE,
        GPU_TRAINING_STEP_SIZE,
        benchmark_training_step,
    )

    device = torch.device(arguments.device)
    dtype = getattr(torch, arguments.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    return benchmark_training_step(
        GPU_TRAINING_STEP_SIZE if device.type == "cuda" else CPU_TRAINING_STEP_SIZE, device, dtype
    )


def _compiled_step(arguments: argparse.Namespace) -> str:
    from fantasytalking.benchmarking.compiled_step import benchmark_compiled_step

    return benchmark_compiled_step(torch.device(arguments.device), getattr(torch, arguments.dtype or "bfloat16"))


BENCHMARK_ROWS = {
    "compiled_step": _compiled_step,
    "evaluation": _evaluation,
    "guided_step": _guided_step,
    "tracking": _tracking,
    "training_step": _training_step,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = sorted(BENCHMARK_ROWS)
    add_argument_with_alias(
        parser,
        "--rows",
        "--only",
        nargs="+",
        choices=rows,
        default=rows,
        metavar="ROW",
        help=f"any of {', '.join(rows)}; default: all",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="default: float32 on CPU (guided_step: both, compiled_step: bfloat16), bfloat16 on a GPU",
    )
    parser.add_argument("--video", type=Path, help="video of the tracking row; default: a clip of the portrait world")
    arguments = parser.parse_args()
    for row in arguments.rows:
        print(f"## {row}\n\n{BENCHMARK_ROWS[row](arguments)}\n", flush=True)


if __name__ == "__main__":
    exit_cleanly(main)
