"""Identity embeddings of a clip's faces, by an ArcFace network."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.encoders.arcface import ARCFACE_DIM, FaceEncoder
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.perception.face_crop import five_points

EMBEDDINGS_PER_SECOND = 5.0
"""Frames a second that are looked at: who somebody is does not change faster."""


def sampled_frames(clip: EvaluationClip) -> NDArray[np.int64]:
    """Indices of frames at `EMBEDDINGS_PER_SECOND`, the first one among them."""
    step = max(1, round(clip.fps / EMBEDDINGS_PER_SECOND))
    return np.arange(0, len(clip.frames), step)


def face_embeddings(clip: EvaluationClip, encoder: FaceEncoder, frames: NDArray[np.int64]) -> NDArray[np.float32]:
    """(len(frames), 512) of length 1; NaN where the face is not known."""
    result = np.full((len(frames), ARCFACE_DIM), np.nan, np.float32)
    for place, frame in enumerate(frames.tolist()):
        if clip.track.known[frame]:
            result[place] = encoder.encode(clip.frames[frame], five_points(clip.track.landmarks[frame]))
    return result


def first_face_frame(clip: EvaluationClip) -> NDArray[np.int64]:
    """The index (1,) of the first frame in which the face is known; empty where there is none."""
    return np.flatnonzero(clip.track.known)[:1]
