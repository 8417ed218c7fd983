"""Estimates how long a video takes, from those that were generated before on this machine."""

import threading
import time
from collections.abc import Callable


class SpeedModel:
    """Seconds of work per step and frame, and of everything else per frame. Updated by every finished video."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rates: tuple[float, float] | None = None

    def observe(self, steps: int, frames: int, denoising_seconds: float, other_seconds: float) -> None:
        """Takes the rates of a finished video."""
        with self._lock:
            self._rates = denoising_seconds / (steps * frames), other_seconds / frames

    def other_seconds(self, frames: float) -> float:
        """Returns the estimated seconds of everything but denoising; 0: nothing was generated yet."""
        with self._lock:
            return 0.0 if self._rates is None else frames * self._rates[1]

    def seconds(self, steps: int, frames: float) -> float | None:
        """Returns the estimated seconds of work; None: nothing was generated yet."""
        with self._lock:
            return None if self._rates is None else frames * (steps * self._rates[0] + self._rates[1])


class PhaseTimer:
    """Adds up how long a generation spends in its phase "denoise" and in all others."""

    def __init__(self, on_progress: Callable[[str, float], object]) -> None:
        self._on_progress = on_progress
        self._last = time.perf_counter()
        self._phase = "read"
        self.denoising_seconds = self.other_seconds = 0.0

    def report(self, phase: str, fraction: float) -> object:
        """Passes a report on. What has gone by since the last one belongs to the phase that it reports."""
        now = time.perf_counter()
        if phase == "denoise":
            self.denoising_seconds += now - self._last
        else:
            self.other_seconds += now - self._last
        self._last = now
        return self._on_progress(phase, fraction)


def duration_text(seconds: float) -> str:
    """Returns a duration such as 0:42 or 1:02:03."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
