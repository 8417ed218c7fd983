"""Freed memory is kept while transformers run, which removes the page faults of large tensors, and then returned."""

import json
import subprocess
import sys

import pytest

# Prints, before and after the call, the smallest number of page faults among several rounds: other processes on the
# machine can only add some (by reclaiming or migrating pages), so the smallest is what the allocator itself causes.
PROGRAM = """
import json, resource, sys, torch
from fantasytalking.models.cpu.memory import retain_freed_memory
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(2**24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def smallest():
    for _ in range(6):  # until the heap has its size
        faults()
    return min(faults() for _ in range(8))
default = smallest()
if not retain_freed_memory():
    sys.exit(3)
print(json.dumps([default, smallest()]))
"""
TOUCHED_PAGES = 4 * 64 * 2**20 // 4096
"""Pages of 4 KiB that one round writes."""


def test_retained_memory_causes_no_page_faults():
    process = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=300)
    if process.returncode == 3:
        pytest.skip("this C library has no mallopt")
    assert process.returncode == 0, process.stderr
    default, retained = json.loads(process.stdout)
    if default < TOUCHED_PAGES / 2:
        pytest.skip("this system maps large pages, or keeps freed memory by itself")
    assert retained < TOUCHED_PAGES / 50


RETURNING = """
import json, sys, torch
from fantasytalking.common.process_memory import memory_use
from fantasytalking.models.cpu.memory import retain_freed_memory_while_running
class Block(torch.nn.Module):
    def forward(self):
        return [torch.ones(2**24) for _ in range(4)]  # 64 MiB each
model, other = Block(), Block()
retain_freed_memory_while_running([model], [other])
if memory_use() is None:
    sys.exit(3)
held = [memory_use().own]
for each in (model, other):
    each()
    held.append(memory_use().own)
print(json.dumps(held))
"""


def test_another_model_returns_what_is_retained():
    process = subprocess.run(
        [sys.executable, "-c", RETURNING], capture_output=True, text=True, check=False, timeout=300
    )
    if process.returncode == 3:
        pytest.skip("this system does not report memory")
    assert process.returncode == 0, process.stderr
    before, retained, returned = json.loads(process.stdout)
    if retained - before < 200 << 20:
        pytest.skip("this C library has no mallopt")
    assert returned - before < 60 << 20
