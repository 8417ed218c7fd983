"""Writes the contact sheet of a corpus, for a visual check before training."""

from pathlib import Path

import numpy as np

from fantasytalking import media
from fantasytalking.data.manifest import ClipRecord
from fantasytalking.data.prepare.clip import PreparedClip, prepare_clip
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.data.prepare.plan import SceneClip
from fantasytalking.perception.contact_sheet import contact_sheet
from fantasytalking.perception.face_crop import face_crop

FRAMES_PER_CLIP = 4


def write_contact_sheet(clips: list[tuple[SceneClip, ClipRecord]], config: PreparationConfig, path: Path) -> None:
    """Prepares the clips again and draws frames of each with landmarks, lip mask, face crop and motion values."""
    frames, landmarks, masks, crops, captions = [], [], [], [], []
    for clip, record in clips:
        prepared = prepare_clip(clip, config)
        for number in _frame_indices(prepared):
            points = prepared.tracks[0].landmarks[number]
            frames.append(prepared.frames[number])
            landmarks.append(np.concatenate([track.landmarks[number] for track in prepared.tracks]))
            masks.append(prepared.lip_mask[number])
            crops.append(face_crop(points) if np.isfinite(points).all() else None)
            captions.append(f"{record.start + prepared.times[number]:.2f} s, {_short_name(record.video)}")
        captions[-FRAMES_PER_CLIP + 1] = f"expression {record.expression:.2f}, body {record.body:.2f}"
    title = f"{len(clips)} clips of {config.frames} frames, at {config.fps:g} frames per second"
    sheet = contact_sheet(
        frames,
        landmarks=landmarks,
        masks=masks,
        crops=crops,
        captions=captions,
        title=title,
        columns=FRAMES_PER_CLIP * 2,
    )
    media.write_image(path, sheet)


def _short_name(video: str) -> str:
    """Returns a video's folder and name; corpora with a folder per clip give all videos one name."""
    return "/".join(Path(video).with_suffix("").parts[-2:])


def _frame_indices(prepared: PreparedClip) -> list[int]:
    """Returns the indices of the frames to draw, evenly spaced."""
    return np.linspace(0, len(prepared.frames) - 1, FRAMES_PER_CLIP).round().astype(int).tolist()
