"""Tracks faces through a video: one track of landmarks per person."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.perception.face_detection import DetectedFace, detect_faces, landmark_box
from fantasytalking.perception.face_tracker import FaceTracker, TrackedPerson
from fantasytalking.perception.landmark_measures import interocular_distance
from fantasytalking.perception.mediapipe_graphs import NUM_FACE_LANDMARKS

__all__ = ["DetectedFace", "FaceTrack", "detect_faces", "track_faces"]

MAX_GAP_SECONDS = 0.25
"""Maximum gap without a face, in seconds, that is filled by interpolation."""


@dataclass(frozen=True)
class FaceTrack:
    """One person's face over all T frames of a video."""

    times: np.ndarray
    """(T,) float64 seconds."""
    landmarks: np.ndarray
    """(T, 478, 3) float32 pixels, z also in pixels (smaller is nearer); NaN where the face is not known."""
    present: np.ndarray
    """(T,) bool: the face was detected in this frame."""
    interpolated: np.ndarray
    """(T,) bool: not detected, but between two detections at most `MAX_GAP_SECONDS` apart within one shot."""
    confidence: np.ndarray
    """(T,) float32 in [0, 1]: FaceDetection's short-range score in a window of twice the face's size, measured at the
    first detection, every second and at sudden changes, and held in between (FaceMesh has no score); 0 where not
    present."""
    height: int
    width: int

    @property
    def known(self) -> np.ndarray:
        """(T,) bool: the frame has landmarks, detected or interpolated."""
        return self.present | self.interpolated

    @property
    def boxes(self) -> np.ndarray:
        """(T, 4) float32 x0, y0, x1, y1 around the landmarks; NaN where not known."""
        return landmark_box(self.landmarks)

    @property
    def interocular(self) -> np.ndarray:
        """(T,) float32 pixels between the centers of the eyes; NaN where not known."""
        return interocular_distance(self.landmarks)

    def __getitem__(self, part: slice) -> "FaceTrack":
        """Returns the track over a slice of its frames."""
        return FaceTrack(
            self.times[part],
            self.landmarks[part],
            self.present[part],
            self.interpolated[part],
            self.confidence[part],
            self.height,
            self.width,
        )


def track_faces(
    frames: Iterable[tuple[float, np.ndarray]] | np.ndarray, times: np.ndarray | None = None, *, max_people: int = 4
) -> list[FaceTrack]:
    """Tracks every face through a video.

    A lost face is searched for in every frame for half a second and then five times per second. While fewer than
    `max_people` are tracked, more are searched for five times per second during the first two seconds of a shot, and
    every two seconds after that. Short gaps are interpolated linearly and marked. After a hard cut, a face is assigned
    to a known person only if it is very similar, else to a new person, so that no track mixes people.

    Args:
        frames: pairs of seconds and (H, W, 3) uint8 RGB, as `iter_frames` yields them (one frame is in memory at a
            time), or an array (T, H, W, 3).
        times: (T,) seconds of the frames of an array.
        max_people: maximum number of faces that are tracked at the same time.

    Returns:
        One track per person detected in at least two frames (or in the only one), most frequent first.

    Raises:
        InputError: there are no frames, they are not uint8 RGB of one size, or the number of times is not theirs.
    """
    if isinstance(frames, np.ndarray):
        if times is None or len(times) != len(frames):
            count = 0 if times is None else len(times)
            raise InputError(
                f"there are {count} times for {len(frames)} frames; give one per frame",
                code=ErrorCode.shape_mismatch,
                field="times",
                value=count,
            )
        frames = zip(np.asarray(times, np.float64).tolist(), frames, strict=True)
    tracker = FaceTracker(max_people)
    stamps: list[float] = []
    shape: tuple[int, ...] = ()
    try:
        for index, (time, frame) in enumerate(frames):
            shape = shape or frame.shape
            if (
                frame.dtype != np.uint8
                or frame.shape != shape
                or frame.ndim != 3
                or shape[2] != 3
                or min(shape[:2]) < 8
            ):
                raise InputError(
                    f"frame {index} is {frame.dtype} {frame.shape}; give uint8 RGB frames of one size",
                    code=ErrorCode.shape_mismatch,
                    field="frames",
                    value=frame.shape,
                )
            stamps.append(time)
            tracker.step(index, time, frame)
    finally:
        tracker.close()
    if not stamps:
        raise InputError("there is no frame; give at least one", code=ErrorCode.missing_value, field="frames")
    min_observations = min(2, len(stamps))
    people = [person for person in tracker.people if len(person.observations) >= min_observations]
    people.sort(key=lambda person: -len(person.observations))
    return [_build_track(person, np.array(stamps), shape[0], shape[1]) for person in people]


def _build_track(person: TrackedPerson, times: np.ndarray, height: int, width: int) -> FaceTrack:
    landmarks = np.full((len(times), NUM_FACE_LANDMARKS, 3), np.nan, np.float32)
    present, interpolated = np.zeros(len(times), bool), np.zeros(len(times), bool)
    confidence = np.zeros(len(times), np.float32)
    for observation in person.observations:
        landmarks[observation.frame] = observation.landmarks
        confidence[observation.frame] = observation.score
        present[observation.frame] = True
    for before, after in pairwise(person.observations):
        first, last = before.frame, after.frame
        gap = times[last] - times[first]
        if last == first + 1 or gap > MAX_GAP_SECONDS or before.shot != after.shot:
            continue
        weight = ((times[first + 1 : last] - times[first]) / gap).astype(np.float32)[:, None, None]
        landmarks[first + 1 : last] = (1 - weight) * before.landmarks + weight * after.landmarks
        interpolated[first + 1 : last] = True
    return FaceTrack(times, landmarks, present, interpolated, confidence, height, width)
