"""Tracks several faces through a stream of frames, with one FaceMesh graph per person, without mixing them up."""

from typing import NamedTuple

import cv2
import numpy as np

from fantasytalking.perception.face_detection import (
    DetectionWindow,
    FaceBox,
    FaceDetector,
    landmark_center,
    window_around,
)
from fantasytalking.perception.landmark_measures import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS
from fantasytalking.perception.mediapipe_graphs import create_face_mesh, reset_graph, run_face_mesh

SCORE_INTERVAL = 1.0
"""Seconds between two FaceDetection scores of a tracked face."""

DISCOVERY_INTERVAL = 2.0
"""Seconds between two searches for untracked people."""

SEARCH_INTERVAL = 0.2
"""Seconds between two searches for a lost face after `DENSE_SEARCH_SECONDS` of searching in every frame, and between
two searches for more people during the first `SHOT_START_SECONDS` of a shot while fewer than `max_people` are
tracked."""

SHOT_START_SECONDS = 2.0
"""Seconds after which more people are searched for only every `DISCOVERY_INTERVAL`."""

DENSE_SEARCH_SECONDS, SEARCH_TIMEOUT = 0.5, 2.0
"""Seconds for which a lost face is searched for in every frame, and at all while other faces are tracked."""

# Mean absolute difference of two thumbnails, in levels of 255, above which the frames belong to different shots.
_CUT_THRESHOLD = 30.0
_THUMBNAIL_SIZE = 24

# FaceMesh continues to track a face that is covered. When the colors under the landmarks change by more than this mean
# number of levels between two frames, FaceDetection scores the face at once; below the minimum score it is lost.
_CHANGE_THRESHOLD = 20.0
_MIN_SCORE = 0.3

# Correlation of two aligned face patches. After a cut, only a high similarity counts as the same person: no two of ten
# people in real footage exceeded 0.82, and one person in one scene is mostly above 0.9.
_MIN_SIMILARITY = 0.85
_PATCH_SIZE = 32
_MAX_PATCHES = 16


class FaceObservation(NamedTuple):
    """One detection of a face in one frame."""

    frame: int
    """Index of the frame."""
    landmarks: np.ndarray
    """(478, 3) float32 pixels."""
    score: float
    """Last FaceDetection score of this face, in [0, 1]."""
    shot: int
    """Index of the shot; it increases at hard cuts."""


class TrackedPerson:
    """A tracked face: its graph, its detection window, its appearance and all its observations."""

    def __init__(self, box: FaceBox, height: int, width: int) -> None:
        self.mesh = create_face_mesh()
        self.height, self.width = height, width
        self.box = box
        self.window = window_around(box, height, width)
        self.observations: list[FaceObservation] = []
        self.patches: list[np.ndarray] = []
        self.colors: np.ndarray | None = None
        self.score = box.score
        self.last_scored = self.last_seen = -np.inf
        self.is_tracked = False

    def locate(self, frame: np.ndarray, others: list[FaceBox]) -> np.ndarray | None:
        """Returns (478, 3) landmarks of this face in the frame, or None; `others` are faces to exclude."""
        if not _is_centered(self.box, self.window, self.height, self.width):
            self.window = window_around(self.box, self.height, self.width)
            reset_graph(self.mesh)
        found = run_face_mesh(self.mesh, self.window.extract(frame, masked_faces=others))
        if not found:
            return None
        landmarks = self.window.to_image(found[0])
        seen = landmark_center(landmarks)
        return landmarks if seen.is_near(self.box) and not any(same_face(seen, other) for other in others) else None

    def locate_among(self, frame: np.ndarray, others: list[FaceBox], detected: list[FaceBox]) -> np.ndarray | None:
        """Locates this face as `locate` does, if it is one of several `detected` faces.

        FaceMesh selects the clearest face in its window, which may be a neighbor's. In this case it runs again on an
        image in which the neighbors are masked.
        """
        landmarks = self.locate(frame, others)
        if landmarks is not None and _nearest_box(landmark_center(landmarks), detected) != self.box:
            reset_graph(self.mesh)
            landmarks = self.locate(frame, [*others, *(box for box in detected if box != self.box)])
        return landmarks

    def has_changed(self, frame: np.ndarray, landmarks: np.ndarray) -> bool:
        """Whether the colors under the landmarks differ from those of the last call by more than motion explains."""
        height, width = frame.shape[:2]
        columns, rows = np.clip(landmarks[::8, :2].astype(int), 0, [width - 1, height - 1]).T
        previous, self.colors = self.colors, frame[rows, columns].astype(np.float32)
        return previous is not None and bool(np.abs(self.colors - previous).mean() > _CHANGE_THRESHOLD)

    def add_observation(self, observation: FaceObservation, box: FaceBox, time: float) -> None:
        """Records an observation at a position."""
        self.box = box
        self.is_tracked, self.last_seen = True, time
        self.observations.append(observation)

    def mark_lost(self) -> None:
        """Marks the face as lost and closes its graph, which takes two threads and 28 MB; a new one finds it again."""
        self.is_tracked = False
        self.mesh.close()

    def add_patch(self, patch: np.ndarray) -> None:
        """Stores a view of the face if it differs from the stored ones."""
        if len(self.patches) < _MAX_PATCHES and self.similarity(patch) < 0.9:
            self.patches.append(patch)

    def similarity(self, patch: np.ndarray) -> float:
        """Returns the correlation, in [-1, 1], with the most similar stored view; -1 without any."""
        return max((float((patch * known).sum()) for known in self.patches), default=-1.0)

    def is_in_shot(self, shot: int) -> bool:
        """Whether the face was observed in this shot."""
        return bool(self.observations) and self.observations[-1].shot == shot


