"""How accelerate launches with configs/accelerate, on one machine and on several."""

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env

from fantasytalking.common.config import CONFIGS_FOLDER


@pytest.mark.parametrize("config", ["zero2", "zero3"])
def test_deepspeed_connects_machines_without_a_hostfile(config: str):
    """DeepSpeed's own launcher would start a separate run on every machine, all writing to one folder."""
    file = str(CONFIGS_FOLDER / "accelerate" / f"{config}.yaml")
    machines = ["--num_machines", "8", "--num_processes", "64", "--machine_rank", "3", "--main_process_ip", "10.0.0.1"]
    options = ["--config_file", file, *machines, "--main_process_port", "29500", "scripts/train_stage1.py"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(options))
    arguments.deepspeed_fields_from_accelerate_config = ""  # accelerate sets it on the way
    command, _ = prepare_deepspeed_cmd_env(arguments)
    assert command is None, "torch's launcher, by the arguments alone"
    assert (arguments.nnodes, arguments.nproc_per_node, arguments.node_rank) == ("8", "8", 3)
    assert (arguments.rdzv_backend, arguments.rdzv_endpoint) == ("static", "10.0.0.1:29500")
