"""Following several faces through a stream of frames, one FaceMesh graph each, without mixing them up."""

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
"""Seconds between two FaceDetection scores of a followed face."""

DISCOVERY_INTERVAL = 2.0
"""Seconds between two looks for people who are not followed yet."""

SEARCH_INTERVAL = 0.2
"""Seconds between two searches for a lost face, when `DENSE_SEARCH_SECONDS` seconds of searching in every frame are
over; and for more people, while a shot is younger than `SHOT_START_SECONDS` seconds and fewer than are wanted are
followed."""

SHOT_START_SECONDS = 2.0
"""After that, only every `DISCOVERY_INTERVAL`."""

DENSE_SEARCH_SECONDS, SEARCH_TIMEOUT = 0.5, 2.0
"""Seconds that a lost face is searched for in every frame, and at all while others are still followed."""

# Mean absolute difference of two frames' thumbnails, in levels of 255, above which they belong to different shots.
_CUT_THRESHOLD = 30.0
_THUMBNAIL_SIZE = 24

# FaceMesh goes on drawing a face over whatever covers it. When the colours under the landmarks change by more than this
# mean number of levels from one frame to the next, FaceDetection is asked at once; below this score the face is lost.
_CHANGE_THRESHOLD = 20.0
_MIN_SCORE = 0.3

# Correlation of two aligned face patches. Beyond a cut only a close likeness counts as the same person: of ten people
# in real footage no two came closer than 0.82, and one person in one scene mostly lies above 0.9.
_MIN_SIMILARITY = 0.85
_PATCH_SIZE = 32
_MAX_PATCHES = 16


class FaceObservation(NamedTuple):
    """One face in one frame."""

    frame: int
    """Number of the frame."""
    landmarks: np.ndarray
    """(478, 3) float32 pixels."""
    score: float
    """Last FaceDetection score of this face, in [0, 1]."""
    shot: int
    """Number of the shot, counted at hard cuts."""


class TrackedPerson:
    """A followed face: its graph, the window it is looked at through, what it looks like, and all its sightings."""

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
        """(478, 3) landmarks of this face in the frame, or None. `others` are faces that must not be taken for it."""
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
        """As `locate`, where several faces were `detected`, this one among them.

        FaceMesh takes whatever face is clearest in its window, and of two that touch that may be the neighbour's. Then
        it looks again, at a picture without the neighbours.
        """
        landmarks = self.locate(frame, others)
        if landmarks is not None and _nearest_box(landmark_center(landmarks), detected) != self.box:
            reset_graph(self.mesh)
            landmarks = self.locate(frame, [*others, *(box for box in detected if box != self.box)])
        return landmarks

    def has_changed(self, frame: np.ndarray, landmarks: np.ndarray) -> bool:
        """Whether the colours under the landmarks differ from those of the last call as no movement explains."""
        height, width = frame.shape[:2]
        columns, rows = np.clip(landmarks[::8, :2].astype(int), 0, [width - 1, height - 1]).T
        previous, self.colors = self.colors, frame[rows, columns].astype(np.float32)
        return previous is not None and bool(np.abs(self.colors - previous).mean() > _CHANGE_THRESHOLD)

    def add_observation(self, observation: FaceObservation, box: FaceBox, time: float) -> None:
        """Takes down a sighting at a place."""
        self.box = box
        self.is_tracked, self.last_seen = True, time
        self.observations.append(observation)

    def mark_lost(self) -> None:
        """The face is not where it was. Whoever finds it again looks with a graph of their own; this one is freed, as
        each takes two threads and 28 MB."""
        self.is_tracked = False
        self.mesh.close()

    def add_patch(self, patch: np.ndarray) -> None:
        """Keeps a view of the face that differs from those known."""
        if len(self.patches) < _MAX_PATCHES and self.similarity(patch) < 0.9:
            self.patches.append(patch)

    def similarity(self, patch: np.ndarray) -> float:
        """Correlation in [-1, 1] with the most similar view of this face."""
        return max((float((patch * known).sum()) for known in self.patches), default=-1.0)

    def is_in_shot(self, shot: int) -> bool:
        """Whether it was seen since the last cut."""
        return bool(self.observations) and self.observations[-1].shot == shot


