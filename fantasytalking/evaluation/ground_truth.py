"""Ground truth of a rendered portrait-world clip, from truth.json beside its video."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_TRUTH_BYTES
from fantasytalking.common.text_files import read_json

TRUTH_FILE = "truth.json"
GROUND_TRUTH_KEYS = ("mouth_open", "mouth_width", "yaw", "pitch", "roll", "blink", "brow", "smile", "gaze_x", "gaze_y")
"""Keys that are read from each frame."""

GroundTruth = dict[str, NDArray[np.float64]]
"""Motion of one person by `GROUND_TRUTH_KEYS`: (T,) per key, in the units of the file. Empty = not known."""


def load_ground_truth(path: Path, fps: float, start: float = 0.0, person: int = 0) -> GroundTruth:
    """Loads the motion of a person in a clip.

    Args:
        path: truth.json of the clip.
        fps: frames per second; must be those of the file.
        start: seconds from the beginning of the clip.
        person: index from the left, if the clip shows several people.

    Raises:
        InputError: the file is too large, damaged, has another frame rate, or shows fewer people.
    """
    values = read_json(path, TRUTH_FILE, MAX_TRUTH_BYTES, allow_nan=False)
    try:
        frames = (values["people"][person] if "people" in values else [values][person])["frames"]
        known = {
            name: _frame_values(frames, name)
            for name in GROUND_TRUTH_KEYS
            if name in frames[0] or name == GROUND_TRUTH_KEYS[0]
        }
        rate = float(values["fps"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"'{path}' is damaged ({error!r}); render the clip again",
            code=ErrorCode.malformed_file,
            field=TRUTH_FILE,
            value=str(path),
        ) from error
    if rate != fps:
        raise InputError(
            f"'{path}' has {rate:g} frames per second, the protocol {fps:g}; freeze it with fps={rate:g}",
            code=ErrorCode.conflict,
            field="fps",
            value=rate,
        )
    return {name: values[round(start * fps) :] for name, values in known.items()}


def _frame_values(frames: list[dict[str, Any]], name: str) -> NDArray[np.float64]:
    return np.array([float(frame[name]) for frame in frames], np.float64)
