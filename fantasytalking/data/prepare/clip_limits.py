"""Limits of what is measured of a clip: which clips a corpus keeps.

A clip is judged by its stored values alone, so that other limits can be applied later without preparing again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from fantasytalking.data.manifest import RejectionReason


@dataclass
class ClipLimits:
    """Limits of `FILTERS`. They do not change the features: `fantasytalking prepare --refilter` applies others."""

    filter_people: bool = False
    """Apply the limits of faces to each face of clips of several people too, and with them `max_face_blur`,
    `min_face_movement` and `min_face_pixels`."""
    max_upscale: float = 2.0
    """Maximum factor by which frames are enlarged."""
    min_loudness_db: float = -50.0
    """Level in dB of full scale that the loudest twentieth of the audio must reach."""
    min_visible_fraction: float = 0.95
    """Minimum fraction of the frames that show the face, and the whole of it."""
    min_face_confidence: float = 0.85
    """Minimum mean score of the face detector. The paper uses 0.9 with a detector that it does not name; MediaPipe's,
    which is used here, scores good frontal faces 0.89 to 0.94."""
    min_face_size: float = 0.1
    """Minimum height of the face as a fraction of the height of the prepared frames."""
    min_face_pixels: int = 32
    """Minimum height of a face in pixels of the prepared frames; only with `filter_people`."""
    max_face_blur: float = 0.62
    """Maximum blur of a face in the prepared frames, [0.01, 1]; only with `filter_people`."""
    min_face_movement: float = 0.0001
    """Minimum variance of brows, lids and lips above the landmark jitter, in squared interocular distances; only with
    `filter_people`."""

    max_sound_steadiness: float = 0.75
    """Maximum similarity of the audio's spectra 0.128 s apart, [0, 1]: tones, noise and music are steadier than
    speech."""
    min_speech_depth_db: float = 17.0
    """Minimum decibels by which the quietest tenth of the audio lies below its loudest twentieth: music and noise fill
    the pauses of speech."""
    max_speaker_blur: float = 0.78
    """Maximum blur of a face in the prepared frames, [0.01, 1]."""
    min_face_detail_db: float = -15.0
    """Minimum power of the face's fine detail relative to its coarse detail, in dB: enlarged faces have less."""
    max_face_yaw: float = 50.0
    """Maximum turn of the head to the side (95th percentile), in degrees."""
    min_lip_edges: float = 1.2
    """Minimum contrast of the lips relative to the face's: what covers a mouth has less."""
    min_mouth_speed: float = 0.1
    """Minimum mean speed of the mouth opening, in interocular distances per second. Speakers have 0.26 and more,
    listeners about 0.07, photographs 0.01."""
    max_overlay_fraction: float = 0.12
    """Maximum fraction of the lower face that is edges which stay in place: burnt-in text has 0.2 and more."""
    max_camera_motion: float = 0.2
    """Maximum mean speed of the background, in frame heights per second."""
    max_audio_lag: float = 0.2
    """Maximum seconds by which the audio is certainly early or late."""
    min_mouth_agreement: float = -1.0
    """Minimum agreement of mouth and audio, [-1, 1]; -1 keeps all. 0.45 tells synthetic faces from those with the
    speech of others; real ones it does not: use SyncNet (docs/data.md)."""
    min_sync_confidence: float = 3.0
    """Minimum confidence of SyncNet; only with `syncnet`."""
    max_sync_offset: float = 3.0
    """Maximum offset by SyncNet, in frames at 25 per second; only with `syncnet`."""
    min_duplicate_distance: float = 0.1
    """Clips whose picture and audio both differ from an earlier clip's in a smaller fraction of bits are duplicates; 0
    keeps them."""


