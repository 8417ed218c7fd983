"""Streams generation progress to the browser and cancels the job when the client disconnects."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fantasytalking.app.service import GenerationResult
from fantasytalking.inference.generate import ProgressCallback

POLL_SECONDS = 0.25
"""Seconds between two snapshots: a browser receives at most a few images per second."""

FrameCallback = Callable[[float, NDArray[np.uint8]], None]


class ClientDisconnectedError(Exception):
    """Raised inside the generation once no client waits for its video."""


class ProgressSnapshot(NamedTuple):
    """The state of a generation at one moment."""

    phase: str
    fraction: float
    """Completed fraction of the phase, in [0, 1]."""
    frame: NDArray[np.uint8] | None
    """(H, W, 3) the newest frame; None when there is none since the last snapshot."""
    generated_seconds: float
    """Seconds of video generated so far."""
    first_frame_latency: float | None
    """Seconds from the start to the first frame; None before it."""


class ProgressChannel:
    """Passes progress from the generating thread to the client."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._lock = threading.Lock()
        self._disconnected = threading.Event()
        self._snapshot = ProgressSnapshot("read", 0.0, None, 0.0, None)

    def report(self, phase: str, fraction: float) -> None:
        """Sets the phase and its completed fraction. Called by the generating thread.

        Raises:
            ClientDisconnectedError: the client has left.
        """
        self._raise_if_disconnected()
        with self._lock:
            self._snapshot = self._snapshot._replace(phase=phase, fraction=fraction)

    def publish_frame(self, start: float, frame: NDArray[np.uint8]) -> None:
        """Sets the newest frame (H, W, 3) and its time in seconds. Called by the generating thread.

        Raises:
            ClientDisconnectedError: the client has left.
        """
        self._raise_if_disconnected()
        with self._lock:
            latency = self._snapshot.first_frame_latency
            if latency is None:
                latency = time.perf_counter() - self._begin
            self._snapshot = self._snapshot._replace(frame=frame, generated_seconds=start, first_frame_latency=latency)

    def take_snapshot(self) -> ProgressSnapshot:
        """Returns the current state. Of the frames since the last snapshot only the newest is kept."""
        with self._lock:
            seen = self._snapshot
            self._snapshot = seen._replace(frame=None)
        return seen

    def disconnect(self) -> None:
        """Stops the generation at its next report."""
        self._disconnected.set()

    def _raise_if_disconnected(self) -> None:
        if self._disconnected.is_set():
            raise ClientDisconnectedError("the client has disconnected")


async def stream_progress(
    generate: Callable[[ProgressCallback, FrameCallback], GenerationResult],
) -> AsyncGenerator[ProgressSnapshot | GenerationResult, None]:
    """Runs `generate` in a thread and yields snapshots every `POLL_SECONDS`, then the result.

    Closing or cancelling the generator stops `generate` at its next report. The thread does not keep the process alive.

    Raises:
        InputError: whatever `generate` raises.
    """
    channel, result = ProgressChannel(), Future[GenerationResult]()

    def work() -> None:
        try:
            made = generate(channel.report, channel.publish_frame)
        except BaseException as error:  # noqa: BLE001 - raised again where the result is taken
            result.set_exception(error)
        else:
            result.set_result(made)

    threading.Thread(target=work, name="generation", daemon=True).start()
    waiting = asyncio.wrap_future(result)
    try:
        while not (await asyncio.wait({waiting}, timeout=POLL_SECONDS))[0]:
            yield channel.take_snapshot()
        yield waiting.result()
    finally:
        channel.disconnect()
        waiting.add_done_callback(_drop_result)  # the thread runs on to its next report


def _drop_result(waiting: asyncio.Future[GenerationResult]) -> None:
    """Takes the exception of a job that nobody waits for, so that it is not reported as unhandled."""
    if not waiting.cancelled():
        waiting.exception()
