"""Metrics on landmarks: known values on synthetic landmarks, known directions on videos."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from fantasytalking.evaluation.evaluation_clip import CLIP_SAMPLE_RATE, EvaluationClip
from fantasytalking.evaluation.features.theval_landmarks import (
    LIPS,
    LOWER_LIP,
    UPPER_LIP,
    brow_dynamics,
    lip_dynamics,
    lip_sync,
    silent_lips,
)
from fantasytalking.evaluation.features.voice_activity import frame_volume, speech_frames, true_runs
from fantasytalking.evaluation.metric import Metric
from fantasytalking.evaluation.metrics.motion.blink_rate import BlinkRate, count_blinks
from fantasytalking.evaluation.metrics.motion.output_motion import OutputMotionIntensity
from fantasytalking.evaluation.metrics.motion.theval import THEval
from fantasytalking.evaluation.metrics.motion.theval_score import THEvalScore
from fantasytalking.evaluation.metrics.quality.face_detail import FaceDetail
from fantasytalking.evaluation.metrics.quality.face_fraction import FaceFraction
from fantasytalking.evaluation.metrics.reenactment.head_pose_error import HeadPoseError
from fantasytalking.evaluation.metrics.reenactment.lmd import LMD, centered_distance
from fantasytalking.evaluation.metrics.sync.audio_mouth_gain import AudioMouthGain, lag_correlations
from tests.evaluation.video_edits import delay_audio, delay_frames, freeze_frames, shift_pixels, trim_to_shortest


def summary(metric: Metric, *pairs: tuple[EvaluationClip, EvaluationClip | None]) -> dict[str, float]:
    metric.reset()
    for video, reference in pairs:
        metric.update(video, reference)
    return metric.compute()


@pytest.fixture(scope="module")
def gray() -> EvaluationClip:
    return EvaluationClip.from_arrays(np.full((40, 64, 64, 3), 128, np.uint8), 25.0, np.zeros(25600, np.float32))


@pytest.fixture(scope="module")
def still(clips: list[EvaluationClip]) -> EvaluationClip:
    return freeze_frames(clips[0])


def test_landmark_distance(clips: list[EvaluationClip], still: EvaluationClip, gray: EvaluationClip) -> None:
    points = np.random.default_rng(0).normal(size=(3, 10, 3))
    assert centered_distance(points + np.array([5, 7, 1]), points) == pytest.approx(np.zeros(3), abs=1e-12)
    spread = points * np.array([2, 2, 1])
    expected = np.linalg.norm((points - points.mean(axis=1, keepdims=True))[..., :2], axis=-1).mean(axis=1)
    assert centered_distance(spread, points) == pytest.approx(expected)
    mine, other = trim_to_shortest(clips[0], clips[2])
    same, shifted, swapped = (summary(LMD(), (video, mine)) for video in (mine, shift_pixels(mine, 2, 1), other))
    assert same == {"lmd": 0, "lmd_mouth": 0, "n": 1}
    assert 0 < shifted["lmd"] < 0.04 < swapped["lmd"]
    assert summary(LMD(), (still, clips[0]))["lmd_mouth"] > 2 * shifted["lmd_mouth"]
    assert summary(LMD(), (gray, gray))["n"] == 0


def test_head_pose_distance(clips: list[EvaluationClip], still: EvaluationClip, gray: EvaluationClip) -> None:
    clip = clips[0]
    same, shifted = (summary(HeadPoseError(), (video, clip)) for video in (clip, shift_pixels(clip, 3, 4)))
    assert same == pytest.approx({"pose_angle": 0, "pose_place": 0, "n": 1}, abs=0.01)
    eyes = float(np.nanmean(clip.track.interocular))
    assert shifted["pose_place"] == pytest.approx(5 / eyes, rel=0.1)
    assert shifted["pose_angle"] < 1.5 < summary(HeadPoseError(), (still, clip))["pose_angle"]
    assert summary(HeadPoseError(), (gray, gray))["n"] == 0


def test_distances_grow_with_a_delay(clips: list[EvaluationClip]) -> None:
    clip = clips[0].slice_frames(slice(0, 50))
    late = [delay_frames(clip, frames) for frames in (0, 2, 6)]
    for metric, names in ((LMD(), ("lmd", "lmd_mouth")), (HeadPoseError(), ("pose_angle", "pose_place"))):
        scores = [summary(metric, (video, clip)) for video in late]
        for name in names:
            assert scores[0][name] < 0.2 * scores[1][name] < 0.2 * scores[2][name]


def talking_face(opening: np.ndarray) -> np.ndarray:
    """Returns (T, 478, 3) landmarks with (T,) lip gaps in pixels, eyes 60 px apart and outer corners 90 px."""
    face = np.random.default_rng(0).uniform(0, 200, (478, 3))
    face[[33, 133, 362, 263], :2] = [[40, 80], [70, 80], [100, 80], [130, 80]]
    face[list(UPPER_LIP), 1] = face[list(LOWER_LIP), 1] = 150
    landmarks = np.repeat(face[None], len(opening), axis=0)
    landmarks[:, LOWER_LIP, 1] += opening[:, None]
    return landmarks


def test_theval_measures_of_a_synthetic_face() -> None:
    volume = 0.1 + 0.05 * np.sin(np.arange(50))
    speech = np.ones(50, bool)
    assert lip_sync(talking_face(100 * volume), volume, speech) == pytest.approx(np.zeros(50), abs=1e-6)
    against = np.abs(2 * (volume - volume.min()) / np.ptp(volume) - 1)
    assert lip_sync(talking_face(20 - 100 * volume), volume, speech) == pytest.approx(against, abs=1e-6)
    assert np.isnan(lip_sync(talking_face(100 * volume), volume, np.arange(50) < 4)).all()
    speech = np.arange(50) < 30
    opening = np.where(np.arange(50) % 2, 9.0, 18.0)
    assert silent_lips(talking_face(opening), speech, 25.0) == pytest.approx(4.5 / 90)
    assert np.isnan(silent_lips(talking_face(opening), np.arange(50) < 43, 25.0))
    # All lip points move away from their center by half, then back: distances vary by the same fraction.
    face = talking_face(np.zeros(2))
    center = face[0, list(LIPS)].mean(axis=0)
    face[1][list(LIPS)] += 0.5 * (face[1][list(LIPS)] - center)
    points = face[0, list(LIPS), :2]
    between = np.linalg.norm(points[:, None] - points[None], axis=-1)[np.triu_indices(40, 1)]
    assert lip_dynamics(face, 512, 512) == pytest.approx(0.25 * between.mean() / 2)
    brows = talking_face(np.zeros(6))
    assert brow_dynamics(brows) == 0
    assert len(LIPS) == len(set(LIPS)) == 40


def test_speech_is_where_it_is_loud() -> None:
    volume = np.full(50, 0.0005)
    volume[10:30] = 0.1
    volume[20:22] = 0  # a closure
    assert true_runs(speech_frames(volume, 25.0)) == [(10, 30)]
    volume[20:24] = 0
    assert true_runs(speech_frames(volume, 25.0)) == [(10, 20), (24, 30)]
    assert not speech_frames(np.zeros(50), 25.0).any()


def test_theval_on_videos(clips: list[EvaluationClip], still: EvaluationClip, gray: EvaluationClip) -> None:
    everything = summary(THEval(), (clips[0], None), (clips[1], None), (gray, None))
    assert everything["n"] == everything["theval_speech_n"] == 2
    assert (
        everything["theval_lip_sync"]
        < summary(THEval(), (still, None), (freeze_frames(clips[1]), None))["theval_lip_sync"]
    )
    nothing = summary(THEval(), (still, None))
    for name in ("theval_lip_dynamics", "theval_brow_dynamics"):
        assert nothing[name] < 0.3 * everything[name]
    volume = frame_volume(clips[0])
    assert volume is not None and speech_frames(volume, 25.0).mean() > 0.5
    exact = summary(THEvalScore(), (clips[0], clips[0]), (clips[2], clips[2]))
    assert exact["theval_score_lip_dynamics"] == exact["theval_score_brow_dynamics"] == 1
    assert summary(THEvalScore(), (still, clips[0]))["theval_score_lip_dynamics"] < 0.3


def test_motion_is_lower_in_a_frozen_video(
    clips: list[EvaluationClip], still: EvaluationClip, gray: EvaluationClip
) -> None:
    moving, frozen = (summary(OutputMotionIntensity(), (video, None)) for video in (clips[0], still))
    assert frozen["motion_expression"] < 0.1 * moving["motion_expression"]
    assert frozen["motion_body"] < 0.1 * moving["motion_body"]
    assert summary(OutputMotionIntensity(), (gray, None))["n"] == 0


def test_blinks_are_counted() -> None:
    opening = np.full(100, 0.3)
    opening[10:14] = opening[50:53] = 0.1
    opening[60:62] = 0.2  # not closed enough
    opening[70:95] = 0.05  # closed for too long
    assert count_blinks(opening, 25.0) == 2
    opening[30:40] = np.nan
    assert count_blinks(opening, 25.0) == 2


def test_blink_rate_on_the_portrait_world(
    world: Path, clips: list[EvaluationClip], still: EvaluationClip, gray: EvaluationClip
) -> None:
    known, seconds = 0, 0.0
    for path in sorted(world.glob("id*/truth.json")):
        shut = np.array([frame["blink"] for frame in json.loads(path.read_text())["frames"]])
        known += len(true_runs(shut > 0.6))
        seconds += len(shut) / 25
    found = summary(BlinkRate(), *((clip, None) for clip in clips))
    assert found["n"] == 4
    assert abs(found["blink_rate"] * seconds / 60 - known) <= 1
    assert summary(BlinkRate(), (still, None)) == {"blink_rate": 0, "n": 1}
    assert summary(BlinkRate(), (gray, None))["n"] == 0


def longer(clip: EvaluationClip, times: int) -> EvaluationClip:
    """Returns the clip forwards and backwards with its audio, `times` times."""
    whole = len(clip.frames) * 640
    audio = np.pad(clip.audio, (0, whole - len(clip.audio)))
    frames = np.concatenate([clip.frames, clip.frames[::-1]] * times)
    return EvaluationClip.from_arrays(frames, 25.0, np.concatenate([audio, audio[::-1]] * times))


def test_mouth_and_loudness_correlate_for_the_own_audio_only(clips: list[EvaluationClip], gray: EvaluationClip) -> None:
    volume = np.random.default_rng(0).normal(size=200)
    late = lag_correlations(np.roll(volume, 3), volume, 12)
    assert late.argmax() - 12 == 3 and late.max() == pytest.approx(1, abs=0.05)
    assert lag_correlations(np.roll(volume, 30), volume, 12).max() < 0.4
    clip = longer(clips[0], 1)
    assert len(clip.audio) / CLIP_SAMPLE_RATE >= 3
    own, early = (summary(AudioMouthGain(), (video, None)) for video in (clip, delay_audio(clip, -8)))
    assert own["envelope_gain"] > early["envelope_gain"] + 0.1
    assert abs(own["envelope_lag"]) <= 0.12
    assert early["envelope_lag"] - own["envelope_lag"] == pytest.approx(8 / 25, abs=0.05)
    for video in (clips[0].slice_frames(slice(0, 60)), freeze_frames(clip), gray):
        assert summary(AudioMouthGain(), (video, None))["n"] == 0


def test_the_face_takes_a_fraction_of_the_frame(clips: list[EvaluationClip], gray: EvaluationClip) -> None:
    boxes = clips[0].track.boxes
    height = float(np.nanmedian(boxes[:, 3] - boxes[:, 1])) / clips[0].frames.shape[1]
    assert summary(FaceFraction(), (clips[0], None)) == pytest.approx({"face_fraction": height, "n": 1})
    assert 0.2 < height < 0.9 and summary(FaceFraction(), (gray, None))["n"] == 0


def test_blur_lowers_the_detail_of_the_face(clips: list[EvaluationClip], gray: EvaluationClip) -> None:
    frames = clips[0].frames[:10]

    def detail(edited: np.ndarray) -> float:
        clip = EvaluationClip.from_arrays(np.ascontiguousarray(edited), 25.0, np.zeros(6400, np.float32))
        return summary(FaceDetail(), (clip, None))["face_detail"]

    sharp = detail(frames)
    blurred = [detail(np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames])) for sigma in (0.8, 1.6)]
    assert 0.9 * sharp > blurred[0] > 1.1 * blurred[1] > 0
    half = np.stack([cv2.resize(frame, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) for frame in frames])
    assert detail(half) == pytest.approx(sharp, rel=0.2)  # relative to the face
    assert summary(FaceDetail(), (gray, None))["n"] == 0