LIMIT_RANGES: dict[str, tuple[float, float]] = {
    "max_upscale": (0.1, 100),
    "min_loudness_db": (-200, 0),
    "min_visible_fraction": (0, 1),
    "min_face_confidence": (0, 1),
    "min_face_size": (0, 1),
    "min_face_pixels": (8, 4096),
    "max_face_blur": (0.01, 1),
    "min_face_movement": (0, 0.99),
    "max_sound_steadiness": (0, 1),
    "min_speech_depth_db": (0, 50),
    "max_speaker_blur": (0.01, 1),
    "min_face_detail_db": (-100, 20),
    "max_face_yaw": (0, 90),
    "min_lip_edges": (0, 100),
    "min_mouth_speed": (0, 10),
    "max_overlay_fraction": (0, 1),
    "max_camera_motion": (0, 100),
    "max_audio_lag": (0, 10),
    "min_mouth_agreement": (-1, 1),
    "min_sync_confidence": (0, 100),
    "max_sync_offset": (0, 15),
    "min_duplicate_distance": (0, 0.5),
}
"""Lowest and highest value of each limit."""
EARLIER_LIMITS = frozenset(["filter_people", *list(LIMIT_RANGES)[:8]])
"""Limits that earlier releases had."""


class Applies(Enum):
    """To which clips a filter applies."""

    ALWAYS = "to all clips"
    FACES = "to clips of one person, and with filter_people to those of several"
    SEVERAL = "to clips of several people, with filter_people"

    def concerns(self, people: int, filter_people: bool) -> bool:
        """Whether a filter applies to a clip of this number of people."""
        if people > 1:
            return self is Applies.ALWAYS or filter_people
        return self is not Applies.SEVERAL


class ClipFilter(NamedTuple):
    """A limit of one measured value."""

    measure: str
    """Name of the value, as in the manifest."""
    setting: str
    """Name of the limit in `ClipLimits`: min_* is the lowest value that is kept, max_* the highest, without sign."""
    reason: RejectionReason
    detail: str
    """What rejected.jsonl says, with {value} and {limit}."""
    applies: Applies = Applies.ALWAYS

    def keeps(self, values: Mapping[str, Any], limits: ClipLimits) -> bool:
        """Whether a clip is within the limit, or the limit does not apply to it."""
        if self.measure not in values:
            return True
        if not self.applies.concerns(values.get(PEOPLE_KEY, 1), limits.filter_people):
            return True
        value, limit = values[self.measure], getattr(limits, self.setting)
        return bool(value >= limit if self.setting.startswith("min_") else abs(value) <= limit)


PEOPLE_KEY = "people"
"""Key of the number of people among the measured values."""

