"""Faces over a video: one track of landmarks for every person."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fantasytalking.common.errors import InputError
from fantasytalking.perception.face_detection import DetectedFace, detect_faces, landmark_box
from fantasytalking.perception.face_tracker import FaceTracker, TrackedPerson
from fantasytalking.perception.landmark_measures import interocular_distance
from fantasytalking.perception.mediapipe_graphs import NUM_FACE_LANDMARKS

__all__ = ["DetectedFace", "FaceTrack", "detect_faces", "track_faces"]

MAX_GAP_SECONDS = 0.25
"""Seconds without a face that are bridged by interpolation."""


@dataclass(frozen=True)
class FaceTrack:
    """One person's face over all T frames of a video."""

    times: np.ndarray
    """(T,) float64 seconds."""
    landmarks: np.ndarray
    """(T, 478, 3) float32 pixels, z in pixels too (smaller is nearer); NaN where the face is not known."""
    present: np.ndarray
    """(T,) bool: seen in this very frame."""
    interpolated: np.ndarray
    """(T,) bool: not seen, but between two sightings at most `MAX_GAP_SECONDS` seconds apart within one shot."""
    confidence: np.ndarray
    """(T,) float32 in [0, 1]: FaceDetection's short-range score through a window of twice the face's size, taken at
    the first sighting, every second and at sudden changes, and held between (FaceMesh gives no score); 0 where not
    present."""
    height: int
    width: int

    @property
    def known(self) -> np.ndarray:
        """(T,) bool: landmarks are there, seen or interpolated."""
        return self.present | self.interpolated

    @property
    def boxes(self) -> np.ndarray:
        """(T, 4) float32 x0, y0, x1, y1 around the landmarks; NaN where not known."""
        return landmark_box(self.landmarks)

    @property
    def interocular(self) -> np.ndarray:
        """(T,) float32 pixels between the eyes' centres; NaN where not known."""
        return interocular_distance(self.landmarks)

    def __getitem__(self, part: slice) -> "FaceTrack":
        """The same track over a slice of its frames."""
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
    """Follows every face through a video.

    A face that is lost is searched for in every frame for half a second and then five times a second. While fewer than
    `max_people` are followed, others are looked for five times a second in the first two seconds of a shot, and every
    two seconds after them. Short gaps are filled by straight lines and marked. After a hard cut a face counts as
    somebody already seen only if it looks very like them, else as somebody new: nobody is given another's landmarks.

    Args:
        frames: pairs of seconds and (H, W, 3) uint8 RGB, as `iter_frames` gives them (only one frame is held), or an
            array (T, H, W, 3) with `times` (T,).
        max_people: followed at the same time; more are left out.

    Returns:
        one track per person seen in at least two frames (or in the only one), most often seen first.

    Raises:
        InputError: no frames, frames of changing size, not uint8 RGB, or times that do not fit.
    """
    if isinstance(frames, np.ndarray):
        if times is None or len(times) != len(frames):
            raise InputError(
                f"{len(frames)} frames come with {0 if times is None else len(times)} times; give one each"
            )
        frames = zip(np.asarray(times, np.float64).tolist(), frames, strict=True)
    follower = FaceTracker(max_people)
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
                raise InputError(f"frame {index} is {frame.dtype} {frame.shape}; give uint8 RGB frames of one size")
            stamps.append(time)
            follower.step(index, time, frame)
    finally:
        follower.close()
    if not stamps:
        raise InputError("there is no frame to look for faces in; give at least one")
    least = min(2, len(stamps))
    people = [person for person in follower.people if len(person.observations) >= least]
    people.sort(key=lambda person: -len(person.observations))
    return [_build_track(person, np.array(stamps), shape[0], shape[1]) for person in people]


def _build_track(person: TrackedPerson, times: np.ndarray, height: int, width: int) -> FaceTrack:
    landmarks = np.full((len(times), NUM_FACE_LANDMARKS, 3), np.nan, np.float32)
    present, interpolated = np.zeros(len(times), bool), np.zeros(len(times), bool)
    confidence = np.zeros(len(times), np.float32)
    for sighting in person.observations:
        landmarks[sighting.frame] = sighting.landmarks
        confidence[sighting.frame] = sighting.score
        present[sighting.frame] = True
    for before, after in pairwise(person.observations):
        first, last = before.frame, after.frame
        gap = times[last] - times[first]
        if last == first + 1 or gap > MAX_GAP_SECONDS or before.shot != after.shot:
            continue
        share = ((times[first + 1 : last] - times[first]) / gap).astype(np.float32)[:, None, None]
        landmarks[first + 1 : last] = (1 - share) * before.landmarks + share * after.landmarks
        interpolated[first + 1 : last] = True
    return FaceTrack(times, landmarks, present, interpolated, confidence, height, width)
