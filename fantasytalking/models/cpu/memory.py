"""Memory of large tensors on a CPU that is used again, where glibc would hand it back and be given it anew.

glibc maps every block of more than 32 MiB by itself and unmaps it when it is freed, so that a tensor of a hidden layer
costs a page fault every 4 KiB, each time: at 1.3B width and 4 layers half a million a step.
"""

import ctypes
import logging

logger = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Of mallopt(3)."""
MAX_RETAINED_BYTES = 2**31 - 1
"""Bytes at the end of the heap that are kept, and the size up to which a block comes from the heap: the most mallopt
takes."""
HEAP_GROWTH_BYTES = 2**28
"""Bytes by which the heap grows."""


def retain_freed_memory() -> bool:
    """Lets this process keep up to 2 GiB of freed memory for its next tensors; tells whether its C library can.

    Blocks that worker threads allocate are not concerned.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        logger.info("this C library has no mallopt; freed memory goes back to the system")
        return False
    settings = (
        (M_MMAP_THRESHOLD, MAX_RETAINED_BYTES),
        (M_TRIM_THRESHOLD, MAX_RETAINED_BYTES),
        (M_TOP_PAD, HEAP_GROWTH_BYTES),
    )
    taken = [mallopt(name, value) for name, value in settings]
    return all(taken)
