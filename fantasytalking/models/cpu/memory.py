"""Keeps freed large CPU buffers in the process (mallopt) to avoid repeated page faults.

glibc maps each block above 32 MiB separately and unmaps it when it is freed, so that a hidden layer's tensor costs one
page fault per 4 KiB every time: half a million per step at 1.3B width and 4 layers.
"""

import ctypes
import logging

logger = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Parameter numbers of mallopt(3)."""
MAX_RETAINED_BYTES = 2**31 - 1
"""Bytes kept at the end of the heap, and largest block taken from the heap; the maximum that mallopt accepts."""
HEAP_GROWTH_BYTES = 2**28
"""Bytes by which the heap grows."""


def retain_freed_memory() -> bool:
    """Makes this process keep up to 2 GiB of freed memory for later tensors.

    Blocks that worker threads allocate are not affected.

    Returns:
        Whether the C library supports it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        logger.info("this C library has no mallopt; freed memory is returned to the system")
        return False
    settings = (
        (M_MMAP_THRESHOLD, MAX_RETAINED_BYTES),
        (M_TRIM_THRESHOLD, MAX_RETAINED_BYTES),
        (M_TOP_PAD, HEAP_GROWTH_BYTES),
    )
    accepted = [mallopt(name, value) for name, value in settings]
    return all(accepted)
