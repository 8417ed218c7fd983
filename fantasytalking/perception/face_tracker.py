"""Following several faces through a stream of frames, one FaceMesh graph each, without mixing them up."""

from typing import NamedTuple

import cv2
import numpy as np

from fantasytalking.perception.face_detection import Box, FaceDetector, Window, landmark_centre, window_around
from fantasytalking.perception.landmark_measures import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS
from fantasytalking.perception.mediapipe_graphs import face_mesh, mesh_faces, restart

SCORE_EVERY = 1.0
"""Seconds between two FaceDetection scores of a followed face."""

LOOK_AROUND_EVERY = 2.0
"""Seconds between two looks for people who are not followed yet."""

SEARCH_EVERY = 0.2
"""Seconds between two searches for a lost face, when `SEARCH_HARD_FOR` seconds of searching in every frame are over;
and for more people, while a shot is younger than `SETTLING` seconds and fewer than are wanted are followed."""

SETTLING = 2.0
"""After that, only every `LOOK_AROUND_EVERY`."""

SEARCH_HARD_FOR, SEARCH_FOR = 0.5, 2.0
"""Seconds that a lost face is searched for in every frame, and at all while others are still followed."""

# Mean absolute difference of two frames' thumbnails, in levels of 255, above which they belong to different shots.
_CUT_LEVELS = 30.0
_THUMBNAIL = 24

# FaceMesh goes on drawing a face over whatever covers it. When the colours under the landmarks change by more than this
# mean number of levels from one frame to the next, FaceDetection is asked at once; below this score the face is lost.
_CHANGED_LEVELS = 20.0
_LEAST_SCORE = 0.3

# Correlation of two aligned face patches. Beyond a cut only a close likeness counts as the same person: of ten people
# in real footage no two came closer than 0.82, and one person in one scene mostly lies above 0.9.
_SAME_FACE = 0.85
_PATCH = 32
_PATCHES_KEPT = 16


class Sighting(NamedTuple):
    """One face in one frame."""

    frame: int
    """Number of the frame."""
    landmarks: np.ndarray
    """(478, 3) float32 pixels."""
    score: float
    """Last FaceDetection score of this face, in [0, 1]."""
    shot: int
    """Number of the shot, counted at hard cuts."""


class Person:
    """A followed face: its graph, the window it is looked at through, what it looks like, and all its sightings."""

    def __init__(self, box: Box, height: int, width: int) -> None:
        self.mesh = face_mesh()
        self.height, self.width = height, width
        self.box = box
        self.window = window_around(box, height, width)
        self.sightings: list[Sighting] = []
        self.patches: list[np.ndarray] = []
        self.colours: np.ndarray | None = None
        self.score = box.score
        self.scored_at = self.seen_at = -np.inf
        self.following = False

    def look(self, frame: np.ndarray, others: list[Box]) -> np.ndarray | None:
        """(478, 3) landmarks of this face in the frame, or None. `others` are faces that must not be taken for it."""
        if not _sits_well(self.box, self.window, self.height, self.width):
            self.window = window_around(self.box, self.height, self.width)
            restart(self.mesh)
        found = mesh_faces(self.mesh, self.window.cut(frame, without=others))
        if not found:
            return None
        landmarks = self.window.to_image(found[0])
        seen = landmark_centre(landmarks)
        return landmarks if seen.near(self.box) and not any(same_place(seen, other) for other in others) else None

    def look_first(self, frame: np.ndarray, others: list[Box], found: list[Box]) -> np.ndarray | None:
        """As `look`, where several faces were `found`, this one among them.

        FaceMesh takes whatever face is clearest in its window, and of two that touch that may be the neighbour's. Then
        it looks again, at a picture without the neighbours.
        """
        landmarks = self.look(frame, others)
        if landmarks is not None and _nearest(landmark_centre(landmarks), found) != self.box:
            restart(self.mesh)
            landmarks = self.look(frame, [*others, *(box for box in found if box != self.box)])
        return landmarks

    def has_changed(self, frame: np.ndarray, landmarks: np.ndarray) -> bool:
        """Whether the colours under the landmarks differ from those of the last call as no movement explains."""
        height, width = frame.shape[:2]
        columns, rows = np.clip(landmarks[::8, :2].astype(int), 0, [width - 1, height - 1]).T
        previous, self.colours = self.colours, frame[rows, columns].astype(np.float32)
        return previous is not None and bool(np.abs(self.colours - previous).mean() > _CHANGED_LEVELS)

    def saw(self, sighting: Sighting, place: Box, time: float) -> None:
        """Takes down a sighting at a place."""
        self.box = place
        self.following, self.seen_at = True, time
        self.sightings.append(sighting)

    def lose(self) -> None:
        """The face is not where it was. Whoever finds it again looks with a graph of their own; this one is freed, as
        each takes two threads and 28 MB."""
        self.following = False
        self.mesh.close()

    def remember(self, patch: np.ndarray) -> None:
        """Keeps a view of the face that differs from those known."""
        if len(self.patches) < _PATCHES_KEPT and self.likeness(patch) < 0.9:
            self.patches.append(patch)

    def likeness(self, patch: np.ndarray) -> float:
        """Correlation in [-1, 1] with the most similar view of this face."""
        return max((float((patch * known).sum()) for known in self.patches), default=-1.0)

    def is_in_shot(self, shot: int) -> bool:
        """Whether it was seen since the last cut."""
        return bool(self.sightings) and self.sightings[-1].shot == shot


