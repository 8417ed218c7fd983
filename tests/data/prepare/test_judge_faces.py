"""Clips of several people are accepted only if every face is sharp and moves."""

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode
from fantasytalking.data.manifest import ClipRecord, ClipRejected, Rejection, RejectionReason, read_rejections
from fantasytalking.data.prepare.clip import PreparedClip, prepare_clip
from fantasytalking.data.prepare.clip_limits import ClipLimits
from fantasytalking.data.prepare.clip_measures import ClipMeasures, measure_people, measure_visibility
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.data.prepare.plan import SceneClip, VideoFile
from fantasytalking.media import write_video
from fantasytalking.models.presets import model_presets
from fantasytalking.perception.multi_person_filter import MultiPersonFilterConfig
from fantasytalking.portrait_world.motion.animation import WORLD_FPS
from tests.data.preparation_runs import run_in_process, small_config
from tests.helpers.errors import raises_input_error
from tests.perception.faulty_clips import STEP, FaultyClipRenderer

HEIGHT, SEED, SECONDS, FRAMES, FPS = 96, 10, 1.4, 17, WORLD_FPS / STEP
RATE = 16000


def write(path: Path, frames: np.ndarray) -> None:
    """Writes a video whose audio is a tone."""
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(round(len(frames) / FPS * RATE)) / RATE)
    write_video(path, frames, fps=FPS, audio=tone.astype(np.float32), sample_rate=RATE)


def judge(clip: PreparedClip, limits: ClipLimits) -> None:
    """Measures the people of a clip again and applies limits."""
    measures = ClipMeasures(limits)
    measures.add(measure_visibility(clip.tracks))
    measures.add(measure_people(clip.frames, clip.tracks, clip.waveform, 1.0))


def clip_of(folder: Path, name: str) -> SceneClip:
    path = folder / name
    return SceneClip(VideoFile(path, name, path.stat().st_size), 0.0, None)


@dataclass
class Judged:
    """A prepared folder with a good clip, one with static faces and a blurred one."""

    videos: Path
    output: Path
    config: PreparationConfig
    records: list[ClipRecord]
    rejections: dict[str, Rejection]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, components: Path, driver: Path) -> Judged:
    cv2.setNumThreads(1)
    videos, output = tmp_path_factory.mktemp("several"), tmp_path_factory.mktemp("judged") / "out"
    good = FaultyClipRenderer(HEIGHT, SEED, SECONDS).clip("two moving").frames
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.6) for frame in good])
    write(videos / "good.mp4", good)
    write(videos / "blurred.mp4", blurred)
    write(videos / "still.mp4", FaultyClipRenderer(HEIGHT, SEED, SECONDS).clip("two still").frames)
    size = {"buckets": ["160x96"], "fps": FPS, "frames": FRAMES, "contact_sheet_clips": 0, "min_face_confidence": 0.5}
    config = small_config(components, max_people=2, expression_encoder=str(driver), filter_people=True, **size)
    records, _ = run_in_process(videos, output, config)
    rejections = {rejection.video: rejection for rejection in read_rejections(output / "rejected.jsonl")}
    return Judged(videos, output, config, records, rejections)


@pytest.fixture(scope="module")
def good(judged: Judged) -> PreparedClip:
    return prepare_clip(clip_of(judged.videos, "good.mp4"), judged.config)


def test_moving_people_are_accepted_and_the_others_rejected_with_value_and_limit(judged: Judged) -> None:
    assert [(record.video, record.people) for record in judged.records] == [("good.mp4", 2)]
    assert {video: rejection.reason for video, rejection in judged.rejections.items()} == {
        "blurred.mp4": RejectionReason.BLURRED,
        "still.mp4": RejectionReason.STATIC_FACES,
    }
    assert "the blur of a face is 0." in judged.rejections["blurred.mp4"].detail
    assert "at most 0.62 is allowed" in judged.rejections["blurred.mp4"].detail
    assert "squared interocular distances; at least 0.0001 is needed" in judged.rejections["still.mp4"].detail


@pytest.mark.parametrize("video", ["still.mp4", pytest.param("blurred.mp4", marks=pytest.mark.slow)])
def test_people_are_not_filtered_by_default(judged: Judged, video: str) -> None:
    prepared = prepare_clip(clip_of(judged.videos, video), replace(judged.config, filter_people=False))
    assert len(prepared.tracks) == 2


