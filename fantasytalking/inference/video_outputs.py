"""Writes what accompanies a video: contact sheets and the audio format of files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.pipeline import Portrait

OUTPUT_SAMPLE_RATE = 48_000
"""Sample rate of written audio in Hz; audio encoders read 16 kHz."""
CONTACT_SHEET_FRAMES = 12
"""Frames on a contact sheet."""


def contact_sheet_indices(num_frames: int) -> list[int]:
    """Returns the indices of the frames on the contact sheet of `num_frames` frames, evenly spread."""
    return [int(index) for index in np.linspace(0, num_frames - 1, min(num_frames, CONTACT_SHEET_FRAMES)).round()]


def face_fields(portrait: Portrait) -> dict[str, Any]:
    """Returns the entries of a record about size and place of the faces in the portrait, as fractions of it."""
    placement = portrait.placement
    return {
        "face_fraction": round(placement.height, 4),
        "face_center": [round(placement.x, 4), round(placement.y, 4)],
        "outside_fraction": round(portrait.outside_fraction, 4),
    }


def write_video_contact_sheet(path: Path, frames: Mapping[int, NDArray[np.uint8]], fps: float) -> None:
    """Writes frames (H, W, 3), given by index, as one image with their times."""
    from fantasytalking.perception.contact_sheet import contact_sheet

    captions = [f"{index / fps:.2f} s" for index in frames]
    media.write_image(path, contact_sheet(list(frames.values()), captions=captions))
