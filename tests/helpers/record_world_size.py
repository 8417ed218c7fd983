"""Runs a script and records, as PREFIX<rank>, with how many processes it was connected.

accelerate launch ... tests/helpers/record_world_size.py PREFIX SCRIPT ...
"""

import runpy
import sys
from pathlib import Path

from accelerate import PartialState

prefix, sys.argv = sys.argv[1], sys.argv[2:]
destroy = PartialState.destroy_process_group


def record_and_destroy(self: PartialState, group: object = None) -> None:
    Path(f"{prefix}{self.process_index}").write_text(str(self.num_processes))
    destroy(self, group)


PartialState.destroy_process_group = record_and_destroy
runpy.run_path(sys.argv[0], run_name="__main__")
