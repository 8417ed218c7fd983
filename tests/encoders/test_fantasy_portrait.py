"""The detector and landmark network of the released front end: single images, videos, and malformed files."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.encoders.expression import ExpressionEncoder, copy_expression_encoder
from fantasytalking.encoders.fantasy_portrait.detector import FantasyPortraitDetector
from fantasytalking.encoders.fantasy_portrait.landmarks import (
    SMOOTHING_GROUPS,
    FantasyPortraitLandmarks,
    PointSmoother,
    crop_from_box,
    crop_from_points,
    eye_angle,
)
from fantasytalking.encoders.fantasy_portrait.tracker import (
    DETECTOR_FILE,
    LANDMARKS_FILE,
    FantasyPortraitFaceTracker,
    FantasyPortraitNetworks,
)
from tests.helpers.errors import raises_input_error
from tests.helpers.fantasy_portrait_networks import SHAPE, save_fantasy_portrait

SIDES = {"wide": (180, 320), "high": (400, 150)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three files of the released front end."""
    path = tmp_path_factory.mktemp("released")
    save_fantasy_portrait(path)
    return path


@pytest.fixture(scope="module")
def faces(folder: Path) -> FantasyPortraitNetworks:
    found = FantasyPortraitNetworks.from_folder(folder)
    assert found is not None
    return found


def picture(size: tuple[int, int], *spots: tuple[float, float], radius: int = 24) -> NDArray[np.uint8]:
    """Red spots on dark blue, RGB."""
    frame = np.zeros((*size, 3), np.uint8)
    frame[..., 2] = 60
    for x, y in spots:
        cv2.circle(frame, (round(x), round(y)), radius, (255, 0, 0), -1)
    return frame


def five(x: float, y: float) -> NDArray[np.float64]:
    """Approximate points of a face at a position."""
    return np.array([[x - 8, y - 5], [x + 8, y - 5], [x, y], [x - 6, y + 8], [x + 6, y + 8]])


@pytest.mark.parametrize("size", SIDES.values(), ids=SIDES)
def test_the_detector_finds_faces_in_images_of_every_shape(
    faces: FantasyPortraitNetworks, size: tuple[int, int]
) -> None:
    height, width = size
    left, right = (0.25 * width, 0.3 * height), (0.7 * width, 0.6 * height)
    scale = min(160 / width, 272 / height)
    frame = picture(size, left, right, radius=round(7 / scale))
    for x, y in (left, right):
        box = faces.detector.detect_at(frame, complex(x, y))
        assert box is not None
        middle = (box[:2] + box[2:]) / 2
        assert np.abs(middle - [x, y]).max() < 5.5 / scale, "the anchors are 8 pixels apart in the small image"
        whole = box[[0, 1]].min() > 0 and box[2] < width and box[3] < height
        assert not whole or np.abs((box[2:] - box[:2]) - 48 / scale).max() <= 2
    assert faces.detector.detect_at(frame, complex(0.9 * width, 0.05 * height)) is None
    assert (faces.detector.detect(frame)[:, 4] > 0.4).all()
    assert len(faces.detector.detect(picture(size))) == 0


def test_crops_contain_the_upright_face_with_its_margin() -> None:
    crop = crop_from_box(np.array([10.0, 20.0, 50.0, 40.0]))
    corners = crop.scale_rotation * np.array([10 + 20j, 50 + 40j]) + crop.translation
    assert np.allclose(corners.real, [64 - 54.4, 64 + 54.4]) and np.allclose(corners.imag, [64 - 27.2, 64 + 27.2])
    random = np.random.default_rng(0)
    points = random.normal(100, 20, 222) + 1j * random.normal(80, 30, 222)
    inside = (cut := crop_from_points(points, eye_angle(points))).scale_rotation * points + cut.translation
    assert abs(eye_angle(inside)) < 1e-6
    sides = np.array([np.ptp(inside.real), np.ptp(inside.imag)])
    assert np.isclose(sides.max(), 0.85 * 128) and np.isclose(inside.real.max() + inside.real.min(), 128)


def test_points_are_in_pixels_of_the_image(faces: FantasyPortraitNetworks) -> None:
    frame = picture((240, 320), (150, 90), radius=30)
    prediction = faces.landmarks.predict(frame, crop_from_box(np.array([110.0, 60.0, 200.0, 140.0])))
    points = prediction.points
    middle = points[36] - (points - points[0]).real.max() * 0.05 * 1j
    assert abs(middle - (150 + 90j)) < 1, "the tip of the nose is a twentieth of the face below its middle"
    assert prediction.probability > 0.05