def test_a_single_static_person_is_filtered_by_the_mouth(judged: Judged, tmp_path: Path) -> None:
    renderer = FaultyClipRenderer(HEIGHT, SEED, SECONDS)
    write(tmp_path / "alone.mp4", np.stack(list(renderer.still(1))))
    config = replace(judged.config, buckets=["96x96"])
    with pytest.raises(ClipRejected) as refused:
        prepare_clip(clip_of(tmp_path, "alone.mp4"), config)
    assert refused.value.reason is RejectionReason.STILL_MOUTH
    assert len(prepare_clip(clip_of(tmp_path, "alone.mp4"), replace(config, min_mouth_speed=0.0)).tracks) == 1


@pytest.mark.parametrize(
    ("limit", "reason", "detail"),
    [
        ({"max_face_blur": 0.1}, RejectionReason.BLURRED, "at most 0.1 is allowed"),
        ({"min_face_movement": 0.9}, RejectionReason.STATIC_FACES, "at least 0.9 is needed"),
        ({"min_face_pixels": 90}, RejectionReason.FACE_TOO_SMALL, "pixels high; at least 90 are needed"),
        ({"max_face_blur": 0.1, "min_face_movement": 0.9}, RejectionReason.BLURRED, "; the movement of a face"),
    ],
)
def test_every_limit_counts(
    judged: Judged, good: PreparedClip, limit: dict[str, float], reason: RejectionReason, detail: str
) -> None:
    config = replace(judged.config, **limit)  # type: ignore[arg-type]
    config.validate()
    judge(good, judged.config)
    with pytest.raises(ClipRejected) as refused:
        judge(good, config)
    assert refused.value.reason is reason and detail in refused.value.detail


def test_people_who_are_rarely_visible_together_are_rejected(judged: Judged, good: PreparedClip) -> None:
    in_turn = []
    for track, seen in zip(good.tracks, (slice(0, 12), slice(5, FRAMES)), strict=True):
        part = np.zeros(FRAMES, bool)
        part[seen] = True
        landmarks = np.where(part[:, None, None], track.landmarks, np.nan).astype(np.float32)
        in_turn.append(
            replace(track, landmarks=landmarks, present=track.present & part, interpolated=track.interpolated & part)
        )
    with pytest.raises(ClipRejected, match=r"visible together in 41% of the frames; at least 65% are needed"):
        judge(replace(good, tracks=tuple(in_turn)), replace(judged.config, min_visible_fraction=0.65))


def test_upscaled_faces_are_allowed_more_jitter(good: PreparedClip) -> None:
    samples = np.zeros(RATE, np.float32)
    left = [measure_people(good.frames, good.tracks, samples, scale)["face_movement"] for scale in (0.0, 1.0)]
    assert left[1] < left[0]


def test_presets_filter_people_and_earlier_corpora_keep_their_fingerprints() -> None:
    for model in model_presets():
        on = model != "nano"
        assert load_config(PreparationConfig, preset_path(model, "data"), []).filter_people is on
    alone = PreparationConfig(base="somewhere")
    assert replace(alone, filter_people=True).fingerprint() == alone.fingerprint()
    several = replace(alone, max_people=2, expression_encoder="a")
    assert several.fingerprint() == several.fingerprint_with_limits() == "33fc3a3b39d82123", "of earlier corpora"
    on = replace(several, filter_people=True)
    assert on.fingerprint() == replace(on, max_face_blur=0.5).fingerprint() == several.fingerprint()
    earlier = {config.fingerprint_with_limits() for config in (several, on, replace(on, max_face_blur=0.5))}
    assert len(earlier) == 3
    assert on.max_face_blur == MultiPersonFilterConfig().max_blur
    assert on.min_face_movement == MultiPersonFilterConfig().min_movement
    assert on.min_face_pixels == MultiPersonFilterConfig().min_face_pixels
    with raises_input_error(ErrorCode.conflict, "min_face_size", 0) as error:
        replace(on, min_face_size=0).validate()
    assert "filter_people" in str(error.value)
