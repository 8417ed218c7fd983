"""Runs a script in one folder per process, like machines without a shared disk.

accelerate launch --config_file configs/accelerate/ddp.yaml tests/training/separate_machines.py SCRIPT ...
"""

import os
import runpy
import sys
from pathlib import Path

own = Path(f"machine{os.environ['RANK']}")
own.mkdir(exist_ok=True)
os.chdir(own)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
