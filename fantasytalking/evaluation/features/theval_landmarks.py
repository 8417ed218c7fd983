"""Four measures of THEval (Quignon et al., arXiv 2511.04520) that need no weights, on MediaPipe's landmarks.

Points, normalization and reference frames are those of the authors' code (github.com/Newbyl/THEval), with one
difference: they detect speech by a trained network, here it is detected by loudness
(fantasytalking/evaluation/features/voice_activity.py). The paper's means over real videos are in `REAL_VIDEO_MEANS`;
its score of a measure m is 1 - |m - real| / |real|, `real` being the ground truth of the set that is evaluated.
"""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.features.voice_activity import true_runs

UPPER_LIP = (191, 80, 81, 82, 13, 312, 311, 310)
LOWER_LIP = (95, 88, 178, 87, 14, 317, 402, 318)
"""Inner contour, in pairs with `UPPER_LIP`."""
_OUTER_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409)
LIPS = (*_OUTER_LIPS, 78, *LOWER_LIP, 324, 308, *UPPER_LIP, 415)
"""All 40 points of the lips' contours."""
_EYES = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173),
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398),
)
_BROWS = ((46, 53, 52, 65, 55, 70, 63, 105, 66, 107), (276, 283, 282, 295, 285, 300, 293, 334, 296, 336))
_EYE_CORNERS = ((33, 133), (362, 263))

REAL_VIDEO_MEANS = {"lip_sync": 0.2528, "silent_lips": 0.0263, "lip_dynamics": 1.7166, "brow_dynamics": 0.006777}
MIN_SILENCE_SECONDS = 0.3
MIN_SPEECH_FRACTION = 0.1
"""Smallest fraction of a clip's frames with speech for a measure of speech."""
REFERENCE_IMAGE_SIDE = 256
"""Side of the image in whose pixels lip dynamics are measured."""


def lip_aperture(landmarks: NDArray[np.floating]) -> NDArray[np.floating]:
    """Returns the (T,) vertical gap in pixels between the means of the inner lips of (T, 478, 3) landmarks."""
    y = landmarks[..., 1]
    return np.abs(y[:, UPPER_LIP].mean(axis=1) - y[:, LOWER_LIP].mean(axis=1))


def lip_sync(landmarks: NDArray[np.floating], volume: NDArray[np.float64], speech: NDArray[np.bool_]) -> NDArray:
    """Returns |minmax(aperture) - minmax(volume)| of each frame of speech; lower is better. The measure is the mean.

    The aperture is divided by the distance of the eyes' centers; minimum and maximum are those of the frames of speech.

    Args:
        landmarks: (T, 478, 3) in pixels, NaN where not known.
        volume: (T,) volume.
        speech: (T,) bool.

    Returns:
        (T,); NaN outside of speech and without a face, and for all frames with less than a tenth of speech.
    """
    left, right = (landmarks[:, corners, :2].mean(axis=1) for corners in _EYE_CORNERS)
    opening = lip_aperture(landmarks) / np.linalg.norm(right - left, axis=1)
    used = speech & np.isfinite(opening)
    result = np.full(len(volume), np.nan)
    if speech.mean() >= MIN_SPEECH_FRACTION and used.sum() >= 2:
        result[used] = np.abs(_minmax(opening[used]) - _minmax(volume[used]))
    return result


def _minmax(values: NDArray[np.floating]) -> NDArray[np.floating]:
    low, high = values.min(), values.max()
    return (values - low) / (high - low + 1e-8)


def silent_lips(landmarks: NDArray[np.floating], speech: NDArray[np.bool_], fps: float) -> float:
    """Returns the median of |aperture - mean aperture| over silences of at least 300 ms; NaN if there is none.

    The aperture is the mean gap of the eight pairs divided by the distance of the outer eye corners.
    """
    y = landmarks[..., 1]
    gaps = np.abs(y[:, UPPER_LIP] - y[:, LOWER_LIP]).mean(axis=1)
    opening = gaps / np.linalg.norm(landmarks[:, 33, :2] - landmarks[:, 263, :2], axis=1)
    silent = np.zeros(len(speech), bool)
    for first, last in true_runs(~speech):
        silent[first:last] = last - first >= MIN_SILENCE_SECONDS * fps
    opening = opening[silent & np.isfinite(opening)]
    return float(np.median(np.abs(opening - opening.mean()))) if len(opening) >= 2 else float("nan")


def lip_dynamics(landmarks: NDArray[np.floating], height: int, width: int) -> float:
    """Returns the standard deviation over time of the distances of all pairs of lip points, averaged over the pairs.

    Distances are pixels of the frame resized to 256 x 256, so they depend on the size of the head: compare equal crops.
    """
    points = landmarks[:, LIPS, :2].astype(np.float64) * (REFERENCE_IMAGE_SIDE / width, REFERENCE_IMAGE_SIDE / height)
    points = points[np.isfinite(points).all(axis=(1, 2))]
    if len(points) < 2:
        return float("nan")
    first, second = np.array(list(combinations(range(len(LIPS)), 2))).T
    return float(np.linalg.norm(points[:, first] - points[:, second], axis=-1).std(axis=0).mean())


def brow_dynamics(landmarks: NDArray[np.floating]) -> float:
    """Returns the mean change per frame of the distance of brow and eye, over the distance of the eyes' centers."""
    eyes, brows = ([landmarks[:, points, :2].mean(axis=1) for points in group] for group in (_EYES, _BROWS))
    size = np.linalg.norm(eyes[0] - eyes[1], axis=1)
    heights = np.stack([np.linalg.norm(brow - eye, axis=1) / size for brow, eye in zip(brows, eyes, strict=True)])
    heights = heights[:, np.isfinite(heights).all(axis=0)]
    return float(np.abs(np.diff(heights, axis=1)).mean()) if heights.shape[1] >= 2 else float("nan")
