"""Measures mouth opening and loudness over time, for plots of talking videos."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from fantasytalking.perception.face_track import track_faces
from fantasytalking.perception.landmark_measures import mouth_opening
from fantasytalking.perception.signals import loudness_envelope


class MouthCurve(NamedTuple):
    """Mouth opening of the most visible face and loudness, at each of the T frames of a video."""

    times: np.ndarray
    """(T,) seconds."""
    opening: np.ndarray
    """(T,) gap between the inner lips over the interocular distance; NaN where no face is known."""
    loudness: np.ndarray
    """(T,) root mean square of the audio around the frame, in [0, 1]."""

    @property
    def visible_fraction(self) -> float:
        """Fraction of the frames with a face, in [0, 1]."""
        return float(np.isfinite(self.opening).mean())

    @property
    def mean_opening_speed(self) -> float:
        """Mean speed of the mouth opening, in interocular distances per second; NaN where no face is known.

        In real footage speakers show 0.28 to 0.76 after smoothing, listeners 0.07
        (`fantasytalking.perception.active_speaker`).
        """
        speed = np.abs(np.diff(self.opening) / np.diff(self.times))
        return float(np.nanmean(speed)) if np.isfinite(speed).any() else float("nan")


def mouth_curve(frames: Iterable[tuple[float, np.ndarray]], audio: np.ndarray, sample_rate: int) -> MouthCurve:
    """Measures a video and its audio.

    Args:
        frames: pairs of seconds and (H, W, 3) uint8 RGB; one frame is in memory at a time.
        audio: (samples,) mono float in [-1, 1] that starts at time 0.
        sample_rate: Hz of the audio.

    Raises:
        InputError: there are no frames, or they differ in size.
    """
    times: list[float] = []

    def timed() -> Iterable[tuple[float, np.ndarray]]:
        for time, frame in frames:
            times.append(time)
            yield time, frame

    tracks = track_faces(timed())
    moments = np.array(times)
    opening = mouth_opening(tracks[0].landmarks) if tracks else np.full(len(moments), np.nan)
    return MouthCurve(moments, opening, loudness_envelope(audio, sample_rate, moments))
