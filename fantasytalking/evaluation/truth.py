"""What is known of a portrait-world clip because it was drawn: truth.json beside its video."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fantasytalking.errors import InputError

TRUTH = "truth.json"
MAX_BYTES = 1 << 26


def true_opening(path: Path, fps: float, start: float = 0.0) -> NDArray[np.float64]:
    """The mouth opening in [0, 1] from `start` seconds on: (frames,) at the file's own rate, which must be `fps`.

    Raises:
        InputError: the file is too large, damaged, or of another frame rate.
    """
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"'{path}' has {path.stat().st_size} bytes; a truth file has at most {MAX_BYTES}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        opening = np.array([float(frame["mouth_open"]) for frame in values["frames"]], np.float64)
        rate = float(values["fps"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' is damaged ({error!r}); make the clip again") from error
    if rate != fps:
        raise InputError(
            f"'{path}' is of {rate:g} frames a second, the protocol of {fps:g}; freeze it with fps={rate:g}"
        )
    return opening[round(start * fps) :]
