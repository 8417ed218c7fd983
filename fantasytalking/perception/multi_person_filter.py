"""Which videos show several people who can be learned from: at least two, seen together, sharp, with moving faces.

As the multi-person corpus of FantasyPortrait (arXiv 2507.12956) was chosen: people are counted, blurred clips left out,
and so are clips whose facial landmarks hardly vary. Decided here: people are counted by the faces that are followed,
and only while at least two are seen at once; blur is that of the faces, not of the picture; landmarks vary with the
expression only. Head pose and place are taken out, so that a photograph on the wall does not move when the camera does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import InputError
from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.motion_intensity import measure_motion
from fantasytalking.perception.sharpness import face_blur

BLUR_SAMPLE_FRAMES = 9
"""Frames of a face whose blur is measured, evenly spaced; their median counts."""


LANDMARK_JITTER = 0.25
"""Standard deviation, in pixels and on each axis, of smoothed landmarks on a face that holds still."""


class MultiPersonRejection(Enum):
    """Why a clip is left out."""

    TOO_FEW_PEOPLE = "too few people"
    BLURRED = "blurred faces"
    STATIC = "still faces"


@dataclass(frozen=True)
class MultiPersonFilterConfig:
    """Limits of `assess_people`."""

    min_people: int = 2
    min_visible_fraction: float = 0.9
    """Part of the frames in which somebody, and all who count together, must be seen."""
    min_face_size: float = 0.12
    """Height of a face over that of the picture."""
    min_face_pixels: int = 32
    """Height of a face in pixels: smaller ones show no expression, and their landmarks tremble."""
    max_blur: float = 0.62
    """`face_blur`, at most."""
    min_movement: float = 0.0001
    """Variance of brows, lids and lips beyond the landmarks' own trembling, squared interocular distances."""
    landmark_jitter: float = LANDMARK_JITTER
    """Pixels of the tracks. Tracks that were scaled tremble as much more or less."""

    def validate(self) -> None:
        """Raises:
        InputError: a limit out of bounds.
        """
        if not 2 <= self.min_people <= 8:
            raise InputError(f"min_people is {self.min_people}; give a number from 2 to 8")
        for name in ("min_visible_fraction", "min_face_size", "max_blur"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; give a share above 0 and up to 1")
        if not 8 <= self.min_face_pixels <= 4096:
            raise InputError(f"min_face_pixels is {self.min_face_pixels}; give a number from 8 to 4096")
        if not 0 <= self.min_movement < 1:
            raise InputError(f"min_movement is {self.min_movement}; give a variance from 0 to below 1")
        if not 0 <= self.landmark_jitter <= 100:
            raise InputError(f"landmark_jitter is {self.landmark_jitter}; give pixels from 0 to 100")


class PersonQuality(NamedTuple):
    """One of the tracks."""

    visible_fraction: float
    """Part of the frames in which the face is known."""
    face_height: float
    """Median height of the face over that of the picture."""
    blur: float
    """Median `face_blur`, in [0, 1]."""
    movement: float
    """Variance of the expression (`measure_motion`) less that of `landmark_jitter`, squared interocular distances, not
    below 0; 0 for a face that is hardly seen."""


@dataclass(frozen=True)
class MultiPersonAssessment:
    """Whether a clip is kept, and why not."""

    rejections: tuple[MultiPersonRejection, ...]
    """Empty for a clip that is kept."""
    person_indices: tuple[int, ...]
    """Numbers of the tracks that satisfy every limit, from left to right."""
    qualities: tuple[PersonQuality, ...]
    """Of every track."""

    @property
    def accepted(self) -> bool:
        return not self.rejections


def assess_people(
    frames: NDArray[np.uint8], tracks: Sequence[FaceTrack], config: MultiPersonFilterConfig | None = None
) -> MultiPersonAssessment:
    """Judges a clip by its frames (T, H, W, 3) and the faces followed through them, in pixels of these frames.

    Raises:
        InputError: limits out of bounds, or tracks of another number of frames.
    """
    config = config or MultiPersonFilterConfig()
    config.validate()
    for track in tracks:
        if len(track.times) != len(frames):
            raise InputError(f"a face was followed over {len(track.times)} frames and there are {len(frames)}")
    measured = tuple(_measure(frames, track, config.landmark_jitter) for track in tracks)
    present = [
        number
        for number, person in enumerate(measured)
        if person.visible_fraction >= config.min_visible_fraction
        and person.face_height >= max(config.min_face_size, config.min_face_pixels / tracks[number].height)
    ]
    good = [
        number
        for number in present
        if measured[number].blur <= config.max_blur and measured[number].movement >= config.min_movement
    ]
    good.sort(key=lambda number: _horizontal_position(tracks[number]))
    refusals = () if _visible_together(tracks, good, config) else _rejections(tracks, present, measured, config)
    return MultiPersonAssessment(refusals, tuple(good), measured)


def _rejections(
    tracks: Sequence[FaceTrack], present: list[int], qualities: Sequence[PersonQuality], config: MultiPersonFilterConfig
) -> tuple[MultiPersonRejection, ...]:
    if not _visible_together(tracks, present, config):
        return (MultiPersonRejection.TOO_FEW_PEOPLE,)
    reasons = []
    if any(qualities[number].blur > config.max_blur for number in present):
        reasons.append(MultiPersonRejection.BLURRED)
    if any(qualities[number].movement < config.min_movement for number in present):
        reasons.append(MultiPersonRejection.STATIC)
    return tuple(reasons)


def _visible_together(tracks: Sequence[FaceTrack], people: list[int], config: MultiPersonFilterConfig) -> bool:
    """Whether enough of these people are seen at once, in enough of the frames."""
    if len(people) < config.min_people:
        return False
    seen = np.sum([tracks[number].known for number in people], axis=0)
    return float((seen >= config.min_people).mean()) >= config.min_visible_fraction


def _measure(frames: NDArray[np.uint8], track: FaceTrack, landmark_jitter: float) -> PersonQuality:
    boxes, known = track.boxes, np.flatnonzero(track.known)
    looks = known[np.linspace(0, len(known) - 1, min(BLUR_SAMPLE_FRAMES, len(known))).round().astype(int)]
    blur = float(np.median([face_blur(frames[index], boxes[index]) for index in looks]))
    size = float(np.median(boxes[known, 3] - boxes[known, 1])) / track.height
    return PersonQuality(float(track.known.mean()), size, blur, _movement(track, landmark_jitter))


def _movement(track: FaceTrack, landmark_jitter: float) -> float:
    times = track.times[track.known]
    if len(times) < 2 or np.ptp(times) < 0.5:  # too short for `measure_motion`
        return 0.0
    still = 2 * (landmark_jitter / float(np.nanmedian(track.interocular))) ** 2
    return max(0.0, measure_motion(track).expression - still)


def _horizontal_position(track: FaceTrack) -> float:
    box = track.boxes[np.flatnonzero(track.known)[0]]
    return float(box[0] + box[2])