def test_a_face_is_tracked_by_its_points(faces: FantasyPortraitNetworks) -> None:
    path = [(100 + 4 * step, 120 - 2 * step) for step in range(12)]
    frames = np.stack([picture((240, 320), place, (270, 200)) for place in path])
    known = np.stack([five(*place) for place in path]).astype(np.float64)
    known[7] = np.nan
    found = FantasyPortraitFaceTracker(faces).track(frames, known)
    assert found.shape == (12, 5, 2) and np.isnan(found[7]).all() and np.isfinite(np.delete(found, 7, 0)).all()
    shape = SHAPE[[182, 202, 36, 149, 133]]
    for step in (0, 3, 6, 8, 11):
        moved = found[step] - found[step].mean(axis=0)
        side = np.ptp(moved[:2, 0]) / np.ptp(shape[:2, 0])
        assert np.allclose(moved, side * (shape - shape.mean(axis=0)), atol=0.35 * side * 0.1 + 1.5)
        assert np.abs(found[step].mean(axis=0) - path[step] - side * shape.mean(axis=0)).max() < 4
    in_pieces = FantasyPortraitFaceTracker(faces)
    pieces = [in_pieces.track(frames[:5], known[:5]), in_pieces.track(frames[5:], known[5:])]
    assert np.array_equal(np.concatenate(pieces), found, equal_nan=True)


def test_a_face_that_these_networks_do_not_detect_is_nan(faces: FantasyPortraitNetworks) -> None:
    frames = np.stack([picture((240, 320), (100, 120)), picture((240, 320)), picture((240, 320), (100, 120))])
    found = FantasyPortraitFaceTracker(faces).track(frames, np.stack([five(100, 120)] * 3))
    assert np.isfinite(found[[0, 2]]).all() and np.isnan(found[1]).all()
    elsewhere = FantasyPortraitFaceTracker(faces).track(frames[:1], five(280, 30)[None])
    assert np.isnan(elsewhere).all(), "another face is not used"


def test_points_are_smoothed_more_the_less_they_move() -> None:
    random = np.random.default_rng(1)
    face = random.normal(0, 40, 222) + 1j * random.normal(0, 40, 222)
    covered = sorted(number for group in SMOOTHING_GROUPS for number in group.points)
    assert covered == list(range(222))

    def answered(step: float) -> NDArray[np.float64]:
        """Fraction of a step, in face sizes, that the smoothed points follow at once."""
        smoother = PointSmoother()
        assert np.array_equal(smoother.smooth(face, 100.0), face)
        fraction: NDArray[np.float64] = (smoother.smooth(face + 100 * step, 100.0) - face).real / (100 * step)
        return fraction

    slow, quick, leap = answered(0.001), answered(0.01), answered(0.05)
    assert (slow < quick).all() and (quick < leap).all() and slow.max() < 0.12 and leap.min() > 0.6
    mouth, brow = slice(118, 182), slice(48, 74)
    assert slow[brow].max() < slow[mouth].min()
    # Expected for a leap of the jaw: weight of the speed, its cutoff, weight of the value.
    radians = 2 * np.pi * 0.3
    speed = radians / (radians + 1) * 5.0 / 0.3
    radians *= 1 + 0.3 * speed
    assert np.allclose(leap[:33], radians / (radians + 1))
    still = PointSmoother()
    still.smooth(face, 100.0)
    assert np.array_equal(still.smooth(face, 100.0), face)


def test_a_folder_of_the_released_files_is_an_encoder(folder: Path, tmp_path: Path) -> None:
    encoder, bare = ExpressionEncoder.from_pretrained(folder), ExpressionEncoder.from_pretrained(folder / "pd_fpg.pth")
    frames = np.stack([picture((240, 320), (100 + 3 * step, 120)) for step in range(4)])
    known = np.stack([five(101 + 3 * step, 122) for step in range(4)])
    assert bare.point_tracker()(frames, known) is known
    points = encoder.point_tracker()(frames, known)
    assert np.abs(points - known).max() > 2
    assert not torch.equal(encoder.encode(frames, points).features, bare.encode(frames, known).features)
    copy_expression_encoder(folder, tmp_path / "copy")
    again = ExpressionEncoder.from_pretrained(tmp_path / "copy")
    assert np.array_equal(again.point_tracker()(frames, known), points)
    assert torch.equal(again.encode(frames, points).features, encoder.encode(frames, points).features)
    copy_expression_encoder(folder / "pd_fpg.pth", tmp_path / "alone")
    assert [file.name for file in (tmp_path / "alone").iterdir()] == ["pd_fpg.pth"]


def test_other_networks_are_refused(folder: Path, tmp_path: Path) -> None:
    with raises_input_error(ErrorCode.shape_mismatch, "face detector", [[1, 3, 128, 128]]):
        FantasyPortraitDetector.from_pretrained(folder / LANDMARKS_FILE)
    with raises_input_error(ErrorCode.shape_mismatch, "landmark network", ([[1, 3, 272, 160]], 6)):
        FantasyPortraitLandmarks.from_pretrained(folder / DETECTOR_FILE)
    with pytest.raises(InputError, match="does not exist"):
        FantasyPortraitDetector.from_pretrained(tmp_path / DETECTOR_FILE)
    (tmp_path / DETECTOR_FILE).write_bytes(b"\xff" * 100)
    with raises_input_error(ErrorCode.malformed_file, "face detector", str(tmp_path / DETECTOR_FILE)):
        FantasyPortraitDetector.from_pretrained(tmp_path / DETECTOR_FILE)
    with raises_input_error(ErrorCode.missing_weights, LANDMARKS_FILE, str(tmp_path)):
        FantasyPortraitNetworks.from_folder(tmp_path)
    (tmp_path / DETECTOR_FILE).unlink()
    assert FantasyPortraitNetworks.from_folder(tmp_path) is None
