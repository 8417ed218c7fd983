"""Motion intensity is independent of frame rate, face size and length, and normalized by saved constants."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.media import read_video
from fantasytalking.motion_normalizer import MotionMeasure, MotionNormalizer
from fantasytalking.perception.body_pose import BodyTrack, track_body
from fantasytalking.perception.face_track import FaceTrack, track_faces
from fantasytalking.perception.head_pose import head_pose
from fantasytalking.perception.motion_intensity import measure_motion
from tests.helpers.errors import raises_input_error


def performance(
    shape: np.ndarray,
    *,
    fps: float,
    mouth: float,
    sway: float,
    size: float = 60.0,
    noise: float = 0.0,
    seconds: float = 6,
) -> FaceTrack:
    """A face whose chin and lower lip move by `mouth` and whose head sways by `sway`, in interocular distances."""
    times = np.arange(int(seconds * fps)) / fps
    points = np.repeat(shape[None], len(times), axis=0)
    opening = mouth * (0.5 - 0.5 * np.cos(2 * np.pi * 2.3 * times)) * (1 + 0.5 * np.sin(0.9 * times))
    points[:, [14, 17, 84, 314, 178, 402, 152, 148, 377, 176, 400], 1] += opening[:, None]
    points = points * size + [150, 150, 0]
    points[..., 0] += size * sway * np.sin(2 * np.pi * 0.6 * times)[:, None]
    points += np.random.default_rng(0).normal(0, noise, points.shape)
    every = np.ones(len(times), bool)
    return FaceTrack(times, points.astype(np.float32), every, ~every, every.astype(np.float32), 300, 300)


@pytest.fixture
def shape(track: FaceTrack) -> np.ndarray:
    return head_pose(track.landmarks[:1]).local_landmarks[0]


def body_of(face: FaceTrack, *, sway: float, visibility: float = 1.0) -> BodyTrack:
    joints = (
        np.repeat(np.linspace(50, 250, 33)[None, :, None], len(face.times), axis=0).repeat(3, axis=2).astype(np.float32)
    )
    joints[:, 0] = face.landmarks[:, 1]
    joints[:, 1:, 0] += 60 * sway * np.sin(2 * np.pi * 0.6 * face.times)[:, None]
    return BodyTrack(face.times, joints, np.full((len(face.times), 33), visibility, np.float32))


def test_frame_rate_does_not_matter(shape: np.ndarray) -> None:
    fast = measure_motion(performance(shape, fps=25, mouth=0.2, sway=0.1))
    for fps in (12.5, 29.97, 60):
        other = measure_motion(performance(shape, fps=fps, mouth=0.2, sway=0.1))
        assert tuple(other) == pytest.approx(tuple(fast), rel=0.1)


def test_face_size_does_not_matter(shape: np.ndarray) -> None:
    large = measure_motion(performance(shape, fps=25, mouth=0.2, sway=0.1, size=90))
    small = measure_motion(performance(shape, fps=25, mouth=0.2, sway=0.1, size=30))
    assert tuple(small) == pytest.approx(tuple(large), rel=0.02)


def test_length_does_not_matter(shape: np.ndarray) -> None:
    # The motion of this mouth repeats every 7 seconds; a slow drift of the whole head must not accumulate.
    short, long = (performance(shape, fps=25, mouth=0.2, sway=0.1, seconds=seconds) for seconds in (7, 42))
    for face in (short, long):
        face.landmarks[..., 0] += (face.times * 2)[:, None]
    assert tuple(measure_motion(long)) == pytest.approx(tuple(measure_motion(short)), rel=0.1)


def test_jitter_of_small_faces_is_mostly_removed(shape: np.ndarray) -> None:
    clean = measure_motion(performance(shape, fps=25, mouth=0.2, sway=0.1, size=23))
    noisy = measure_motion(performance(shape, fps=25, mouth=0.2, sway=0.1, size=23, noise=0.3))
    assert tuple(noisy) == pytest.approx(tuple(clean), rel=0.15)


def test_expression_and_body_are_separate_and_grow_with_the_motion(shape: np.ndarray) -> None:
    measures = {
        (mouth, sway): measure_motion(performance(shape, fps=25, mouth=mouth, sway=sway))
        for mouth in (0.1, 0.2, 0.4)
        for sway in (0.05, 0.1, 0.2)
    }
    for sway in (0.05, 0.1, 0.2):
        expression = [measures[mouth, sway].expression for mouth in (0.1, 0.2, 0.4)]
        assert expression == pytest.approx([expression[0] * factor for factor in (1, 4, 16)], rel=0.05)
    for mouth in (0.1, 0.2, 0.4):
        body = [measures[mouth, sway].body for sway in (0.05, 0.1, 0.2)]
        assert body == pytest.approx([body[0] * factor for factor in (1, 4, 16)], rel=0.05)
        assert measures[mouth, 0.2].expression == pytest.approx(measures[mouth, 0.05].expression, rel=0.05)


def test_joints_count_if_they_are_visible_and_of_this_person(shape: np.ndarray) -> None:
    face = performance(shape, fps=25, mouth=0.2, sway=0.1)
    alone = measure_motion(face).body
    assert measure_motion(face, body_of(face, sway=0.3)).body > 1.5 * alone
    assert measure_motion(face, body_of(face, sway=0.3, visibility=0.4)).body == alone
    assert measure_motion(face, body_of(face, sway=0.01)).body == pytest.approx(alone, rel=1e-6)  # within the jitter
    body = body_of(face, sway=0.3)
    somebody_else = body._replace(joints=body.joints + np.float32(200))
    assert measure_motion(face, somebody_else).body == alone


def test_gaps_are_ignored(shape: np.ndarray) -> None:
    face = performance(shape, fps=25, mouth=0.2, sway=0.1)
    landmarks, present = face.landmarks.copy(), face.present.copy()
    landmarks[60:70], present[60:70] = np.nan, False
    broken = replace(face, landmarks=landmarks, present=present)
    assert tuple(measure_motion(broken)) == pytest.approx(tuple(measure_motion(face)), rel=0.2)
    with raises_input_error(ErrorCode.no_face, "track", 8):
        measure_motion(face[:8])


def test_a_still_face_does_not_move(shape: np.ndarray) -> None:
    still = measure_motion(performance(shape, fps=25, mouth=0.0, sway=0.0))
    assert still.expression < 1e-8 and still.body < 1e-8


def test_the_normalizer_is_monotone_clipped_and_spreads_the_corpus() -> None:
    rng = np.random.default_rng(0)
    measures = [MotionMeasure(*np.exp(rng.normal(-7, 1, 2))) for _ in range(200)]
    normalizer = MotionNormalizer.fit(measures)
    values = np.array([normalizer.normalize(measure) for measure in measures])
    assert (values == 0).mean(axis=0) == pytest.approx([0.1, 0.1], abs=0.01)
    assert (values == 1).mean(axis=0) == pytest.approx([0.1, 0.1], abs=0.01)
    assert np.median(values, axis=0) == pytest.approx([0.5, 0.5], abs=0.1)
    for axis in range(2):
        order = np.argsort([measure[axis] for measure in measures])
        assert (np.diff(values[order, axis]) >= 0).all()
    assert normalizer.normalize(MotionMeasure(0.0, 1e9)) == (0.0, 1.0)
    wild = MotionNormalizer.fit([*measures, MotionMeasure(1e6, 1e6)])
    assert wild.normalize(measures[0]) == pytest.approx(normalizer.normalize(measures[0]), abs=0.05)


def test_a_corpus_of_one_clip_is_neutral() -> None:
    one = MotionMeasure(0.001, 0.01)
    assert MotionNormalizer.fit([one]).normalize(one) == pytest.approx((0.5, 0.5))


def test_constants_are_saved_and_checked(tmp_path: Path) -> None:
    normalizer = MotionNormalizer.fit([MotionMeasure(0.001, 0.01), MotionMeasure(0.01, 0.2)])
    normalizer.save(tmp_path / "motion.json")
    assert MotionNormalizer.load(tmp_path / "motion.json") == normalizer
    good = json.loads((tmp_path / "motion.json").read_text())
    bad = [
        "",
        "[]",
        "{}",
        json.dumps({**good, "more": 1}),
        json.dumps({**good, "body_low": "x"}),
        json.dumps({**good, "body_low": 99.0}),
        json.dumps({**good, "body_low": -1}),
        '{"a": NaN}',
        json.dumps({**good, "body_high": float("inf")}),
    ]
    for text in bad:
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError) as error:
            MotionNormalizer.load(tmp_path / "bad.json")
        assert "\n" not in str(error.value)
    with pytest.raises(InputError):
        MotionNormalizer.load(tmp_path / "missing.json")
    for measures in ([], [MotionMeasure(float("nan"), 1.0)], [MotionMeasure(-1.0, 1.0)]):
        with pytest.raises(InputError):
            MotionNormalizer.fit(measures)


@pytest.mark.slow
def test_rate_and_resolution_do_not_matter_on_real_videos(real_media: Path) -> None:
    for name in ("talk_29.97fps.mp4", "talk_variable_24.6fps.mp4"):
        video = read_video(real_media / "videos" / name)

        def measured(frames: np.ndarray, times: np.ndarray) -> MotionMeasure:
            return measure_motion(track_faces(frames, times)[0], track_body(frames, times))

        full = tuple(measured(video.frames, video.times))
        assert tuple(measured(video.frames[::2], video.times[::2])) == pytest.approx(full, rel=0.1)
        half = np.stack([cv2.resize(frame, (256, 256), interpolation=cv2.INTER_AREA) for frame in video.frames])
        assert tuple(measured(half, video.times)) == pytest.approx(full, rel=0.1)
