"""What is known of a portrait-world clip because it was drawn: truth.json beside its video."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import InputError

TRUTH_FILE = "truth.json"
MAX_TRUTH_BYTES = 1 << 26
GROUND_TRUTH_KEYS = ("mouth_open", "mouth_width", "yaw", "pitch", "roll", "blink", "brow", "smile", "gaze_x", "gaze_y")
"""What is read of every frame."""

GroundTruth = dict[str, NDArray[np.float64]]
"""What one person does in every frame, (T,) each, by `GROUND_TRUTH_KEYS`'s names, in the units of the file; empty: not
known."""


def load_ground_truth(path: Path, fps: float, start: float = 0.0, person: int = 0) -> GroundTruth:
    """What a person of a clip does from `start` seconds on, at the file's own rate, which must be `fps`.

    Args:
        person: from the left, where the clip shows several.

    Raises:
        InputError: the file is too large, damaged, of another frame rate, or shows fewer people.
    """
    if path.stat().st_size > MAX_TRUTH_BYTES:
        raise InputError(f"'{path}' has {path.stat().st_size} bytes; a truth file has at most {MAX_TRUTH_BYTES}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        frames = (values["people"][person] if "people" in values else [values][person])["frames"]
        known = {
            name: _frame_values(frames, name)
            for name in GROUND_TRUTH_KEYS
            if name in frames[0] or name == GROUND_TRUTH_KEYS[0]
        }
        rate = float(values["fps"])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise InputError(f"'{path}' is damaged ({error!r}); make the clip again") from error
    if rate != fps:
        raise InputError(
            f"'{path}' is of {rate:g} frames a second, the protocol of {fps:g}; freeze it with fps={rate:g}"
        )
    return {name: track[round(start * fps) :] for name, track in known.items()}


def _frame_values(frames: list[dict[str, Any]], name: str) -> NDArray[np.float64]:
    return np.array([float(frame[name]) for frame in frames], np.float64)
