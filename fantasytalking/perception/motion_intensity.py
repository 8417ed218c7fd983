"""How strongly a person moves: expression and body intensity of a clip (paper section 3.3).

The paper takes w_l, the variance of face-landmark sequences, and w_b, the variance of body-joint sequences, and leaves
open how rigid head motion is told from expression and what the variance is measured in. Decided here:

- Expression is the variance of brows, eyelids and lips after the head's rigid pose and size are taken out, in squared
  interocular distances: turning the head is no expression, and the distance to the camera does not matter. The mesh
  also bends a little as the head turns; what follows the yaw linearly is taken out as well. (Not what follows the
  pitch: that is read from the same points as the mouth, and would take the mouth's motion along.)
- Body is the variance of the head's translation and rotation plus that of the visible upper-body joints, in the same
  unit. A rotation by one radian counts as two interocular distances, the distance of chin and crown from the axis.
- Variance within windows of two seconds, averaged, of trajectories smoothed by a window in seconds, rather than the
  variance of the whole clip or the energy of frame differences. The windows make it a rate: a slow drift over a long
  clip does not add up, a clip of 4 s and one of 40 s are comparable. The smoothing fixes the frequencies that count
  (below about 4 Hz for the face, 2 Hz for the body), so that 12.5 and 25 frames a second measure the same, and takes
  out most of the detector's jitter. Energy of differences would do the contrary: it weighs the highest frequencies,
  where the jitter of small faces lies, most.
"""

import math

import numpy as np

from fantasytalking.common.errors import InputError
from fantasytalking.motion_normalizer import MotionMeasure
from fantasytalking.perception.body_pose import BodyTrack
from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.head_pose import head_pose
from fantasytalking.perception.signals import GRID_RATE, smooth_to_grid

FACE_SIGMA, BODY_SIGMA = 0.06, 0.12
"""Standard deviations of the smoothing windows, seconds."""

VARIANCE_WINDOW_SECONDS = 2.0

_BROWS = (70, 63, 105, 66, 107, 300, 293, 334, 296, 336)
_LIDS = (160, 158, 144, 153, 385, 387, 380, 373)
_LIPS = (61, 291, 78, 308, 13, 14, 0, 17, 81, 311, 178, 402, 37, 267, 84, 314)
EXPRESSION_LANDMARKS = (*_BROWS, *_LIDS, *_LIPS)
"""Landmarks whose motion counts as expression. The rest of the mesh, its outline above all, adds jitter only."""

# Interocular distances that a turn of the head by one radian counts for.
_HEAD_RADIUS = 2.0

_UPPER_BODY = (11, 12, 13, 14, 15, 16)

# Pose guesses what it does not see: joints count in full when always in the picture and sure, not at all below this.
_MIN_VISIBILITY = 0.8

# Variance of Pose's jitter on people who hold still, measured in real footage as 0.0004 to 0.0015.
_JOINT_JITTER = 0.002


def measure_motion(track: FaceTrack, body: BodyTrack | None = None) -> MotionMeasure:
    """Measures w_l and w_b of a clip (paper section 3.3); see the module's text for the decisions.

    Args:
        track: the person's face.
        body: the same person's joints over the same video; None, or joints that are not visible, count as no motion.

    Raises:
        InputError: the face is known for less than half a second.
    """
    known = track.known
    if known.sum() < 2 or np.ptp(track.times[known]) < 0.5:
        raise InputError(f"the face is seen in {int(known.sum())} frames; motion needs at least half a second of it")
    pose = head_pose(track.landmarks)
    size = float(np.nanmedian(pose.scale))
    face = smooth_to_grid(pose.local_landmarks[:, EXPRESSION_LANDMARKS, :2], track.times, FACE_SIGMA)
    face = _regress_out_yaw(face, smooth_to_grid(pose.angles[:, :1], track.times, FACE_SIGMA))
    head = np.concatenate([pose.translation[:, :2] / size, _HEAD_RADIUS * pose.angles], axis=1)
    moving = _windowed_variance(smooth_to_grid(head, track.times, BODY_SIGMA)).sum()
    if body is not None:
        moving += _joint_motion(track, body, size)
    return MotionMeasure(float(_windowed_variance(face).sum(axis=-1).mean()), float(moving))


def _regress_out_yaw(face: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """(G, N, 2) trajectories less their linear regression on (G, 1) yaw."""
    known = np.isfinite(yaw[:, 0])
    deviation = yaw[:, 0] - yaw[known, 0].mean()
    strength = np.square(deviation[known]).sum()
    # A head that hardly turns tells nothing about how its mesh bends.
    if strength < 1e-4 * known.sum():
        return face
    slope = np.tensordot(deviation[known], face[known] - face[known].mean(axis=0), axes=1) / strength
    return face - deviation[:, None, None] * slope


def _joint_motion(track: FaceTrack, body: BodyTrack, size: float) -> float:
    """Mean variance of the upper-body joints above their jitter; joints that are not seen count as unmoved."""
    assert len(body.times) == len(track.times)
    boxes = track.boxes
    centre, reach = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    # Pose follows the most prominent person, who may be somebody else.
    own = np.linalg.norm(body.joints[:, 0, :2] - centre, axis=1) < reach
    if own.sum() < 2:
        return 0.0
    joints = np.where(own[:, None, None], body.joints[:, _UPPER_BODY, :2], np.nan)
    inside = ((joints >= 0) & (joints < [track.width, track.height])).all(axis=-1)[own].mean(axis=0)
    sure = np.median(body.visibility[own][:, _UPPER_BODY], axis=0)
    weight = np.prod(
        [np.clip((seen - _MIN_VISIBILITY) / (1 - _MIN_VISIBILITY), 0, 1) for seen in (inside, sure)], axis=0
    )
    variance = _windowed_variance(smooth_to_grid(joints / size, body.times, BODY_SIGMA)).sum(axis=-1)
    return float((weight * np.maximum(0.0, variance - _JOINT_JITTER)).mean())


def _windowed_variance(values: np.ndarray) -> np.ndarray:
    """(G, ...) grid samples to (...) variance over time within windows of two seconds, averaged.

    The windows overlap by about a half and cover the whole clip evenly.
    """
    length = min(len(values), round(VARIANCE_WINDOW_SECONDS * GRID_RATE))
    starts = np.linspace(0, len(values) - length, 1 + math.ceil((len(values) - length) / (length / 2)))
    variances = []
    for start in np.round(starts).astype(int).tolist():
        window = values[start : start + length]
        window = window[np.isfinite(window).reshape(len(window), -1).all(axis=1)]
        if len(window) >= length / 2:
            variances.append(window.var(axis=0))
    return np.mean(variances, axis=0) if variances else np.zeros(values.shape[1:])
