"""What the process is told of memory shows in the page faults of large tensors."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from fantasytalking.models.cpu.memory import retain_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep" and not retain_freed_memory():
    sys.exit(3)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(2**24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(6):  # until the heap has its size
    faults()
print(faults())
"""


def faults(way: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode == 3:
        pytest.skip("this C library keeps no memory")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_that_is_kept_costs_no_page_faults():
    pages = 4 * 64 * 2**20 // 4096
    if faults("as it is") < pages / 2:
        pytest.skip("this system maps large pages, or keeps memory by itself")
    assert faults("keep") < pages / 50
