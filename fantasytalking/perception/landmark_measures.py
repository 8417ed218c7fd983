"""Measures the opening of the mouth and the eyes from face landmarks, in interocular distances."""

import numpy as np

LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS = [33, 133], [362, 263]
"""Outer and inner corner of the eyes, left and right as in the image."""

_INNER_LIPS = (13, 14)
_MOUTH_CORNERS = (78, 308)
# Corners, then two pairs of upper and lower lid, as in the eye aspect ratio (Soukupova and Cech, 2016).
_EYES = ((33, 133, 160, 144, 158, 153), (362, 263, 385, 380, 387, 373))


def interocular_distance(landmarks: np.ndarray) -> np.ndarray:
    """Returns the (...) distance between the centers of the eyes of (..., 478, 3) landmarks, in three dimensions.

    The center of an eye is the mean of its corners. With depth, turning the head barely changes the distance.
    """
    left = landmarks[..., LEFT_EYE_CORNERS, :].mean(axis=-2)
    right = landmarks[..., RIGHT_EYE_CORNERS, :].mean(axis=-2)
    return np.linalg.norm(right - left, axis=-1)


def _point_distance(landmarks: np.ndarray, one: int, other: int) -> np.ndarray:
    return np.linalg.norm(landmarks[..., one, :] - landmarks[..., other, :], axis=-1)


def mouth_opening(landmarks: np.ndarray) -> np.ndarray:
    """Returns the (...) gap between the inner lips (landmarks 13 and 14) over the interocular distance.

    0 is closed; speech reaches about 0.3, a yawn 0.8. NaN where the landmarks (..., 478, 3) are NaN.
    """
    return _point_distance(landmarks, *_INNER_LIPS) / interocular_distance(landmarks)


def mouth_width(landmarks: np.ndarray) -> np.ndarray:
    """Returns the (...) distance of the inner mouth corners (78 and 308) over the interocular distance."""
    return _point_distance(landmarks, *_MOUTH_CORNERS) / interocular_distance(landmarks)


def eye_opening(landmarks: np.ndarray) -> np.ndarray:
    """Returns the (..., 2) eye aspect ratios, left and right as in the image: lid gap over eye width.

    About 0.3 is open, below 0.15 is a blink. NaN where the landmarks (..., 478, 3) are NaN.
    """
    ratios = [
        (_point_distance(landmarks, upper_1, lower_1) + _point_distance(landmarks, upper_2, lower_2))
        / (2 * _point_distance(landmarks, corner_1, corner_2))
        for corner_1, corner_2, upper_1, lower_1, upper_2, lower_2 in _EYES
    ]
    return np.stack(ratios, axis=-1)
