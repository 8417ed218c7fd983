"""Selects clips of several people for training: at least two, visible together, sharp, with moving faces.

It follows the selection of FantasyPortrait's multi-person corpus (arXiv 2507.12956), which counts people and drops
blurred clips and clips whose facial landmarks barely vary. This module decides: people are counted by their tracked
faces, and only while at least two are visible at once; blur is measured on faces, not on the image; the variation of
landmarks is that of the expression. Head pose and position are removed, so that a photograph on a wall does not move
with the camera.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.motion_intensity import MIN_MOTION_SECONDS, measure_motion
from fantasytalking.perception.sharpness import face_blur

BLUR_SAMPLE_FRAMES = 9
"""Number of evenly spaced frames per face whose blur is measured; the median counts."""
LANDMARK_JITTER = 0.25
"""Standard deviation per axis, in pixels, of smoothed landmarks on a face at rest."""


class MultiPersonRejection(Enum):
    """Why a clip is rejected."""

    TOO_FEW_PEOPLE = "too few people"
    BLURRED = "blurred faces"
    STATIC = "still faces"


@dataclass(frozen=True)
class MultiPersonFilterConfig:
    """Limits of `assess_people`."""

    min_people: int = 2
    """Minimum number of people, 2 to 8."""
    min_visible_fraction: float = 0.9
    """Minimum fraction of the frames in which each person, and all of them together, are visible, (0, 1]."""
    min_face_size: float = 0.12
    """Minimum height of a face over the height of the image, (0, 1]."""
    min_face_pixels: int = 32
    """Minimum height of a face in pixels, 8 to 4096: smaller faces show no expression and have jittering landmarks."""
    max_blur: float = 0.62
    """Maximum `face_blur`, (0, 1]."""
    min_movement: float = 0.0001
    """Minimum variance of brows, lids and lips above the landmark jitter, in squared interocular distances, [0, 1)."""
    landmark_jitter: float = LANDMARK_JITTER
    """Standard deviation of the landmarks' jitter in pixels of the tracks, 0 to 100; it scales with the tracks."""

    def validate(self) -> None:
        """Checks every limit.

        Raises:
            InputError: a value is out of range.
        """
        checks = {
            "min_people": (2 <= self.min_people <= 8, "2 to 8"),
            "min_visible_fraction": (0 < self.min_visible_fraction <= 1, "above 0 and up to 1"),
            "min_face_size": (0 < self.min_face_size <= 1, "above 0 and up to 1"),
            "max_blur": (0 < self.max_blur <= 1, "above 0 and up to 1"),
            "min_face_pixels": (8 <= self.min_face_pixels <= 4096, "8 to 4096 pixels"),
            "min_movement": (0 <= self.min_movement < 1, "0 to below 1"),
            "landmark_jitter": (0 <= self.landmark_jitter <= 100, "0 to 100 pixels"),
        }
        for name, (valid, limits) in checks.items():
            if not valid:
                value = getattr(self, name)
                raise InputError(
                    f"{name} is {value}; it must be {limits}", code=ErrorCode.out_of_range, field=name, value=value
                )


class PersonQuality(NamedTuple):
    """Measurements of one track."""

    visible_fraction: float
    """Fraction of the frames in which the face is known, [0, 1]."""
    face_height: float
    """Median height of the face over the height of the image."""
    blur: float
    """Median `face_blur`, in [0, 1]."""
    movement: float
    """Variance of the expression (`measure_motion`) minus that of `landmark_jitter`, in squared interocular distances,
    at least 0; 0 for a face that is barely visible."""


@dataclass(frozen=True)
class MultiPersonAssessment:
    """Whether a clip is accepted, and the reasons if it is not."""

    rejections: tuple[MultiPersonRejection, ...]
    """Reasons for rejection; empty for an accepted clip."""
    person_indices: tuple[int, ...]
    """Indices of the tracks that satisfy every limit, from left to right."""
    qualities: tuple[PersonQuality, ...]
    """Measurements of every track."""

    @property
    def accepted(self) -> bool:
        return not self.rejections


def assess_people(
    frames: NDArray[np.uint8], tracks: Sequence[FaceTrack], config: MultiPersonFilterConfig | None = None
) -> MultiPersonAssessment:
    """Assesses a clip by its frames and the faces tracked through them.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        tracks: tracks over the same T frames, in pixels of these frames.
        config: the limits; None uses the defaults.

    Raises:
        InputError: a limit is out of range, or a track has another number of frames.
    """
    config = config or MultiPersonFilterConfig()
    config.validate()
    for track in tracks:
        if len(track.times) != len(frames):
            raise InputError(
                f"a track has {len(track.times)} frames, the clip {len(frames)}; give tracks of this clip",
                code=ErrorCode.shape_mismatch,
                field="tracks",
                value=len(track.times),
            )
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
    rejections = () if _visible_together(tracks, good, config) else _rejections(tracks, present, measured, config)
    return MultiPersonAssessment(rejections, tuple(good), measured)


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
    """Whether enough of these people are visible at once, in enough of the frames."""
    if len(people) < config.min_people:
        return False
    seen = np.sum([tracks[number].known for number in people], axis=0)
    return float((seen >= config.min_people).mean()) >= config.min_visible_fraction


def _measure(frames: NDArray[np.uint8], track: FaceTrack, landmark_jitter: float) -> PersonQuality:
    boxes, known = track.boxes, np.flatnonzero(track.known)
    sampled = known[np.linspace(0, len(known) - 1, min(BLUR_SAMPLE_FRAMES, len(known))).round().astype(int)]
    blur = float(np.median([face_blur(frames[index], boxes[index]) for index in sampled]))
    size = float(np.median(boxes[known, 3] - boxes[known, 1])) / track.height
    return PersonQuality(float(track.known.mean()), size, blur, _movement(track, landmark_jitter))


def _movement(track: FaceTrack, landmark_jitter: float) -> float:
    times = track.times[track.known]
    if len(times) < 2 or np.ptp(times) < MIN_MOTION_SECONDS:
        return 0.0
    still = 2 * (landmark_jitter / float(np.nanmedian(track.interocular))) ** 2
    return max(0.0, measure_motion(track).expression - still)


def _horizontal_position(track: FaceTrack) -> float:
    box = track.boxes[np.flatnonzero(track.known)[0]]
    return float(box[0] + box[2])
