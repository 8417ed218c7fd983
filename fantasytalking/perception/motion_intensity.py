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

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fantasytalking.errors import InputError
from fantasytalking.files import existing_file, written_whole
from fantasytalking.perception.body_pose import BodyTrack
from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.head_pose import head_pose
from fantasytalking.perception.signals import GRID_RATE, smooth_to_grid

FACE_SIGMA, BODY_SIGMA = 0.06, 0.12
"""Standard deviations of the smoothing windows, seconds."""

WINDOW_SECONDS = 2.0

# Measures below this (a frozen picture) have no meaningful logarithm.
_SMALLEST = 1e-9

_BROWS = (70, 63, 105, 66, 107, 300, 293, 334, 296, 336)
_LIDS = (160, 158, 144, 153, 385, 387, 380, 373)
_LIPS = (61, 291, 78, 308, 13, 14, 0, 17, 81, 311, 178, 402, 37, 267, 84, 314)
EXPRESSIVE = (*_BROWS, *_LIDS, *_LIPS)
"""Landmarks whose motion counts as expression. The rest of the mesh, its outline above all, adds jitter only."""

# Interocular distances that a turn of the head by one radian counts for.
_HEAD_RADIUS = 2.0

_UPPER_BODY = (11, 12, 13, 14, 15, 16)

# Pose guesses what it does not see: joints count in full when always in the picture and sure, not at all below this.
_LEAST_SEEN = 0.8

# Variance of Pose's jitter on people who hold still, measured in real footage as 0.0004 to 0.0015.
_JOINT_JITTER = 0.002


class MotionMeasure(NamedTuple):
    """Motion of a clip before normalisation, in squared interocular distances."""

    expression: float
    body: float


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
    face = smooth_to_grid(pose.local[:, EXPRESSIVE, :2], track.times, FACE_SIGMA)
    face = _without_yaw(face, smooth_to_grid(pose.angles[:, :1], track.times, FACE_SIGMA))
    head = np.concatenate([pose.translation[:, :2] / size, _HEAD_RADIUS * pose.angles], axis=1)
    moving = _variance(smooth_to_grid(head, track.times, BODY_SIGMA)).sum()
    if body is not None:
        moving += _joint_motion(track, body, size)
    return MotionMeasure(float(_variance(face).sum(axis=-1).mean()), float(moving))


def _without_yaw(face: np.ndarray, yaw: np.ndarray) -> np.ndarray:
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
    weight = np.prod([np.clip((seen - _LEAST_SEEN) / (1 - _LEAST_SEEN), 0, 1) for seen in (inside, sure)], axis=0)
    variance = _variance(smooth_to_grid(joints / size, body.times, BODY_SIGMA)).sum(axis=-1)
    return float((weight * np.maximum(0.0, variance - _JOINT_JITTER)).mean())


def _variance(values: np.ndarray) -> np.ndarray:
    """(G, ...) grid samples to (...) variance over time within windows of two seconds, averaged.

    The windows overlap by about a half and cover the whole clip evenly.
    """
    length = min(len(values), round(WINDOW_SECONDS * GRID_RATE))
    starts = np.linspace(0, len(values) - length, 1 + math.ceil((len(values) - length) / (length / 2)))
    variances = []
    for start in np.round(starts).astype(int).tolist():
        window = values[start : start + length]
        window = window[np.isfinite(window).reshape(len(window), -1).all(axis=1)]
        if len(window) >= length / 2:
            variances.append(window.var(axis=0))
    return np.mean(variances, axis=0) if variances else np.zeros(values.shape[1:])


@dataclass(frozen=True)
class MotionNormaliser:
    """Maps measures to [0, 1] by constants fitted on a corpus: keep them with the checkpoint trained on it.

    The logarithm of a measure goes linearly from its 2nd percentile (0) to its 98th (1), and is clipped. The logarithm,
    because the measures spread over two powers of ten; percentiles, because one wild clip must not squeeze all others.
    """

    expression_low: float
    expression_high: float
    body_low: float
    body_high: float

    def __post_init__(self) -> None:
        for name, low, high in (
            ("expression", self.expression_low, self.expression_high),
            ("body", self.body_low, self.body_high),
        ):
            if not (0 < low < high < math.inf):
                raise InputError(f"motion constants of {name} are {low} and {high}; they must satisfy 0 < low < high")

    @classmethod
    def fit(cls, measures: Sequence[MotionMeasure]) -> "MotionNormaliser":
        """Fits the constants.

        Raises:
            InputError: no measures, or measures that are not finite.
        """
        block = np.array(measures, np.float64).reshape(-1, 2)
        if not len(block) or not np.isfinite(block).all() or (block < 0).any():
            raise InputError(f"motion constants need finite measures of at least one clip; {len(block)} were given")
        low, high = np.exp(np.percentile(np.log(np.maximum(block, _SMALLEST)), [2, 98], axis=0))
        # A corpus of equal clips still gives a valid map: a factor of e around its value.
        same = high < low * 1.01
        low, high = np.where(same, low / math.e, low), np.where(same, high * math.e, high)
        return cls(float(low[0]), float(high[0]), float(low[1]), float(high[1]))

    def normalise(self, measure: MotionMeasure) -> tuple[float, float]:
        """(expression, body) in [0, 1]."""
        return (
            _log_share(measure.expression, self.expression_low, self.expression_high),
            _log_share(measure.body, self.body_low, self.body_high),
        )

    def save(self, path: str | Path) -> None:
        """Writes the constants as JSON, whole or not at all."""
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "MotionNormaliser":
        """Reads constants that `save` wrote.

        Raises:
            InputError: the file is missing, not such a JSON, or holds impossible constants.
        """
        path = existing_file(path, "motion constants")
        names = {field.name for field in fields(cls)}
        if path.stat().st_size > 100_000:
            raise InputError(f"'{path}' is too large for motion constants; give a file that prepare_data wrote")
        try:
            values = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"'{path}' is not JSON; give a file that prepare_data wrote") from error
        if not isinstance(values, dict) or set(values) != names:
            raise InputError(f"'{path}' does not hold exactly {', '.join(sorted(names))}; prepare the corpus again")
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values()):
            raise InputError(f"'{path}' holds constants that are no numbers; prepare the corpus again")
        return cls(**{name: float(value) for name, value in values.items()})


def _log_share(value: float, low: float, high: float) -> float:
    """Where log(value) lies between log(low) and log(high), clipped to [0, 1]."""
    share = (math.log(max(value, _SMALLEST)) - math.log(low)) / (math.log(high) - math.log(low))
    return min(1.0, max(0.0, share))
