"""Measures the memory of this process while it works, divided into its own and that of mapped files."""

import os
import re
import threading
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

STATM = Path("/proc/self/statm")
"""Pages of this process: total, resident, of which shared with files, ... (Linux, proc(5))."""
MEMINFO = Path("/proc/meminfo")
SAMPLING_SECONDS = 0.005


class MemoryUse(NamedTuple):
    """Resident memory of a process in bytes."""

    own: int
    """Allocated by the process; it must fit into main memory."""
    mapped: int
    """Pages of mapped files; the system drops them where memory is needed, and reads them again."""


def memory_use() -> MemoryUse | None:
    """Returns the memory of this process; None where the system does not report it (other than Linux)."""
    if not STATM.exists():
        return None
    _, resident, mapped, *_ = map(int, STATM.read_text().split())
    page = os.sysconf("SC_PAGE_SIZE")
    return MemoryUse((resident - mapped) * page, mapped * page)


class MainMemory(NamedTuple):
    """Main memory of the machine in bytes."""

    total: int
    available: int
    """Without swapping; all of it where the system does not say (other than Linux)."""


def available_memory() -> MainMemory:
    """Returns the main memory of this machine."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = re.search(r"MemAvailable:\s+(\d+) kB", MEMINFO.read_text()) if MEMINFO.exists() else None
    return MainMemory(total, total if found is None else int(found[1]) * 1024)


class PeakMemory:
    """Samples the memory of this process every 5 ms while its block runs; allocations shorter than that are missed."""

    def __init__(self) -> None:
        self._peak = memory_use()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def take(self) -> MemoryUse | None:
        """Returns the largest use, of each kind, since the last call, and starts anew."""
        self._sample()
        with self._lock:
            peak, self._peak = self._peak, memory_use()
        return peak

    def _run(self) -> None:
        while not self._ended.wait(SAMPLING_SECONDS):
            self._sample()

    def _sample(self) -> None:
        now = memory_use()
        with self._lock:
            if now is not None and self._peak is not None:
                self._peak = MemoryUse(*map(max, now, self._peak))
