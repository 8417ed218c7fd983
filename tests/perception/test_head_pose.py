"""Rigid head motion and expression are separated."""

import numpy as np
import pytest

from fantasytalking.common.errors import ErrorCode
from fantasytalking.perception.face_crop import SquareCrop, face_crop, five_points
from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.head_pose import SKULL_LANDMARKS, head_pose
from fantasytalking.perception.landmark_measures import mouth_opening
from tests.helpers.errors import raises_input_error
from tests.perception.conftest import SIZE, DrawnScene


def turned(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Rotation of a face: x right, y down, z away; positive yaw to the right, pitch down, roll top to the right."""
    cos, sin = np.cos, np.sin
    about_y = np.array([[cos(yaw), 0, -sin(yaw)], [0, 1, 0], [sin(yaw), 0, cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, cos(pitch), -sin(pitch)], [0, sin(pitch), cos(pitch)]])
    about_z = np.array([[cos(roll), -sin(roll), 0], [sin(roll), cos(roll), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def moved(shape: np.ndarray, angles: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return np.stack([s * shape @ turned(*a).T + t for a, s, t in zip(angles, scale, shift, strict=True)])


def test_a_rigid_face_has_its_pose_and_no_expression(track: FaceTrack) -> None:
    shape = head_pose(track.landmarks[:1]).local_landmarks[0]
    time = np.linspace(0, 6, 60)
    angles = np.stack([0.4 * np.sin(time), 0.2 * np.sin(2 * time), 0.3 * np.cos(time) - 0.3], axis=1)
    scale, shift = 50 + 10 * np.sin(time), np.stack([100 + 20 * time, 80 - 5 * time, 0 * time], axis=1)
    pose = head_pose(moved(shape, angles, scale, shift))
    assert pose.local_landmarks.std(axis=0).max() < 1e-6
    assert pose.scale / pose.scale.mean() == pytest.approx(scale / scale.mean(), rel=1e-6)
    one = moved(shape, angles, scale, shift)
    assert pose.translation == pytest.approx(one[:, SKULL_LANDMARKS].mean(axis=1), abs=1e-6)
    # Rotations about one axis are recovered completely; the mean shape is frontal, so no offset remains.
    for axis in range(3):
        single = np.zeros((60, 3))
        single[:, axis] = 0.35 * np.sin(3 * time)
        measured = head_pose(moved(shape, single, scale, shift)).angles
        measured = measured - measured[0]
        assert measured == pytest.approx(single, abs=0.02)


def test_expression_remains_after_the_pose_is_removed(track: FaceTrack) -> None:
    pose = head_pose(track.landmarks)
    assert np.corrcoef(mouth_opening(pose.local_landmarks), mouth_opening(track.landmarks))[0, 1] > 0.999
    lips, skull = (
        pose.local_landmarks[:, [13, 14]].std(axis=0).mean(),
        pose.local_landmarks[:, SKULL_LANDMARKS].std(axis=0).mean(),
    )
    assert lips > 2 * skull


def test_yaw_and_roll_follow_the_drawn_head(talker: DrawnScene, track: FaceTrack) -> None:
    angles = head_pose(track.landmarks).angles
    assert np.corrcoef(angles[:, 0], talker.yaw)[0, 1] > 0.97
    assert np.corrcoef(angles[:, 2], talker.yaw)[0, 1] > 0.97  # drawn with half the yaw as roll
    assert np.polyfit(talker.yaw / 2, angles[:, 2], 1)[0] == pytest.approx(1.0, abs=0.15)


def test_unknown_frames_stay_unknown(track: FaceTrack) -> None:
    points = track.landmarks.copy()
    points[4:7] = np.nan
    pose = head_pose(points)
    assert np.isnan(pose.angles[4:7]).all() and np.isnan(pose.local_landmarks[4:7]).all()
    assert np.isfinite(np.delete(pose.angles, [4, 5, 6], axis=0)).all()
    with raises_input_error(ErrorCode.no_face, "landmarks"):
        head_pose(np.full((3, 478, 3), np.nan))


def test_face_crops(talker: DrawnScene, track: FaceTrack) -> None:
    crop = face_crop(track.landmarks[0], margin=0.25)
    box = track.boxes[0]
    assert crop.side == pytest.approx((box[2:] - box[:2]).max() * 1.5, abs=1)
    assert crop.x <= box[0] and crop.y <= box[1] and crop.x + crop.side >= box[2] and crop.y + crop.side >= box[3]
    assert crop.extract(talker.frames[0], 64).shape == (64, 64, 3)
    inside = face_crop(track.landmarks, margin=2.0, image_size=(SIZE, SIZE))
    assert inside == SquareCrop(0, 0, SIZE)
    beyond = face_crop(track.landmarks[0], margin=1.5)
    assert beyond.extract(talker.frames[0]).shape == (beyond.side, beyond.side, 3)
    with raises_input_error(ErrorCode.no_face, "landmarks"):
        face_crop(np.full((478, 3), np.nan))
    with raises_input_error(ErrorCode.out_of_range, "margin", -1):
        face_crop(track.landmarks[0], margin=-1)


def test_five_points_fit_the_template_of_arcface(track: FaceTrack) -> None:
    face_align = pytest.importorskip("insightface.utils.face_align")
    points = five_points(track.landmarks[0])
    assert points.shape == (5, 2) and points.dtype == np.float32
    matrix = face_align.estimate_norm(points, 112)
    placed = points @ matrix[:, :2].T + matrix[:, 2]
    assert np.abs(placed - face_align.arcface_dst).max() < 6
    assert five_points(track.landmarks).shape == (len(track.times), 5, 2)
