"""Runs a script with FSDP or DeepSpeed over gloo, which accelerate supports on GPUs only.

accelerate launch --config_file configs/accelerate/fsdp.yaml tests/training/cpu_sharding.py SCRIPT ...

Without a GPU accelerate starts a single process under FSDP and DeepSpeed. Here its choice of backend is replaced;
everything else is its code and ours.
"""

import runpy
import sys
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType


def prepare_backend(self: PartialState, *arguments: Any, **options: Any) -> tuple[str, DistributedType]:
    return "gloo", DistributedType.MULTI_GPU


def set_device(self: PartialState) -> None:
    self.device = torch.device("cpu")


PartialState._prepare_backend = prepare_backend
PartialState.set_device = set_device
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
