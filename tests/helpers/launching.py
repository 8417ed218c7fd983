"""Starts several processes by `accelerate launch`, as users do."""

import os
import sys

from tests.helpers.paths import ROOT


def accelerate_launch(processes: int, config: str = "ddp.yaml") -> list[str]:
    """The command that starts `processes` processes of the script that follows it."""
    file = ROOT / "configs" / "accelerate" / config
    options = ["--config_file", str(file), "--num_processes", str(processes), "--main_process_port", "0"]
    return [sys.executable, "-m", "accelerate.commands.launch", *options]


def cpu_environment() -> dict[str, str]:
    """Environment of processes that use one core each and no GPU."""
    cpu = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **cpu}
