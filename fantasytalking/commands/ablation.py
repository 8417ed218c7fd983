"""`fantasytalking ablation`: runs the paper's ablation on nano."""

import logging
import os
import sys
from collections.abc import Sequence

from fantasytalking.commands.invocation import Invocation

DESCRIPTION = """Runs the paper's ablation on nano: trains each row, generates videos of held-out people, scores them.

    {command}                            configs/nano/ablation.yaml; outputs/nano/ablation/table.html
    {command} steps=200 num_clips=4      smaller

Resumes an interrupted run: finished rows are skipped.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments, runs the study, and prints its table."""
    from fantasytalking.common.cli_aliases import add_argument_with_alias
    from fantasytalking.common.config import load_config, preset_path
    from fantasytalking.nano.ablation.config import AblationConfig
    from fantasytalking.nano.ablation.experiment import AblationStudy

    parser = invocation.parser(DESCRIPTION)
    parser.add_path("--config", help="the rows and settings; default: configs/nano/ablation.yaml")
    processes_help = "processes that render and evaluate (default: one per core)"
    add_argument_with_alias(
        parser, "--num-processes", "--processes", type=int, default=len(os.sched_getaffinity(0)), help=processes_help
    )
    parser.add_settings("settings, as in work_dir=DIR steps=200")
    options = parser.parse_intermixed_args(arguments)
    config = load_config(AblationConfig, options.config or preset_path("nano", "ablation"), options.overrides)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("fantasytalking").setLevel(logging.INFO)
    print(AblationStudy(config, options.num_processes).run())
