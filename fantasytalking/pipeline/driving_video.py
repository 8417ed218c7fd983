"""From a video of somebody's face to what drives another: tracked, at the rate of the video that is made, encoded.

The perception packages are imported where they are used, so that the pipeline itself loads without them.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import existing_file
from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.pipeline.speakers import DrivingExpression

if TYPE_CHECKING:
    from fantasytalking.perception.face_track import FaceTrack

MIN_DRIVING_FRAMES = 5
"""Of a driver: two latent frames. Fewer are a picture."""
MIN_VISIBLE_FRACTION = 0.5
"""Share of a driver's frames in which its face must be seen."""
MAX_BYSTANDER_FRACTION = 0.1
"""Others who are seen in a smaller share of a driver's frames are passed over."""
DRIVING_CHUNK_FRAMES = 32
"""Frames held at a time."""


def encode_driving_video(
    path: str | Path, encoder: ExpressionEncoder, fps: float, max_seconds: float | None = None
) -> DrivingExpression:
    """The expression of the one face in a video.

    A frame in which it is not seen carries the last features that were (the first ones, before it) and is not present.

    Args:
        encoder: of expressions.
        fps: frames a second of the video that is made.
        max_seconds: at most so much of the driver is read.

    Raises:
        InputError: no video, too few frames, no face, several, or one that is seen too seldom.
    """
    path = existing_file(path, "driver")
    track = _single_face_track(path, fps, max_seconds)
    points = _face_points(track)
    start_points = points[np.isfinite(points).all(axis=(1, 2))][0]
    features = torch.zeros(len(points), sum(encoder.dims))
    present = torch.zeros(len(points), dtype=torch.bool)
    follow = encoder.point_tracker()
    for start, frames in _frame_chunks(path, fps, max_seconds):
        end = start + len(frames)
        points[start:end] = follow(frames, points[start:end])
        if not np.isfinite(points[start:end]).all(axis=(1, 2)).any():
            continue
        encoded = encoder.encode(frames, points[start:end], start_points)
        features[start:end], present[start:end] = encoded.features.float().cpu(), encoded.present.cpu()
    if int(present.sum()) < MIN_VISIBLE_FRACTION * len(points):
        raise InputError(
            f"driver '{path}': the expression encoder's own networks see its face in {int(present.sum())} of "
            f"{len(points)} frames; half of them are needed"
        )
    last = torch.where(present, torch.arange(len(present)), -1).cummax(dim=0).values
    index = torch.where(last < 0, int(present.nonzero()[0]), last)
    boxes = torch.from_numpy(track.boxes)
    boxes[0] = boxes[torch.isfinite(boxes).all(dim=1)][0]
    return DrivingExpression(features[index], present, boxes, str(path))


def _single_face_track(path: Path, fps: float, max_seconds: float | None) -> "FaceTrack":
    from fantasytalking.perception.face_track import track_faces

    frames = media.iter_frames(path, fps=fps, duration=max_seconds)
    first = list(itertools.islice(frames, MIN_DRIVING_FRAMES))
    if len(first) < MIN_DRIVING_FRAMES:
        raise InputError(
            f"driver '{path}' has {len(first)} frame(s) at {fps:g} a second; a video of {MIN_DRIVING_FRAMES} or more "
            "is "
            "needed"
        )
    tracks = track_faces(itertools.chain(first, frames))
    if not tracks:
        raise InputError(f"driver '{path}' shows no face; give a video of one face, seen from the front")
    count = len(tracks[0].times)
    several = [track for track in tracks if track.known.sum() >= MAX_BYSTANDER_FRACTION * count]
    if len(several) > 1:
        raise InputError(f"driver '{path}' shows {len(several)} faces; give a video of one, cropped where it must be")
    seen = int(tracks[0].known.sum())
    if seen < MIN_VISIBLE_FRACTION * count:
        raise InputError(f"driver '{path}': its face is seen in {seen} of {count} frames; half of them are needed")
    return tracks[0]


def _face_points(track: "FaceTrack") -> NDArray[np.float32]:
    """(N, 5, 2), NaN where the face is not known."""
    from fantasytalking.perception.face_crop import five_points

    return five_points(track.landmarks)


def _frame_chunks(path: Path, fps: float, max_seconds: float | None) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Number of the first frame, and frames (up to `CHUNK`, H, W, 3)."""
    frames = (frame for _, frame in media.iter_frames(path, fps=fps, duration=max_seconds))
    for start in itertools.count(step=DRIVING_CHUNK_FRAMES):
        chunk = list(itertools.islice(frames, DRIVING_CHUNK_FRAMES))
        if not chunk:
            return
        yield start, np.stack(chunk)
