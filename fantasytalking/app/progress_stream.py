"""A video in the making, seen from outside: what it tells and shows now, and its end when nobody looks any more."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fantasytalking.app.service import GenerationResult

POLL_SECONDS = 0.25
"""Seconds between two looks, so that a browser gets a few pictures a second at most."""

ProgressCallback = Callable[[str, float], None]
FrameCallback = Callable[[float, NDArray[np.uint8]], None]


class ClientDisconnectedError(Exception):
    """Nobody waits for the video any more; it is thrown through whatever makes it."""


class ProgressSnapshot(NamedTuple):
    """What there is to see of a video now."""

    phase: str
    fraction: float
    """Of the phase, done."""
    frame: NDArray[np.uint8] | None
    """(H, W, 3) the newest frame; None when there is none since the last look."""
    generated_seconds: float
    """Seconds of video up to the newest frame."""
    first_frame_latency: float | None
    """Seconds from the beginning to the first frame; None before it."""


class ProgressChannel:
    """Between the thread that makes a video and those who look at it."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._lock = threading.Lock()
        self._disconnected = threading.Event()
        self._snapshot = ProgressSnapshot("read", 0.0, None, 0.0, None)

    def report(self, phase: str, fraction: float) -> None:
        """For the maker.

        Raises:
            UnwatchedError: everyone has left.
        """
        self._raise_if_disconnected()
        with self._lock:
            self._snapshot = self._snapshot._replace(phase=phase, fraction=fraction)

    def publish_frame(self, start: float, frame: NDArray[np.uint8]) -> None:
        """For the maker: a frame (H, W, 3) and its time in seconds.

        Raises:
            UnwatchedError: everyone has left.
        """
        self._raise_if_disconnected()
        with self._lock:
            latency = self._snapshot.first_frame_latency
            if latency is None:
                latency = time.perf_counter() - self._begin
            self._snapshot = self._snapshot._replace(frame=frame, generated_seconds=start, first_frame_latency=latency)

    def take_snapshot(self) -> ProgressSnapshot:
        """For the watcher: frames that came between two looks are left out, all but the newest."""
        with self._lock:
            seen = self._snapshot
            self._snapshot = seen._replace(frame=None)
        return seen

    def disconnect(self) -> None:
        """For the watcher: the video ends at the next thing that is told."""
        self._disconnected.set()

    def _raise_if_disconnected(self) -> None:
        if self._disconnected.is_set():
            raise ClientDisconnectedError("nobody waits for this video any more")


async def stream_progress(
    generate: Callable[[ProgressCallback, FrameCallback], GenerationResult],
) -> AsyncGenerator[ProgressSnapshot | GenerationResult, None]:
    """Runs `generate` in a thread and yields a look at every beat, then what was made.

    When it is closed or cancelled before, `generate` is ended at the next thing it tells or shows.

    Raises:
        InputError: whatever `generate` raises.
    """
    watch = ProgressChannel()
    work = asyncio.ensure_future(asyncio.to_thread(generate, watch.report, watch.publish_frame))
    try:
        while not (await asyncio.wait({work}, timeout=POLL_SECONDS))[0]:
            yield watch.take_snapshot()
        yield work.result()
    finally:
        watch.disconnect()
        work.cancel()  # the thread goes on to its next word; nobody asks what came of it