FILTERS = (
    ClipFilter(
        "loudness_db",
        "min_loudness_db",
        RejectionReason.SILENT,
        "the audio reaches {value:.1f} dB; at least {limit:g} dB are needed",
    ),
    ClipFilter(
        "upscale",
        "max_upscale",
        RejectionReason.LOW_RESOLUTION,
        "the frames would be upscaled {value:.2f} times; at most {limit:g} is allowed",
    ),
    ClipFilter(
        "sound_steadiness",
        "max_sound_steadiness",
        RejectionReason.NOT_SPEECH,
        "the spectra of the audio are alike by {value:.3f}; at most {limit:g} is allowed",
    ),
    ClipFilter(
        "speech_depth_db",
        "min_speech_depth_db",
        RejectionReason.BACKGROUND_SOUND,
        "the audio falls by {value:.1f} dB in its pauses; at least {limit:g} dB are needed",
    ),
    ClipFilter(
        "visible_fraction",
        "min_visible_fraction",
        RejectionReason.FACE_LOST,
        "the face is visible in {value:.0%} of the frames; at least {limit:.0%} are needed",
    ),
    ClipFilter(
        "face_confidence",
        "min_face_confidence",
        RejectionReason.LOW_CONFIDENCE,
        "the score of the face detector is {value:.3f}; at least {limit:g} is needed",
    ),
    ClipFilter(
        "face_height",
        "min_face_size",
        RejectionReason.FACE_TOO_SMALL,
        "the face has {value:.3f} of the frame's height; at least {limit:g} is needed",
    ),
    ClipFilter(
        "complete_fraction",
        "min_visible_fraction",
        RejectionReason.FACE_CUT_OFF,
        "the face is complete in {value:.0%} of the frames; at least {limit:.0%} are needed",
    ),
    ClipFilter(
        "face_pixels",
        "min_face_pixels",
        RejectionReason.FACE_TOO_SMALL,
        "a face is {value:.1f} pixels high; at least {limit} are needed in clips of several people",
        Applies.SEVERAL,
    ),
    ClipFilter(
        "together_fraction",
        "min_visible_fraction",
        RejectionReason.FACE_LOST,
        "all people are visible together in {value:.0%} of the frames; at least {limit:.0%} are needed",
        Applies.SEVERAL,
    ),
    ClipFilter(
        "face_blur",
        "max_face_blur",
        RejectionReason.BLURRED,
        "the blur of a face is {value:.3f}; at most {limit:g} is allowed",
        Applies.SEVERAL,
    ),
    ClipFilter(
        "face_movement",
        "min_face_movement",
        RejectionReason.STATIC_FACES,
        "the movement of a face is {value:.6f} squared interocular distances; at least {limit:g} is needed",
        Applies.SEVERAL,
    ),
    ClipFilter(
        "face_blur",
        "max_speaker_blur",
        RejectionReason.BLURRED,
        "the face's blur is {value:.3f}; at most {limit:g} is allowed",
        Applies.FACES,
    ),
    ClipFilter(
        "face_detail_db",
        "min_face_detail_db",
        RejectionReason.LOW_DETAIL,
        "the face's fine detail has {value:.1f} dB; at least {limit:g} dB are needed",
        Applies.FACES,
    ),
    ClipFilter(
        "face_yaw",
        "max_face_yaw",
        RejectionReason.PROFILE,
        "the head turns by {value:.0f} degrees; at most {limit:g} are allowed",
        Applies.FACES,
    ),
    ClipFilter(
        "lip_edges",
        "min_lip_edges",
        RejectionReason.COVERED_MOUTH,
        "the lips contrast {value:.2f} times as much as the face; at least {limit:g} is needed",
        Applies.FACES,
    ),
    ClipFilter(
        "mouth_speed",
        "min_mouth_speed",
        RejectionReason.STILL_MOUTH,
        "the mouth moves {value:.3f} interocular distances per second; at least {limit:g} is needed",
    ),
    ClipFilter(
        "overlay_fraction",
        "max_overlay_fraction",
        RejectionReason.TEXT_OVER_FACE,
        "edges that stay in place cover {value:.1%} of the lower face; at most {limit:.1%} are allowed",
        Applies.FACES,
    ),
    ClipFilter(
        "camera_motion",
        "max_camera_motion",
        RejectionReason.CAMERA_MOTION,
        "the background moves {value:.3f} frame heights per second; at most {limit:g} is allowed",
    ),
    ClipFilter(
        "audio_lag",
        "max_audio_lag",
        RejectionReason.SOUND_SHIFTED,
        "the audio is {value:+.2f} s late; at most {limit:g} s either way are allowed",
    ),
    ClipFilter(
        "mouth_agreement",
        "min_mouth_agreement",
        RejectionReason.OUT_OF_SYNC,
        "mouth and audio agree by {value:.3f}; at least {limit:g} is needed",
    ),
    ClipFilter(
        "sync_offset",
        "max_sync_offset",
        RejectionReason.SOUND_SHIFTED,
        "SyncNet finds an offset of {value:+.0f} frames; at most {limit:g} either way are allowed",
    ),
    ClipFilter(
        "sync_confidence",
        "min_sync_confidence",
        RejectionReason.OUT_OF_SYNC,
        "SyncNet's confidence is {value:.2f}; at least {limit:g} is needed",
    ),
)
"""All filters, in the order in which they are applied: the first that fails is the reason."""


def first_failure(values: Mapping[str, Any], limits: ClipLimits) -> tuple[RejectionReason, str] | None:
    """Returns the reason of the first filter that fails and the details of all; None if all values are within limits.

    Values that were not measured are within.

    Args:
        values: measured values by name, and the number of people.
        limits: the limits.
    """
    failed = [each for each in FILTERS if not each.keeps(values, limits)]
    if not failed:
        return None
    details = [each.detail.format(value=values[each.measure], limit=getattr(limits, each.setting)) for each in failed]
    return failed[0].reason, "; ".join(details)


def stored_failure(result: Mapping[str, Any], limits: ClipLimits) -> tuple[RejectionReason, str] | None:
    """Returns why a clip is left out under `limits`, from its stored result; None if it is kept."""
    if "reason" in result:
        return RejectionReason(result["reason"]), result["detail"]
    return first_failure(result, limits)