class FaceTracker:
    """Holds the state between frames: tracked and lost people, and the times of the last searches."""

    def __init__(self, max_people: int) -> None:
        self.max_people = max_people
        self.detector = FaceDetector()
        self.people: list[TrackedPerson] = []
        self.thumbnail: np.ndarray | None = None
        self.shot = 0
        self.last_discovery = self.last_search = self.shot_start = -np.inf

    def step(self, index: int, time: float, frame: np.ndarray) -> None:
        """Processes one (H, W, 3) uint8 RGB frame at `time` seconds."""
        if self.thumbnail is None:
            self.shot_start = time
        if self._is_cut(frame):
            self.shot += 1
            self.shot_start = time
            self.last_discovery = self.last_search = -np.inf
            for person in self._tracked_people():
                person.mark_lost()
        for person in self._tracked_people():
            self._update_person(person, index, time, frame)
        num_tracked = len(self._tracked_people())
        missed = min(
            (time - person.last_seen for person in self.people if self._is_lost_in_shot(person)), default=np.inf
        )
        shot_starts = time - self.shot_start < SHOT_START_SECONDS and num_tracked < self.max_people
        searching = missed < SEARCH_TIMEOUT or shot_starts or not num_tracked
        interval = 0.0 if missed < DENSE_SEARCH_SECONDS else SEARCH_INTERVAL
        if (searching and time - self.last_search >= interval) or time - self.last_discovery >= DISCOVERY_INTERVAL:
            self._discover(index, time, frame, thorough=searching)

    def _is_lost_in_shot(self, person: TrackedPerson) -> bool:
        """Whether a person of this shot is not tracked at the moment."""
        return not person.is_tracked and person.is_in_shot(self.shot)

    def _tracked_people(self) -> list[TrackedPerson]:
        return [person for person in self.people if person.is_tracked]

    def _is_cut(self, frame: np.ndarray) -> bool:
        # Subsampling instead of scaling: it is cheap and detects a cut just as well.
        steps = [max(1, side // _THUMBNAIL_SIZE) for side in frame.shape[:2]]
        thumbnail = frame[:: steps[0], :: steps[1]].astype(np.int16)
        previous, self.thumbnail = self.thumbnail, thumbnail
        return previous is not None and bool(np.abs(thumbnail - previous).mean() > _CUT_THRESHOLD)

    def _update_person(self, person: TrackedPerson, index: int, time: float, frame: np.ndarray) -> None:
        others = [other.box for other in self._tracked_people() if other is not person]
        landmarks = person.locate(frame, others)
        if landmarks is not None and (
            person.has_changed(frame, landmarks) or time - person.last_scored >= SCORE_INTERVAL
        ):
            landmarks = landmarks if self._verify(person, time, frame, landmarks) else None
        if landmarks is None:
            person.mark_lost()
            return
        person.add_observation(
            FaceObservation(index, landmarks, person.score, self.shot), landmark_center(landmarks), time
        )

    def _verify(self, person: TrackedPerson, time: float, frame: np.ndarray, landmarks: np.ndarray) -> bool:
        """Scores a face and stores its appearance; returns False if FaceDetection does not detect it."""
        score = self.detector.score(frame, landmark_center(landmarks))
        if score < _MIN_SCORE:
            return False
        person.score, person.last_scored = score, time
        person.add_patch(face_patch(frame, landmarks))
        return True

    def _discover(self, index: int, time: float, frame: np.ndarray, *, thorough: bool) -> None:
        """Detects faces and assigns each untracked one to the matching lost person, else to a new one."""
        self.last_discovery = self.last_search = time
        boxes = self.detector.detect(frame, thorough=thorough)
        for box in boxes:
            tracked = self._tracked_people()
            if len(tracked) >= self.max_people or any(same_face(person.box, box) for person in tracked):
                continue
            newcomer = TrackedPerson(box, frame.shape[0], frame.shape[1])
            landmarks = newcomer.locate_among(frame, [person.box for person in tracked], boxes)
            if landmarks is None or not self._verify(newcomer, time, frame, landmarks):
                newcomer.mesh.close()
                continue
            person = self._reidentify(landmark_center(landmarks), face_patch(frame, landmarks)) or newcomer
            if person is newcomer:
                self.people.append(newcomer)
            else:
                person.mesh, person.window, person.colors = newcomer.mesh, newcomer.window, None
                self._verify(person, time, frame, landmarks)
            person.add_observation(
                FaceObservation(index, landmarks, person.score, self.shot), landmark_center(landmarks), time
            )

    def _reidentify(self, box: FaceBox, patch: np.ndarray) -> TrackedPerson | None:
        """Returns the lost person of a face: at its last position in the same shot, or very similar anywhere."""
        lost = [person for person in self.people if not person.is_tracked]
        here = [person for person in lost if person.is_in_shot(self.shot) and person.box.is_near(box)]
        alike = [person for person in lost if person.similarity(patch) > _MIN_SIMILARITY]
        return max(here or alike, key=lambda person: person.similarity(patch), default=None)

    def close(self) -> None:
        """Closes all graphs."""
        self.detector.close()
        for person in self._tracked_people():
            person.mesh.close()


def same_face(one: FaceBox, other: FaceBox) -> bool:
    """Whether two boxes cover the same face: centers within half the larger size."""
    return bool(np.hypot(one.x - other.x, one.y - other.y) < 0.5 * max(one.size, other.size))


def _nearest_box(target: FaceBox, boxes: list[FaceBox]) -> FaceBox:
    """Returns the box whose center is nearest; `boxes` must not be empty."""
    return min(boxes, key=lambda box: float(np.hypot(target.x - box.x, target.y - box.y)))


def _is_centered(box: FaceBox, window: DetectionWindow, height: int, width: int) -> bool:
    """Whether a face is well placed in a window: not near the edge, neither too large nor too small.

    The window stays in place as long as this holds, because the graph expects the face at its last position.
    """
    best = window_around(box, height, width)
    side, best_side = window.x1 - window.x0, best.x1 - best.x0
    drift = max(abs(best.x0 + best.x1 - window.x0 - window.x1), abs(best.y0 + best.y1 - window.y0 - window.y1)) / 2
    return drift < 0.25 * side and 0.6 < best_side / side < 1.6


def face_patch(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Returns a (32, 32, 3) float32 image of the face with eyes and mouth at fixed positions, zero mean, unit norm."""
    eyes_and_mouth = np.stack(
        [landmarks[pair, :2].mean(axis=0) for pair in (LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS, [13, 14])]
    )
    template = np.array([[0.3, 0.35], [0.7, 0.35], [0.5, 0.8]], np.float32) * 4 * _PATCH_SIZE
    matrix = cv2.getAffineTransform(eyes_and_mouth.astype(np.float32), template)
    large = cv2.warpAffine(frame, matrix, (4 * _PATCH_SIZE, 4 * _PATCH_SIZE), borderMode=cv2.BORDER_REPLICATE)
    patch = cv2.resize(large, (_PATCH_SIZE, _PATCH_SIZE), interpolation=cv2.INTER_AREA).astype(np.float32)
    patch -= patch.mean(axis=(0, 1))
    return patch / max(1e-6, float(np.linalg.norm(patch)))
