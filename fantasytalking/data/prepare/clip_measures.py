"""Measures a clip, so that its limits can be chosen from the manifest and changed without preparing again."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE
from fantasytalking.data.manifest import ClipRejected
from fantasytalking.data.prepare.clip_audio import clip_loudness_db
from fantasytalking.data.prepare.clip_limits import PEOPLE_KEY, ClipLimits, first_failure
from fantasytalking.face_range import FacePlacement
from fantasytalking.perception.active_speaker import detect_active_speaker
from fantasytalking.perception.camera_motion import camera_motion
from fantasytalking.perception.content_hash import image_hash, sound_hash
from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.face_visibility import face_detail_db, lip_edges, overlay_fraction
from fantasytalking.perception.head_pose import head_pose
from fantasytalking.perception.mouth_agreement import MouthAgreement, measure_agreement
from fantasytalking.perception.multi_person_filter import LANDMARK_JITTER, MultiPersonFilterConfig, assess_people
from fantasytalking.perception.speech_sound import sound_steadiness, speech_depth_db
from fantasytalking.perception.syncnet.mfcc import mfcc
from fantasytalking.perception.syncnet.sync_distance import sync_scores
from fantasytalking.perception.syncnet.syncnet_input import count_windows, syncnet_crops, to_int16
from fantasytalking.perception.syncnet.syncnet_model import SyncNet, window_features

MEASURE_DIGITS = 6
_YAW_PERCENTILE = 95


class ClipMeasures:
    """What has been measured of one clip so far.

    Args:
        limits: the limits that reject a clip.
    """

    def __init__(self, limits: ClipLimits) -> None:
        self._limits = limits
        self.values: dict[str, float] = {}
        """Values by their names in the manifest, and the number of people; what cannot be measured is absent."""

    def add(self, found: Mapping[str, float]) -> None:
        """Adds values, rounded, without those that are not finite.

        Raises:
            ClipRejected: a value is beyond its limit.
        """
        self.values |= {
            name: value if isinstance(value, int) else round(value, MEASURE_DIGITS)
            for name, value in found.items()
            if np.isfinite(value)
        }
        failure = first_failure(self.values, self._limits)
        if failure is not None:
            raise ClipRejected(*failure)


def measure_sound(waveform: NDArray[np.float32]) -> dict[str, float]:
    """Returns the measured fields of `ClipRecord` that concern the audio alone, by name.

    Args:
        waveform: (samples,) audio of the clip at 16 kHz.
    """
    return {
        "loudness_db": clip_loudness_db(waveform),
        "sound_steadiness": sound_steadiness(waveform, AUDIO_SAMPLE_RATE),
        "speech_depth_db": speech_depth_db(waveform, AUDIO_SAMPLE_RATE),
    }


def measure_visibility(tracks: Sequence[FaceTrack]) -> dict[str, float]:
    """Returns how many people there are, how often they are visible, and the scores of the face detector.

    Of several people it is the least favorable value.
    """
    return {
        PEOPLE_KEY: len(tracks),
        "visible_fraction": min(float(track.known.mean()) for track in tracks),
        "face_confidence": min(float(track.confidence[track.present].mean()) for track in tracks),
    }


def measure_people(
    frames: NDArray[np.uint8], tracks: Sequence[FaceTrack], waveform: NDArray[np.float32], scale: float
) -> dict[str, float]:
    """Returns the measured fields of `ClipRecord` that concern faces, by name; of several people, the least favorable.

    Args:
        frames: (T, H, W, 3) uint8, the prepared frames.
        tracks: the people, in pixels of these frames; each is known in some.
        waveform: (samples,) audio of the clip at 16 kHz.
        scale: pixels of these frames per pixel of the frames in which the faces were tracked.
    """
    limits = MultiPersonFilterConfig(landmark_jitter=LANDMARK_JITTER * scale)
    qualities = assess_people(frames, tracks, limits).qualities
    speech = detect_active_speaker(list(tracks), waveform, sample_rate=AUDIO_SAMPLE_RATE)
    placement = _face_placement(tracks)
    return {
        "complete_fraction": min(_complete_fraction(track) for track in tracks),
        "together_fraction": float(np.all([track.known for track in tracks], axis=0).mean()),
        "face_height": placement.height,
        "face_x": placement.x,
        "face_y": placement.y,
        "face_pixels": min(person.face_height for person in qualities) * frames.shape[1],
        "face_blur": max(person.blur for person in qualities),
        "face_movement": min(person.movement for person in qualities),
        "face_yaw": max(_yaw_degrees(track) for track in tracks),
        "mouth_speed": max(speech.mouth_speeds),
        "mouth_audio_correlation": max(speech.sync_correlations),
        "face_detail_db": min(face_detail_db(frames, track) for track in tracks),
        "lip_edges": min(lip_edges(frames, track) for track in tracks),
        "overlay_fraction": max(overlay_fraction(frames, track) for track in tracks),
        "camera_motion": camera_motion(frames, tracks),
    }


def measure_mouths(tracks: Sequence[FaceTrack], waveform: NDArray[np.float32]) -> MouthAgreement:
    """Returns the agreement of mouth and audio of the person for whom it is best."""
    found = [measure_agreement(track, waveform, AUDIO_SAMPLE_RATE) for track in tracks]
    return max(found, key=lambda each: each.agreement if np.isfinite(each.agreement) else -2.0)


def measure_sync(
    network: SyncNet | None,
    frames: NDArray[np.uint8],
    tracks: Sequence[FaceTrack],
    waveform: NDArray[np.float32],
    fps: float,
) -> dict[str, float]:
    """Returns SyncNet's confidence and offset of the person for whom it is most confident; empty for short clips.

    Args:
        network: SyncNet; None measures nothing.
        frames: (T, H, W, 3) uint8, the prepared frames.
        tracks: the people, in pixels of these frames.
        waveform: (samples,) audio of the clip at 16 kHz.
        fps: frames per second.
    """
    count = count_windows(len(frames), fps, len(waveform))
    if network is None or count < 1:
        return {}
    cepstra = torch.from_numpy(mfcc(to_int16(waveform)))
    crops = [torch.from_numpy(syncnet_crops(frames, track.times, fps, track)) for track in tracks]
    scores = [sync_scores(*window_features(network, crop, cepstra, count)) for crop in crops]
    best = max(scores, key=lambda each: each.confidence)
    return {"sync_confidence": best.confidence, "sync_offset": best.offset}


def content_hashes(frames: NDArray[np.uint8], waveform: NDArray[np.float32]) -> dict[str, str]:
    """Returns the hashes of `ClipRecord`, by name."""
    return {
        "image_hash": image_hash(frames[[0, len(frames) // 2, -1]]),
        "sound_hash": sound_hash(waveform, AUDIO_SAMPLE_RATE),
    }


def _complete_fraction(track: FaceTrack) -> float:
    """The fraction of the known frames in which the face's center and chin are within the frame."""
    boxes = track.boxes[track.known]
    middle_x, middle_y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    inside = (middle_x > 0) & (middle_x < track.width) & (middle_y > 0) & (boxes[:, 3] <= track.height * 1.02)
    return float(inside.mean())


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
