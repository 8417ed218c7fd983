"""Identity embeddings of a clip's faces, by an ArcFace network."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.encoders.arcface import DIM, FaceEncoder
from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.perception.face_crop import five_points

PER_SECOND = 5.0
"""Frames a second that are looked at: who somebody is does not change faster."""


def looked_at(clip: Clip) -> NDArray[np.int64]:
    """Indices of frames at `PER_SECOND`, the first one among them."""
    step = max(1, round(clip.fps / PER_SECOND))
    return np.arange(0, len(clip.frames), step)


def embeddings(clip: Clip, encoder: FaceEncoder, frames: NDArray[np.int64]) -> NDArray[np.float32]:
    """(len(frames), 512) of length 1; NaN where the face is not known."""
    result = np.full((len(frames), DIM), np.nan, np.float32)
    for place, frame in enumerate(frames.tolist()):
        if clip.track.known[frame]:
            result[place] = encoder.encode(clip.frames[frame], five_points(clip.track.landmarks[frame]))
    return result


def first_known(clip: Clip) -> NDArray[np.int64]:
    """The index (1,) of the first frame in which the face is known; empty where there is none."""
    return np.flatnonzero(clip.track.known)[:1]
