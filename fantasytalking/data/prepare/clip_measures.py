"""Measures a clip that is kept, so that limits can be chosen from a manifest without preparing again."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE
from fantasytalking.data.prepare.clip_audio import clip_loudness_db
from fantasytalking.face_range import FacePlacement
from fantasytalking.perception.active_speaker import detect_active_speaker
from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.head_pose import head_pose
from fantasytalking.perception.multi_person_filter import LANDMARK_JITTER, MultiPersonFilterConfig, assess_people

_YAW_PERCENTILE = 95


def measure_kept_clip(
    frames: NDArray[np.uint8], tracks: Sequence[FaceTrack], waveform: NDArray[np.float32], scale: float
) -> dict[str, float]:
    """Returns the measured fields of `ClipRecord`, by name; of several people, the least favorable value.

    Args:
        frames: (T, H, W, 3) uint8, the prepared frames.
        tracks: the people, in pixels of these frames; each is known in some.
        waveform: (samples,) audio of the clip at 16 kHz.
        scale: pixels of these frames per pixel of the frames in which the faces were tracked.
    """
    limits = MultiPersonFilterConfig(landmark_jitter=LANDMARK_JITTER * scale)
    qualities = assess_people(frames, tracks, limits).qualities
    speech = detect_active_speaker(list(tracks), waveform, sample_rate=AUDIO_SAMPLE_RATE)
    measured = {
        "face_confidence": min(float(track.confidence[track.present].mean()) for track in tracks),
        "visible_fraction": min(person.visible_fraction for person in qualities),
        "face_blur": max(person.blur for person in qualities),
        "face_movement": min(person.movement for person in qualities),
        "face_yaw": max(_yaw_degrees(track) for track in tracks),
        "mouth_speed": max(speech.mouth_speeds),
        "mouth_audio_correlation": max(speech.sync_correlations),
        "loudness_db": clip_loudness_db(waveform),
    }
    placement = _face_placement(tracks)
    measured |= {"face_height": placement.height, "face_x": placement.x, "face_y": placement.y}
    return {name: round(value, 6) for name, value in measured.items()}


def _face_placement(tracks: Sequence[FaceTrack]) -> FacePlacement:
    """The median placement over the frames that show everyone, or over all that show someone."""
    boxes = np.stack([track.boxes for track in tracks], axis=1)  # (T, P, 4)
    is_known = np.isfinite(boxes).all(axis=2)
    if is_known.all(axis=1).any():
        is_known &= is_known.all(axis=1, keepdims=True)
    shown = [faces[known] for faces, known in zip(boxes, is_known, strict=True) if known.any()]
    placements = [FacePlacement.from_boxes(faces, tracks[0].width, tracks[0].height) for faces in shown]
    return FacePlacement(*np.median(placements, axis=0).tolist())


def _yaw_degrees(track: FaceTrack) -> float:
    yaw = np.abs(head_pose(track.landmarks).angles[:, 0])
    return float(np.degrees(np.nanpercentile(yaw, _YAW_PERCENTILE)))
