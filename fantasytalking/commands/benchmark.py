"""`fantasytalking benchmark`: measures speed and memory."""

import argparse
from collections.abc import Sequence

from fantasytalking.commands.invocation import Invocation
from fantasytalking.common.cli_aliases import add_argument_with_alias
from fantasytalking.common.files import existing_file

DESCRIPTION = """Measures speed and memory as ratios within one run.

    {command} [--rows ROW ...] [--device DEVICE] [--dtype DTYPE]

Each row runs its variants alternately and reports medians, so that the ratios hold when the speed of the
machine drifts.
"""


def _guided_step(options: argparse.Namespace) -> str:
    import torch

    from fantasytalking.benchmarking.guided_step import (
        CPU_GUIDED_STEP_SIZE,
        GPU_GUIDED_STEP_SIZE,
        benchmark_guided_step,
    )
    from fantasytalking.common.devices import resolve_device

    device = resolve_device(options.device)
    default = ["float32", "bfloat16"] if device.type == "cpu" else ["bfloat16"]
    dtypes = [getattr(torch, name) for name in ([options.dtype] if options.dtype else default)]
    return benchmark_guided_step(CPU_GUIDED_STEP_SIZE if device.type == "cpu" else GPU_GUIDED_STEP_SIZE, device, dtypes)


def _tracking(options: argparse.Namespace) -> str:
    from fantasytalking.benchmarking.tracking import benchmark_tracking

    return benchmark_tracking(existing_file(options.video, "video") if options.video else None)


def _evaluation(options: argparse.Namespace) -> str:
    from fantasytalking.benchmarking.evaluation_throughput import benchmark_evaluation

    return benchmark_evaluation()


def _training_step(options: argparse.Namespace) -> str:
    import torch

    from fantasytalking.benchmarking.training_step import (
        CPU_TRAINING_STEP_SIZE,
        GPU_TRAINING_STEP_SIZE,
        benchmark_training_step,
    )
    from fantasytalking.common.devices import resolve_device

    device = resolve_device(options.device)
    dtype = getattr(torch, options.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    return benchmark_training_step(
        CPU_TRAINING_STEP_SIZE if device.type == "cpu" else GPU_TRAINING_STEP_SIZE, device, dtype
    )


def _compiled_step(options: argparse.Namespace) -> str:
    import torch

    from fantasytalking.benchmarking.compiled_step import benchmark_compiled_step
    from fantasytalking.common.devices import resolve_device

    return benchmark_compiled_step(resolve_device(options.device), getattr(torch, options.dtype or "bfloat16"))


BENCHMARK_ROWS = {
    "compiled_step": _compiled_step,
    "evaluation": _evaluation,
    "guided_step": _guided_step,
    "tracking": _tracking,
    "training_step": _training_step,
}


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments and prints one section per row."""
    from fantasytalking.common.devices import DEVICE_NAMES

    parser = invocation.parser(DESCRIPTION)
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
    parser.add_argument("--device", default="auto", choices=DEVICE_NAMES, help="device that is measured")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="default: float32 on CPU (guided_step: both, compiled_step: bfloat16), bfloat16 on a GPU",
    )
    parser.add_path("--video", help="video of the tracking row; default: a clip of the portrait world")
    options = parser.parse_args(arguments)
    for row in options.rows:
        print(f"## {row}\n\n{BENCHMARK_ROWS[row](options)}\n", flush=True)
