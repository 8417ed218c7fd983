"""Body joints, segmentation, contact sheets and smoothed signals."""

import numpy as np
import pytest

from fantasytalking.common.errors import ErrorCode
from fantasytalking.perception.body_pose import track_body
from fantasytalking.perception.contact_sheet import contact_sheet
from fantasytalking.perception.face_crop import face_crop
from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.lip_mask import lip_mask
from fantasytalking.perception.segmentation import iter_subject_masks, subject_masks
from fantasytalking.perception.signals import loudness_envelope, smooth_at, smooth_to_grid
from tests.helpers.errors import raises_input_error
from tests.perception.conftest import SIZE, DrawnScene


def test_shoulders_and_nose_are_found(talker: DrawnScene, track: FaceTrack) -> None:
    body = track_body(talker.frames[:6], talker.times[:6])
    assert body.joints.shape == (6, 33, 3) and body.visibility.shape == (6, 33)
    boxes = track.boxes[:6]
    nose = body.joints[:, 0, :2]
    assert ((nose > boxes[:, :2]) & (nose < boxes[:, 2:])).all()
    left, right = body.joints[:, 12, 0], body.joints[:, 11, 0]  # the right shoulder is on the left of the image
    assert (left < nose[:, 0]).all() and (nose[:, 0] < right).all()
    assert (body.visibility[:, [11, 12]] > 0.5).all()


def test_no_body_is_unknown(talker: DrawnScene) -> None:
    frames = np.concatenate([np.zeros_like(talker.frames[:8]), talker.frames[:6]])
    body = track_body(zip(range(14), frames, strict=True))
    assert np.isnan(body.joints[:8]).all() and (body.visibility[:8] == 0).all()
    assert np.isfinite(body.joints[-1]).all()
    with raises_input_error(ErrorCode.missing_value, "frames"):
        track_body(talker.frames[:0], talker.times[:0])
    with raises_input_error(ErrorCode.shape_mismatch, "times", 3):
        track_body(talker.frames, talker.times[:3])
    with raises_input_error(ErrorCode.shape_mismatch, "times", 0):
        track_body(talker.frames)


def test_the_mask_contains_the_face_and_not_the_corners(talker: DrawnScene, track: FaceTrack) -> None:
    masks = subject_masks(talker.frames[:4])
    assert masks.shape == (4, SIZE, SIZE) and masks.dtype == np.float32
    assert masks.min() >= 0 and masks.max() <= 1
    for mask, points in zip(masks, track.landmarks[:4], strict=True):
        x, y = points[1, :2].astype(int)
        assert mask[y, x] > 0.8
        assert mask[:8, :8].mean() < 0.2 and mask[:8, -8:].mean() < 0.2
    assert np.array_equal(np.stack(list(iter_subject_masks(iter(talker.frames[:4])))), masks)


def test_a_contact_sheet_shows_its_annotations(talker: DrawnScene, track: FaceTrack) -> None:
    frames = talker.frames[:5]
    plain = contact_sheet(frames, columns=3, tile=96)
    assert plain.dtype == np.uint8 and plain.shape == (8 + 2 * 104, 8 + 3 * 104, 3)
    landmarks = track.landmarks[:5].copy()
    landmarks[4] = np.nan
    drawn = contact_sheet(
        frames,
        landmarks=landmarks,
        masks=lip_mask(landmarks, SIZE, SIZE),
        crops=[*(face_crop(points, 0.2, image_size=(SIZE, SIZE)) for points in landmarks[:4]), None],
        columns=3,
        tile=96,
    )
    assert drawn.shape == plain.shape
    different = (drawn != plain).any(axis=2)
    assert different[8:104, 8:104].mean() > 0.05
    assert not different[112:208, 112:208].any()  # the fifth has nothing to draw
    for color in ((255, 80, 90), (255, 200, 60)):
        assert (np.abs(drawn.astype(int) - color).max(axis=2) < 50).any()


def test_captions_and_titles_add_lines(talker: DrawnScene) -> None:
    frames = [talker.frames[0], talker.frames[1, :64]]
    sheet = contact_sheet(
        frames, captions=["first", "a caption that is much too long for its tile " * 3], title="t", tile=80
    )
    assert sheet.shape == (8 + 30 + 80 + 8 + 22, 8 + 2 * 88, 3)
    with raises_input_error(ErrorCode.shape_mismatch, "captions", 1):
        contact_sheet(frames, captions=["one"])
    with raises_input_error(ErrorCode.shape_mismatch, "masks", 3):
        contact_sheet(frames, masks=np.zeros((3, SIZE, SIZE)))
    with raises_input_error(ErrorCode.missing_value, "frames"):
        contact_sheet([])


def test_smoothing_uses_timestamps_and_skips_gaps() -> None:
    times = np.sort(np.random.default_rng(0).uniform(0, 4, 400))
    values = 3 * times + 1
    even = np.arange(1, 3, 0.1)
    assert smooth_at(values, times, even, 0.1) == pytest.approx(3 * even + 1, abs=0.08)
    values[(times > 1.5) & (times < 2.5)] = np.nan
    smoothed = smooth_at(values, times, even, 0.05)
    assert np.isnan(smoothed[np.isclose(even, 2.0)]).all()
    assert smoothed[even < 1.3] == pytest.approx(3 * even[even < 1.3] + 1, abs=0.08)
    assert len(smooth_to_grid(np.zeros((50, 2)), np.arange(50) / 12.5, 0.1)) == 99


def test_loudness_is_the_root_mean_square_around_a_time() -> None:
    sound = np.concatenate([np.zeros(8000), np.full(8000, 0.5)]).astype(np.float32)
    assert loudness_envelope(sound, 16000, np.array([0.2, 0.5, 0.8, 5.0])) == pytest.approx(
        [0, 0.5 / np.sqrt(2), 0.5, 0], abs=1e-6
    )
