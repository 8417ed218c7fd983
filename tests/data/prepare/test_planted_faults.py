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
from fantasytalking.data.prepare.clip_limits import first_failure
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
    late_sound,
    other_speech,
    talking,
)

PEOPLE = range(1000, 1012)
FAULTY = range(1000, 1003)
SYNTHETIC_AGREEMENT = 0.45
"""`min_mouth_agreement` for synthetic faces."""
ALSO = {
    RejectionReason.BLURRED: {RejectionReason.LOW_CONFIDENCE, RejectionReason.LOW_DETAIL},
    RejectionReason.PROFILE: {RejectionReason.LOW_CONFIDENCE},
    RejectionReason.SOUND_SHIFTED: {RejectionReason.OUT_OF_SYNC},
}
"""Other reasons that are as true: the detector is unsure of blurred faces and profiles."""
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
    """Prints the table of docs/data.md. Clean clips are all kept by the default limits, or `prepare` raises."""
    config = replace(CONFIG, min_mouth_agreement=SYNTHETIC_AGREEMENT)
    measured = {identity: prepare(talking(identity), tmp_path / "clean.mp4").measures for identity in PEOPLE}
    failures = {identity: first_failure(values, config) for identity, values in measured.items()}
    clean = {identity: None if failure is None else failure[0] for identity, failure in failures.items()}
    found: dict[str, list[RejectionReason | None]] = {}
    expected: dict[str, RejectionReason] = {}
    for identity in FAULTY:
        for name, reason, clip in planted(identity):
            expected[name] = reason
            found.setdefault(name, []).append(reason_of(clip, tmp_path / "faulty.mp4", config))
        copies = DuplicateSearch(config.min_duplicate_distance)
        original = prepare(talking(identity), tmp_path / "original.mp4")
        copy = prepare(smaller(talking(identity)), tmp_path / "copy.mp4")
        assert copies.check("a", 0.0, original.hashes) is None
        again = copies.check("b", 0.0, copy.hashes)
        expected["a copy, 0.8 times as large"] = RejectionReason.DUPLICATE
        found.setdefault("a copy, 0.8 times as large", []).append(None if again is None else again[0])
    kept = sum(reason is None for reason in clean.values())
    table = [f"\nclean clips kept with min_mouth_agreement={SYNTHETIC_AGREEMENT}: {kept} of {len(clean)}"]
    table += [
        "| planted | reason | rejected | with this reason | clean clips with this reason |",
        "|---|---|---|---|---|",
    ]
    for name, reasons in found.items():
        right = sum(reason is expected[name] for reason in reasons)
        others = sorted({str(reason) for reason in reasons if reason is not expected[name]})
        wrong = sum(reason is expected[name] for reason in clean.values())
        count = f"{right}{', else ' + ', '.join(others) if others else ''}"
        all_rejected = f"{sum(reason is not None for reason in reasons)} of {len(reasons)}"
        table.append(f"| {name} | `{expected[name]}` | {all_rejected} | {count} | {wrong} of {len(clean)} |")
    sys.stdout.write("\n".join([*table, ""]))
    for name, reasons in found.items():
        assert None not in reasons, name
        assert set(reasons) <= {expected[name]} | ALSO.get(expected[name], set()), (name, reasons)


def smaller(clip: TalkingClip) -> TalkingClip:
    side = round(0.8 * SIZE / 2) * 2
    frames = np.stack([cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA) for frame in clip.frames])
    return replace(clip, frames=frames)


@pytest.mark.slow
def test_late_sound_is_moved_to_the_mouth_if_asked(tmp_path: Path) -> None:
    clip = talking(1002)
    straight = prepare(clip, tmp_path / "straight.mp4")
    shorter = replace(CONFIG, frames=65, shift_audio=True)  # what belongs to the last frames is beyond the video's end
    moved = prepare(late_sound(clip), tmp_path / "late.mp4", shorter)
    assert moved.measures["audio_shift"] == pytest.approx(0.6, abs=0.05)
    assert abs(moved.measures["audio_lag"]) <= 0.05
    assert moved.measures["mouth_agreement"] == pytest.approx(straight.measures["mouth_agreement"], abs=0.15)
    assert reason_of(late_sound(clip), tmp_path / "end.mp4", replace(CONFIG, shift_audio=True)) is (
        RejectionReason.SOUND_SHIFTED
    )