class FaceTracker:
    """The state between frames: people followed now, people lost, and when to look around again."""

    def __init__(self, max_people: int) -> None:
        self.max_people = max_people
        self.detector = FaceDetector()
        self.people: list[TrackedPerson] = []
        self.thumbnail: np.ndarray | None = None
        self.shot = 0
        self.last_discovery = self.last_search = self.shot_start = -np.inf

    def step(self, index: int, time: float, frame: np.ndarray) -> None:
        """Finds everybody in one (H, W, 3) uint8 frame shown at `time` seconds."""
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
        following = len(self._tracked_people())
        missed = min(
            (time - person.last_seen for person in self.people if self._is_lost_in_shot(person)), default=np.inf
        )
        settling = time - self.shot_start < SHOT_START_SECONDS and following < self.max_people
        searching = missed < SEARCH_TIMEOUT or settling or not following
        pause = 0.0 if missed < DENSE_SEARCH_SECONDS else SEARCH_INTERVAL
        if (searching and time - self.last_search >= pause) or time - self.last_discovery >= DISCOVERY_INTERVAL:
            self._discover(index, time, frame, thorough=searching)

    def _is_lost_in_shot(self, person: TrackedPerson) -> bool:
        """Whether someone of this shot is not followed at the moment."""
        return not person.is_tracked and person.is_in_shot(self.shot)

    def _tracked_people(self) -> list[TrackedPerson]:
        return [person for person in self.people if person.is_tracked]

    def _is_cut(self, frame: np.ndarray) -> bool:
        # Even picking instead of scaling: it costs nothing and a cut shows all the same.
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
        """Scores a face and remembers its looks; False when FaceDetection sees none."""
        score = self.detector.score(frame, landmark_center(landmarks))
        if score < _MIN_SCORE:
            return False
        person.score, person.last_scored = score, time
        person.add_patch(face_patch(frame, landmarks))
        return True

    def _discover(self, index: int, time: float, frame: np.ndarray, *, thorough: bool) -> None:
        """Detects faces; each that nobody has is given to the lost person it fits, else to a new one."""
        self.last_discovery = self.last_search = time
        boxes = self.detector.detect(frame, thorough=thorough)
        for box in boxes:
            following = self._tracked_people()
            if len(following) >= self.max_people or any(same_face(person.box, box) for person in following):
                continue
            newcomer = TrackedPerson(box, frame.shape[0], frame.shape[1])
            landmarks = newcomer.locate_among(frame, [person.box for person in following], boxes)
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
        """The lost person a face belongs to: at its last place in the same shot, or very like it anywhere."""
        lost = [person for person in self.people if not person.is_tracked]
        here = [person for person in lost if person.is_in_shot(self.shot) and person.box.is_near(box)]
        alike = [person for person in lost if person.similarity(patch) > _MIN_SIMILARITY]
        return max(here or alike, key=lambda person: person.similarity(patch), default=None)

    def close(self) -> None:
        """Frees all graphs."""
        self.detector.close()
        for person in self._tracked_people():
            person.mesh.close()


def same_face(one: FaceBox, other: FaceBox) -> bool:
    """Whether two boxes cover the same face: centres within half the larger size."""
    return bool(np.hypot(one.x - other.x, one.y - other.y) < 0.5 * max(one.size, other.size))


def _nearest_box(target: FaceBox, boxes: list[FaceBox]) -> FaceBox:
    """The one of at least one box whose centre is nearest."""
    return min(boxes, key=lambda box: float(np.hypot(target.x - box.x, target.y - box.y)))


def _is_centered(box: FaceBox, window: DetectionWindow, height: int, width: int) -> bool:
    """Whether a face is still well seen through a window: not near its edge, neither too large nor too small in it.

    The window stays where it is for as long as that holds, because the graph expects the face where it last was.
    """
    best = window_around(box, height, width)
    side, best_side = window.x1 - window.x0, best.x1 - best.x0
    drift = max(abs(best.x0 + best.x1 - window.x0 - window.x1), abs(best.y0 + best.y1 - window.y0 - window.y1)) / 2
    return drift < 0.25 * side and 0.6 < best_side / side < 1.6


def face_patch(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(32, 32, 3) float32 picture of the face, eyes and mouth in fixed places, of zero mean and unit norm."""
    eyes_and_mouth = np.stack(
        [landmarks[pair, :2].mean(axis=0) for pair in (LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS, [13, 14])]
    )
    places = np.array([[0.3, 0.35], [0.7, 0.35], [0.5, 0.8]], np.float32) * 4 * _PATCH_SIZE
    matrix = cv2.getAffineTransform(eyes_and_mouth.astype(np.float32), places)
    large = cv2.warpAffine(frame, matrix, (4 * _PATCH_SIZE, 4 * _PATCH_SIZE), borderMode=cv2.BORDER_REPLICATE)
    patch = cv2.resize(large, (_PATCH_SIZE, _PATCH_SIZE), interpolation=cv2.INTER_AREA).astype(np.float32)
    patch -= patch.mean(axis=(0, 1))
    return patch / max(1e-6, float(np.linalg.norm(patch)))
