"""ArcFace embeddings of the faces in a clip."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.encoders.arcface import ARCFACE_DIM, FaceEncoder
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.perception.face_crop import five_points

EMBEDDINGS_PER_SECOND = 5.0
"""Frames per second with an embedding: identity does not change faster."""


def sampled_frames(clip: EvaluationClip) -> NDArray[np.int64]:
    """Returns indices of frames at `EMBEDDINGS_PER_SECOND`, starting with the first frame."""
    step = max(1, round(clip.fps / EMBEDDINGS_PER_SECOND))
    return np.arange(0, len(clip.frames), step)


def face_embeddings(clip: EvaluationClip, encoder: FaceEncoder, frames: NDArray[np.int64]) -> NDArray[np.float32]:
    """Returns (len(frames), 512) embeddings of unit length; NaN where the face is not known."""
    result = np.full((len(frames), ARCFACE_DIM), np.nan, np.float32)
    for index, frame in enumerate(frames.tolist()):
        if clip.track.known[frame]:
            result[index] = encoder.encode(clip.frames[frame], five_points(clip.track.landmarks[frame]))
    return result


def first_face_frame(clip: EvaluationClip) -> NDArray[np.int64]:
    """Returns the (1,) index of the first frame in which the face is known; empty if there is none."""
    return np.flatnonzero(clip.track.known)[:1]
