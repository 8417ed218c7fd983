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
    """Apply `max_face_blur`, `min_face_movement` and `min_face_pixels` to each face of clips of several people."""
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


LIMIT_RANGES: dict[str, tuple[float, float]] = {
    "max_upscale": (0.1, 100),
    "min_loudness_db": (-200, 0),
    "min_visible_fraction": (0, 1),
    "min_face_confidence": (0, 1),
    "min_face_size": (0, 1),
    "min_face_pixels": (8, 4096),
    "max_face_blur": (0.01, 1),
    "min_face_movement": (0, 0.99),
}
"""Lowest and highest value of each limit."""


class Applies(Enum):
    """To which clips a filter applies."""

    ALWAYS = "always"
    SEVERAL = "to several people, with filter_people"


class ClipFilter(NamedTuple):
    """A limit of one measured value."""

    measure: str
    """Name of the value, as in the manifest."""
    setting: str
    """Name of the limit in `ClipLimits`; min_* is the lowest value that is kept, max_* the highest."""
    reason: RejectionReason
    detail: str
    """What rejected.jsonl says, with {value} and {limit}."""
    applies: Applies = Applies.ALWAYS

    def keeps(self, values: Mapping[str, Any], limits: ClipLimits) -> bool:
        """Whether a clip is within the limit, or the limit does not apply to it."""
        if self.measure not in values:
            return True
        if self.applies is Applies.SEVERAL and not (limits.filter_people and values.get(PEOPLE_KEY, 1) > 1):
            return True
        value, limit = values[self.measure], getattr(limits, self.setting)
        return bool(value >= limit if self.setting.startswith("min_") else value <= limit)


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
