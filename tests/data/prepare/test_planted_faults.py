"""Clips with one planted fault each are rejected with its reason, and clean clips are kept."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from fantasytalking.data.manifest import ClipRejected, RejectionReason
from fantasytalking.data.prepare.clip import PreparedClip, prepare_clip
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.data.prepare.duplicates import DuplicateSearch
from fantasytalking.data.prepare.plan import SceneClip, VideoFile
from fantasytalking.media import write_video
from tests.data.planted_faults import (
    FAULTS,
    FPS,
    FRAMES,
    SIZE,
    TalkingClip,
    face_height,
    late_sound,
    other_speech,
    talking,
)

PEOPLE = range(1000, 1012)
FAULTY = range(1000, 1003)
SYNTHETIC_AGREEMENT = 0.45
"""`min_mouth_agreement` for synthetic faces."""
CONFIG = PreparationConfig(base="not loaded", frames=FRAMES, buckets=[f"{SIZE}x{SIZE}"])


def prepare(clip: TalkingClip, path: Path, config: PreparationConfig = CONFIG) -> PreparedClip:
    write_video(path, clip.frames, fps=FPS, audio=clip.samples, sample_rate=clip.rate)
    return prepare_clip(SceneClip(VideoFile(path, path.name, path.stat().st_size), 0.0, None), config)


def reason_of(clip: TalkingClip, path: Path, config: PreparationConfig = CONFIG) -> RejectionReason | None:
    try:
        prepare(clip, path, config)
    except ClipRejected as rejected:
        return rejected.reason
    return None


def planted(identity: int) -> Iterator[tuple[str, RejectionReason, TalkingClip]]:
    clip = talking(identity)
    for name, (reason, plant) in FAULTS.items():
        yield name, reason, plant(clip)
    yield "the speech of somebody else", RejectionReason.OUT_OF_SYNC, other_speech(clip, talking(identity + 1))
    yield "profile", RejectionReason.PROFILE, talking(identity, yaw=1.0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_precision_and_recall_of_every_filter(tmp_path: Path) -> None:
    """Prints the table of docs/data.md."""
    config = replace(CONFIG, min_mouth_agreement=SYNTHETIC_AGREEMENT)
    clean = {identity: reason_of(talking(identity), tmp_path / "clean.mp4", config) for identity in PEOPLE}
    found: dict[str, list[RejectionReason | None]] = {}
    expected: dict[str, RejectionReason] = {}
    for identity in FAULTY:
        for name, reason, clip in planted(identity):
            expected[name] = reason
            found.setdefault(name, []).append(reason_of(clip, tmp_path / "faulty.mp4", config))
        copies = DuplicateSearch(config.min_duplicate_distance)
        original = prepare(talking(identity), tmp_path / "original.mp4", config)
        copy = prepare(smaller(talking(identity)), tmp_path / "copy.mp4", config)
        assert copies.check("a", 0.0, original.hashes) is None
        again = copies.check("b", 0.0, copy.hashes)
        expected["a copy, 0.8 times as large"] = RejectionReason.DUPLICATE
        found.setdefault("a copy, 0.8 times as large", []).append(None if again is None else again[0])
    table = [f"\nclean clips kept: {sum(reason is None for reason in clean.values())} of {len(clean)}"]
    table.append("| planted | reason | rejected with it | recall | precision |\n|---|---|---|---|---|")
    for name, reasons in found.items():
        right = sum(reason is expected[name] for reason in reasons)
        wrong = sum(reason is expected[name] for reason in clean.values())
        others = sorted({str(reason) for reason in reasons if reason is not expected[name]})
        precision = right / max(1, right + wrong)
        shown = f"{right} of {len(reasons)}{', else ' + ', '.join(others) if others else ''}"
        table.append(f"| {name} | `{expected[name]}` | {shown} | {right / len(reasons):.2f} | {precision:.2f} |")
    sys.stdout.write("\n".join([*table, ""]))
    assert sum(reason is None for reason in clean.values()) >= 0.95 * len(clean), clean
    for name, reasons in found.items():
        assert None not in reasons, name
        assert sum(reason is expected[name] for reason in reasons) > len(reasons) / 2, (name, reasons)


def smaller(clip: TalkingClip) -> TalkingClip:
    side = round(0.8 * SIZE / 2) * 2
    frames = np.stack([cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA) for frame in clip.frames])
    return replace(clip, frames=frames)


@pytest.mark.slow
def test_late_sound_is_moved_to_the_mouth_if_asked(tmp_path: Path) -> None:
    clip = talking(1002)
    straight = prepare(clip, tmp_path / "straight.mp4")
    moved = prepare(late_sound(clip), tmp_path / "late.mp4", replace(CONFIG, shift_audio=True))
    assert moved.measures["audio_shift"] == pytest.approx(0.6, abs=0.05)
    assert abs(moved.measures["audio_lag"]) <= 0.05
    assert moved.measures["mouth_agreement"] == pytest.approx(straight.measures["mouth_agreement"], abs=0.1)
    assert face_height(moved.tracks[0]) == pytest.approx(face_height(straight.tracks[0]), rel=0.01)
