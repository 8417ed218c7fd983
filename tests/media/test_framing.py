"""Framing: the nearest bucket, crops around the face, bars, and points that follow the frame."""

import numpy as np
import pytest

from fantasytalking.data.prepare.crop import crop_frame
from fantasytalking.data.prepare.plan import RelativeCrop
from fantasytalking.media.framing import Framing
from fantasytalking.media.resolution import ResizeMode, ResolutionBucket

BUCKETS = [ResolutionBucket(512, 512), ResolutionBucket(832, 480), ResolutionBucket(480, 832)]


@pytest.mark.parametrize(
    ("size", "bucket"),
    [((1920, 1080), 1), ((1080, 1920), 2), ((256, 256), 0), ((640, 480), 1), ((500, 480), 0), ((4000, 100), 1)],
)
def test_the_bucket_with_the_nearest_shape_is_selected(size: tuple[int, int], bucket: int) -> None:
    assert Framing.for_nearest_bucket(*size, BUCKETS, ResizeMode.crop).bucket == BUCKETS[bucket]


def picture_with_dot(width: int, height: int, x: int, y: int) -> np.ndarray:
    picture = np.full((height, width, 3), 60, dtype=np.uint8)
    half = min(width, height) // 16
    picture[y - half : y + half + 1, x - half : x + half + 1] = 250
    return picture


@pytest.mark.parametrize("fit", [ResizeMode.crop, ResizeMode.letterbox])
@pytest.mark.parametrize("size", [(1080, 1920), (1280, 720), (200, 200), (333, 257)])
@pytest.mark.parametrize("position", [(0.5, 0.4), (0.1, 0.1), (0.9, 0.85)])
def test_points_follow_the_frame(fit: ResizeMode, size: tuple[int, int], position: tuple[float, float]) -> None:
    x, y = round(size[0] * position[0]), round(size[1] * position[1])
    framing = Framing(*size, ResolutionBucket(128, 96), fit)
    offset = framing.offset((x, y))
    prepared = framing.crop_or_pad(framing.resize(picture_with_dot(*size, x, y)), offset)
    assert prepared.shape == (96, 128, 3)
    column, row = framing.transform_points(np.array([x + 0.5, y + 0.5]), offset)
    rows, columns = np.nonzero(prepared[..., 0] > prepared.max() - 60)
    assert abs(columns.mean() + 0.5 - column) < 1 and abs(rows.mean() + 0.5 - row) < 1
    black = (prepared == 0).all(axis=-1)
    assert black.any() == (fit is ResizeMode.letterbox and size != (128, 96)), "bars only where letterboxed"


def test_the_crop_is_centered_on_the_face_as_far_as_the_frame_allows() -> None:
    framing = Framing(1280, 720, ResolutionBucket(360, 360), ResizeMode.crop)
    assert framing.scaled_size == (640, 360)
    assert framing.offset((640.0, 300.0)) == (140, 0)
    assert framing.offset((100.0, 300.0)) == (0, 0)
    assert framing.offset((1270.0, 300.0)) == (280, 0)


def test_many_frames_are_framed_at_once() -> None:
    framing = Framing(64, 48, ResolutionBucket(32, 32), ResizeMode.letterbox)
    clip = np.random.default_rng(0).integers(1, 255, (5, 24, 32, 3), dtype=np.uint8)
    framed = framing.crop_or_pad(clip, framing.offset((0, 0)))
    assert framed.shape == (5, 32, 32, 3)
    assert np.array_equal(framed[:, 4:28], clip) and not framed[:, :4].any() and not framed[:, 28:].any()


def test_landmarks_keep_their_depth_in_proportion() -> None:
    framing = Framing(200, 200, ResolutionBucket(100, 100), ResizeMode.crop)
    assert np.allclose(framing.transform_points(np.array([[50.0, 60.0, 20.0]]), (0, 0)), [[25, 30, 10]])


def test_a_crop_in_frame_heights_is_independent_of_the_resolution() -> None:
    large = picture_with_dot(1280, 720, 640, 360)
    crop = RelativeCrop(0.5, 0.25, 0.75, 0.5)
    for picture in (large, np.ascontiguousarray(large[::2, ::2])):
        part = crop_frame(picture, crop)
        assert part.shape[:2] == (picture.shape[0] // 2, picture.shape[0] * 3 // 4)
        assert part.max() == 250
    assert crop_frame(large, RelativeCrop(1.7, 0.0, 5.0, 1.0)).shape == (720, 56, 3), "limited to the frame"
    assert crop_frame(large, None) is large
