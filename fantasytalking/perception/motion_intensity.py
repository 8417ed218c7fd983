"""Measures how strongly a person moves: expression and body intensity of a clip (paper section 3.3).

The paper uses w_l, the variance of face landmark sequences, and w_b, the variance of body joint sequences. It does not
specify how rigid head motion is separated from expression, nor the unit of the variance. This module decides:

- Expression is the variance of brows, eyelids and lips after the head's rigid pose and size are removed, in squared
  interocular distances, so that it depends neither on head rotation nor on the distance to the camera. The mesh bends
  slightly as the head turns, so the part that is linear in the yaw is removed as well. The part linear in the pitch is
  kept: the pitch is estimated from the same points as the mouth, and removing it would remove mouth motion.
- Body is the variance of the head's translation and rotation plus that of the visible upper-body joints, in the same
  unit. A rotation by one radian counts as two interocular distances, the distance of chin and crown from the axis.
- The variance is the mean over windows of two seconds of trajectories smoothed in seconds, not the variance of the
  whole clip or the energy of frame differences. The windows make it a rate: a slow drift over a long clip does not
  accumulate, and clips of 4 s and 40 s are comparable. The smoothing fixes the frequency band (below about 4 Hz for the
  face, 2 Hz for the body), so that 12.5 and 25 frames per second measure the same, and removes most of the detector's
  jitter. The energy of differences would weigh the highest frequencies most, where the jitter of small faces is.
"""

import math

import numpy as np

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.motion_normalizer import MotionMeasure
from fantasytalking.perception.body_pose import BodyTrack
from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.head_pose import head_pose
from fantasytalking.perception.signals import GRID_RATE, smooth_to_grid

FACE_SIGMA, BODY_SIGMA = 0.06, 0.12
"""Standard deviations of the Gaussian smoothing windows, in seconds."""

VARIANCE_WINDOW_SECONDS = 2.0
MIN_MOTION_SECONDS = 0.5
"""Minimum duration, in seconds, over which motion can be measured."""

_BROWS = (70, 63, 105, 66, 107, 300, 293, 334, 296, 336)
_LIDS = (160, 158, 144, 153, 385, 387, 380, 373)
_LIPS = (61, 291, 78, 308, 13, 14, 0, 17, 81, 311, 178, 402, 37, 267, 84, 314)
EXPRESSION_LANDMARKS = (*_BROWS, *_LIDS, *_LIPS)
"""Landmarks whose motion counts as expression. The rest of the mesh, its outline above all, only adds jitter."""

# Interocular distances per radian of head rotation.
_HEAD_RADIUS = 2.0

_UPPER_BODY = (11, 12, 13, 14, 15, 16)

# Pose guesses hidden joints: a joint has full weight if it is always in the image and certain, none below this value.
_MIN_VISIBILITY = 0.8

# Variance of Pose's jitter on people at rest; 0.0004 to 0.0015 in real footage.
_JOINT_JITTER = 0.002


def measure_motion(track: FaceTrack, body: BodyTrack | None = None) -> MotionMeasure:
    """Measures w_l and w_b of a clip (paper section 3.3), as the module's docstring describes.

    Args:
        track: the person's face.
        body: the same person's joints in the same video; None and invisible joints count as no motion.

    Raises:
        InputError: the face is known for less than `MIN_MOTION_SECONDS`.
    """
    known = track.known
    if known.sum() < 2 or np.ptp(track.times[known]) < MIN_MOTION_SECONDS:
        raise InputError(
            f"the face is visible in {int(known.sum())} frames; motion needs at least {MIN_MOTION_SECONDS:g} s of it",
            code=ErrorCode.no_face,
            field="track",
            value=int(known.sum()),
        )
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
    """Subtracts from (G, N, 2) trajectories their linear regression on (G, 1) yaw."""
    known = np.isfinite(yaw[:, 0])
    deviation = yaw[:, 0] - yaw[known, 0].mean()
    strength = np.square(deviation[known]).sum()
    # A head that barely turns does not show how its mesh bends.
    if strength < 1e-4 * known.sum():
        return face
    slope = np.tensordot(deviation[known], face[known] - face[known].mean(axis=0), axes=1) / strength
    return face - deviation[:, None, None] * slope


def _joint_motion(track: FaceTrack, body: BodyTrack, size: float) -> float:
    """Returns the mean variance of the upper-body joints above their jitter; invisible joints count as unmoved."""
    assert len(body.times) == len(track.times)
    boxes = track.boxes
    center, reach = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    # Pose tracks the most prominent person, who may be another one.
    own = np.linalg.norm(body.joints[:, 0, :2] - center, axis=1) < reach
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
    """Returns the (...) mean over windows of two seconds of the variance over time of (G, ...) grid samples.

    The windows overlap by about one half and cover the clip evenly.
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
