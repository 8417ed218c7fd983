"""A video in the making, seen from outside: what it tells and shows now, and its end when nobody looks any more."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fantasytalking.app.service import Made

BEAT = 0.25
"""Seconds between two looks, so that a browser gets a few pictures a second at most."""

Tell = Callable[[str, float], None]
Show = Callable[[float, NDArray[np.uint8]], None]


class UnwatchedError(Exception):
    """Nobody waits for the video any more; it is thrown through whatever makes it."""


class Look(NamedTuple):
    """What there is to see of a video now."""

    phase: str
    share: float
    """Of the phase, done."""
    picture: NDArray[np.uint8] | None
    """(H, W, 3) the newest frame; None when there is none since the last look."""
    made: float
    """Seconds of video up to the newest frame."""
    latency: float | None
    """Seconds from the beginning to the first frame; None before it."""


class Watch:
    """Between the thread that makes a video and those who look at it."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._now = Look("read", 0.0, None, 0.0, None)

    def tell(self, phase: str, share: float) -> None:
        """For the maker.

        Raises:
            UnwatchedError: everyone has left.
        """
        self._stay()
        with self._lock:
            self._now = self._now._replace(phase=phase, share=share)

    def show(self, start: float, frame: NDArray[np.uint8]) -> None:
        """For the maker: a frame (H, W, 3) and its time in seconds.

        Raises:
            UnwatchedError: everyone has left.
        """
        self._stay()
        with self._lock:
            latency = self._now.latency
            if latency is None:
                latency = time.perf_counter() - self._begin
            self._now = self._now._replace(picture=frame, made=start, latency=latency)

    def look(self) -> Look:
        """For the watcher: frames that came between two looks are left out, all but the newest."""
        with self._lock:
            seen = self._now
            self._now = seen._replace(picture=None)
        return seen

    def leave(self) -> None:
        """For the watcher: the video ends at the next thing that is told."""
        self._left.set()

    def _stay(self) -> None:
        if self._left.is_set():
            raise UnwatchedError("nobody waits for this video any more")


async def watched(make: Callable[[Tell, Show], Made]) -> AsyncGenerator[Look | Made, None]:
    """Runs `make` in a thread and yields a look at every beat, then what was made.

    When it is closed or cancelled before, `make` is ended at the next thing it tells or shows.

    Raises:
        InputError: whatever `make` raises.
    """
    watch = Watch()
    work = asyncio.ensure_future(asyncio.to_thread(make, watch.tell, watch.show))
    try:
        while not (await asyncio.wait({work}, timeout=BEAT))[0]:
            yield watch.look()
        yield work.result()
    finally:
        watch.leave()
        work.cancel()  # the thread goes on to its next word; nobody asks what came of it
