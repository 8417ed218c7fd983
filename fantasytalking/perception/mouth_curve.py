"""Mouth opening beside loudness over time: what a plot of a talking video shows."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from fantasytalking.perception.face_track import track_faces
from fantasytalking.perception.landmark_measures import mouth_opening
from fantasytalking.perception.signals import loudness_envelope


class MouthCurve(NamedTuple):
    """Of the face seen most, at each of a video's T frames."""

    times: np.ndarray
    """(T,) seconds."""
    opening: np.ndarray
    """(T,) gap between the inner lips over the interocular distance; NaN where no face is known."""
    loudness: np.ndarray
    """(T,) root mean square of the sound around the frame, in [0, 1]."""

    @property
    def visible_fraction(self) -> float:
        """Share of the frames that show a face, in [0, 1]."""
        return float(np.isfinite(self.opening).mean())

    @property
    def mean_opening_speed(self) -> float:
        """Mean speed of the mouth opening, interocular distances per second; NaN where no face is known.

        Talkers in real footage show 0.28 to 0.76 once smoothed, listeners 0.07
        (`fantasytalking.perception.active_speaker`).
        """
        speed = np.abs(np.diff(self.opening) / np.diff(self.times))
        return float(np.nanmean(speed)) if np.isfinite(speed).any() else float("nan")


def mouth_curve(frames: Iterable[tuple[float, np.ndarray]], audio: np.ndarray, sample_rate: int) -> MouthCurve:
    """Measures a video and its sound.

    Args:
        frames: pairs of seconds and (H, W, 3) uint8 RGB; only one frame is held.
        audio: (samples,) mono float in [-1, 1] that begins at time 0.
        sample_rate: Hz.

    Raises:
        InputError: no frames, or not pictures of one size.
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
