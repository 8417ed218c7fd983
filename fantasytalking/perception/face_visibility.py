"""Measures what hides a face: something before the mouth, text over the picture, and too few true pixels."""

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.lip_mask import OUTER_LIPS

SAMPLE_FRAMES = 9
"""Number of evenly spaced frames that are measured; the median counts."""
MIN_FACE_WIDTH = 40
"""Width in pixels below which details of a face are not measured."""
DETAIL_WIDTH = 128
"""Width in pixels to which larger faces are reduced: finer detail is not asked for."""

_OVERLAY_WIDTH, _OVERLAY_STEP_SECONDS, _OVERLAY_MIN_FRAMES = 96, 0.16, 6
_OVERLAY_SIDES, _OVERLAY_BELOW, _OVERLAY_FROM = 0.1, 0.12, 0.55
_MIN_EDGE, _MIN_PERSISTENCE, _MAX_FLICKER = 18.0, 0.9, 4.0
_COARSE_BAND, _FINE_BAND = (0.09, 0.18), (0.35, 0.7)


def lip_edges(frames: NDArray[np.uint8], track: FaceTrack) -> float:
    """Returns the mean vertical contrast of the lips relative to that of the whole face.

    The lips and the line between them contrast about twice as much as the face; a hand, a microphone or a patch before
    them does not. NaN for small faces.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        track: the face, in pixels of these frames.
    """
    found = []
    for index in _sampled(track):
        points = track.landmarks[index, :, :2]
        if np.ptp(points[:, 0]) < MIN_FACE_WIDTH:
            continue
        gray = _gray(frames[index])
        lips, face = np.zeros_like(gray, np.uint8), np.zeros_like(gray, np.uint8)
        cv2.fillPoly(lips, [np.round(points[list(OUTER_LIPS)]).astype(np.int32)], (1,))
        cv2.fillConvexPoly(face, cv2.convexHull(np.round(points).astype(np.int32)), (1,))
        contrast = np.abs(cv2.Sobel(gray, cv2.CV_32F, 0, 1))
        if lips.any() and face.any():
            found.append(float(contrast[lips > 0].mean() / max(contrast[face > 0].mean(), 1e-3)))
    return float(np.median(found)) if found else float("nan")


def overlay_fraction(frames: NDArray[np.uint8], track: FaceTrack) -> float:
    """Returns the fraction of the lower face and chin, [0, 1], that is edges which neither move nor flicker.

    Subtitles and logos stay in place while the face under them moves. A face that is as still as a photograph has such
    edges too. NaN for small faces and below a second.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        track: the face, in pixels of these frames.
    """
    box = np.nanmedian(track.boxes[track.known], axis=0)
    size = box[3] - box[1]
    left, right = int(max(0, box[0] - _OVERLAY_SIDES * size)), int(box[2] + _OVERLAY_SIDES * size)
    top, bottom = int(max(0, box[1])), int(box[3] + _OVERLAY_BELOW * size)
    step = max(1, round(_OVERLAY_STEP_SECONDS / _frame_seconds(track)))
    part = frames[::step, top:bottom, left:right]
    if min(part.shape[1:3]) < MIN_FACE_WIDTH or len(part) < _OVERLAY_MIN_FRAMES:
        return float("nan")
    scale = min(1.0, _OVERLAY_WIDTH / part.shape[2])
    images = np.stack([cv2.resize(_gray(f), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for f in part])
    slopes = np.stack([[cv2.Sobel(image, cv2.CV_32F, *axis) / 8 for axis in ((1, 0), (0, 1))] for image in images])
    strength = np.linalg.norm(slopes, axis=1).mean(axis=0)
    lasting = np.linalg.norm(slopes.mean(axis=0), axis=0)
    edges = (lasting > _MIN_PERSISTENCE * strength) & (strength > _MIN_EDGE) & (images.std(axis=0) < _MAX_FLICKER)
    return float(edges[int(len(edges) * _OVERLAY_FROM) :].mean())


def face_detail_db(frames: NDArray[np.uint8], track: FaceTrack) -> float:
    """Returns the power of the face's fine detail relative to its coarse detail, in dB.

    Fine is 0.35 to 0.7 of the highest frequency that the pixels of the face can show, coarse a quarter of that. Faces
    have -2 to -13 dB, faces that were enlarged three times less than -16 dB. Faces above `DETAIL_WIDTH` are reduced to
    it. NaN for small faces.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        track: the face, in pixels of these frames.
    """
    found = []
    for index in _sampled(track):
        left, top, right, bottom = np.maximum(track.boxes[index], 0).astype(int).tolist()
        face = _gray(frames[index])[top:bottom, left:right]
        if min(face.shape) < MIN_FACE_WIDTH:
            continue
        if face.shape[1] > DETAIL_WIDTH:
            face = np.asarray(cv2.resize(face, (DETAIL_WIDTH, DETAIL_WIDTH), interpolation=cv2.INTER_AREA), np.float32)
        window = np.outer(np.hanning(face.shape[0]), np.hanning(face.shape[1]))
        power = np.square(np.abs(np.fft.fft2((face - face.mean()) * window)))
        frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(size) * 2 for size in face.shape), indexing="ij"))
        coarse, fine = (
            power[(frequency >= low) & (frequency < high)].sum() for low, high in (_COARSE_BAND, _FINE_BAND)
        )
        found.append(10 * np.log10((fine + 1e-6) / (coarse + 1e-6)))
    return float(np.median(found)) if found else float("nan")


def _sampled(track: FaceTrack) -> NDArray[np.int64]:
    known = np.flatnonzero(track.known)
    return known[np.linspace(0, len(known) - 1, min(SAMPLE_FRAMES, len(known))).round().astype(int)]


def _frame_seconds(track: FaceTrack) -> float:
    return float(np.diff(track.times).mean()) if len(track.times) > 1 else 1.0


def _gray(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY), np.float32)