class FaceFollower:
    """The state between frames: people followed now, people lost, and when to look around again."""

    def __init__(self, max_people: int) -> None:
        self.max_people = max_people
        self.detector = FaceDetector()
        self.people: list[Person] = []
        self.thumbnail: np.ndarray | None = None
        self.shot = 0
        self.looked_at = self.searched_at = self.shot_since = -np.inf

    def step(self, index: int, time: float, frame: np.ndarray) -> None:
        """Finds everybody in one (H, W, 3) uint8 frame shown at `time` seconds."""
        if self.thumbnail is None:
            self.shot_since = time
        if self._is_cut(frame):
            self.shot += 1
            self.shot_since = time
            self.looked_at = self.searched_at = -np.inf
            for person in self._following():
                person.lose()
        for person in self._following():
            self._follow(person, index, time, frame)
        following = len(self._following())
        missed = min((time - person.seen_at for person in self.people if self._is_missed(person)), default=np.inf)
        settling = time - self.shot_since < SETTLING and following < self.max_people
        searching = missed < SEARCH_FOR or settling or not following
        pause = 0.0 if missed < SEARCH_HARD_FOR else SEARCH_EVERY
        if (searching and time - self.searched_at >= pause) or time - self.looked_at >= LOOK_AROUND_EVERY:
            self._look_around(index, time, frame, thorough=searching)

    def _is_missed(self, person: Person) -> bool:
        """Whether someone of this shot is not followed at the moment."""
        return not person.following and person.is_in_shot(self.shot)

    def _following(self) -> list[Person]:
        return [person for person in self.people if person.following]

    def _is_cut(self, frame: np.ndarray) -> bool:
        # Even picking instead of scaling: it costs nothing and a cut shows all the same.
        steps = [max(1, side // _THUMBNAIL) for side in frame.shape[:2]]
        thumbnail = frame[:: steps[0], :: steps[1]].astype(np.int16)
        previous, self.thumbnail = self.thumbnail, thumbnail
        return previous is not None and bool(np.abs(thumbnail - previous).mean() > _CUT_LEVELS)

    def _follow(self, person: Person, index: int, time: float, frame: np.ndarray) -> None:
        others = [other.box for other in self._following() if other is not person]
        landmarks = person.look(frame, others)
        if landmarks is not None and (person.has_changed(frame, landmarks) or time - person.scored_at >= SCORE_EVERY):
            landmarks = landmarks if self._examine(person, time, frame, landmarks) else None
        if landmarks is None:
            person.lose()
            return
        person.saw(Sighting(index, landmarks, person.score, self.shot), landmark_centre(landmarks), time)

    def _examine(self, person: Person, time: float, frame: np.ndarray, landmarks: np.ndarray) -> bool:
        """Scores a face and remembers its looks; False when FaceDetection sees none."""
        score = self.detector.score(frame, landmark_centre(landmarks))
        if score < _LEAST_SCORE:
            return False
        person.score, person.scored_at = score, time
        person.remember(face_patch(frame, landmarks))
        return True

    def _look_around(self, index: int, time: float, frame: np.ndarray, *, thorough: bool) -> None:
        """Detects faces; each that nobody has is given to the lost person it fits, else to a new one."""
        self.looked_at = self.searched_at = time
        boxes = self.detector.find(frame, thorough=thorough)
        for box in boxes:
            following = self._following()
            if len(following) >= self.max_people or any(same_place(person.box, box) for person in following):
                continue
            newcomer = Person(box, frame.shape[0], frame.shape[1])
            landmarks = newcomer.look_first(frame, [person.box for person in following], boxes)
            if landmarks is None or not self._examine(newcomer, time, frame, landmarks):
                newcomer.mesh.close()
                continue
            person = self._recognise(landmark_centre(landmarks), face_patch(frame, landmarks)) or newcomer
            if person is newcomer:
                self.people.append(newcomer)
            else:
                person.mesh, person.window, person.colours = newcomer.mesh, newcomer.window, None
                self._examine(person, time, frame, landmarks)
            person.saw(Sighting(index, landmarks, person.score, self.shot), landmark_centre(landmarks), time)

    def _recognise(self, place: Box, patch: np.ndarray) -> Person | None:
        """The lost person a face belongs to: at its last place in the same shot, or very like it anywhere."""
        lost = [person for person in self.people if not person.following]
        here = [person for person in lost if person.is_in_shot(self.shot) and person.box.near(place)]
        alike = [person for person in lost if person.likeness(patch) > _SAME_FACE]
        return max(here or alike, key=lambda person: person.likeness(patch), default=None)

    def close(self) -> None:
        """Frees all graphs."""
        self.detector.close()
        for person in self._following():
            person.mesh.close()


def same_place(one: Box, other: Box) -> bool:
    """Whether two boxes cover the same face: centres within half the larger size."""
    return bool(np.hypot(one.x - other.x, one.y - other.y) < 0.5 * max(one.size, other.size))


def _nearest(place: Box, boxes: list[Box]) -> Box:
    """The one of at least one box whose centre is nearest."""
    return min(boxes, key=lambda box: float(np.hypot(place.x - box.x, place.y - box.y)))


def _sits_well(box: Box, window: Window, height: int, width: int) -> bool:
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
    places = np.array([[0.3, 0.35], [0.7, 0.35], [0.5, 0.8]], np.float32) * 4 * _PATCH
    matrix = cv2.getAffineTransform(eyes_and_mouth.astype(np.float32), places)
    large = cv2.warpAffine(frame, matrix, (4 * _PATCH, 4 * _PATCH), borderMode=cv2.BORDER_REPLICATE)
    patch = cv2.resize(large, (_PATCH, _PATCH), interpolation=cv2.INTER_AREA).astype(np.float32)
    patch -= patch.mean(axis=(0, 1))
    return patch / max(1e-6, float(np.linalg.norm(patch)))
