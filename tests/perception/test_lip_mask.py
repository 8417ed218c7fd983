"""The lips in pixels and in latent space."""

import numpy as np
import pytest
import torch

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.lip_mask import OUTER_LIPS, lip_mask, project_mask
from tests.helpers.errors import raises_input_error
from tests.perception.conftest import SIZE


def test_the_contour_is_filled_and_dilated_by_the_radius(track: FaceTrack) -> None:
    points = track.landmarks[:3]
    bare, wide = lip_mask(points, SIZE, SIZE, 0.0), lip_mask(points, SIZE, SIZE, 0.3)
    assert bare.shape == (3, SIZE, SIZE) and bare.dtype == bool
    for frame in range(3):
        lips = points[frame, OUTER_LIPS, :2]
        center = lips.mean(axis=0).round().astype(int)
        assert bare[frame, center[1], center[0]]
        rows, columns = np.nonzero(wide[frame])
        radius = 0.3 * track.interocular[frame]
        assert columns.min() == pytest.approx(lips[:, 0].min() - radius, abs=1.5)
        assert columns.max() == pytest.approx(lips[:, 0].max() + radius, abs=1.5)
        assert rows.min() == pytest.approx(lips[:, 1].min() - radius, abs=1.5)
        assert rows.max() == pytest.approx(lips[:, 1].max() + radius, abs=1.5)
        assert (wide[frame] >= bare[frame]).all()


def test_the_mask_scales_with_the_face(track: FaceTrack) -> None:
    small = lip_mask(track.landmarks[:1], SIZE, SIZE)
    large = lip_mask(track.landmarks[:1] * 4, 4 * SIZE, 4 * SIZE)
    assert large.mean() == pytest.approx(small.mean(), rel=0.08)


def test_unknown_faces_and_faces_outside_the_image_have_empty_masks(track: FaceTrack) -> None:
    points = track.landmarks[:3].copy()
    points[1] = np.nan
    points[2] += 1e7
    masks = lip_mask(points, SIZE, SIZE)
    assert masks[0].any() and not masks[1].any() and not masks[2].any()


def test_an_invalid_dilation_is_refused(track: FaceTrack) -> None:
    for dilation in (-0.1, 3.0):
        with raises_input_error(ErrorCode.out_of_range, "dilation", dilation):
            lip_mask(track.landmarks[:1], SIZE, SIZE, dilation)
    with raises_input_error(ErrorCode.out_of_range, "dilation"):
        lip_mask(track.landmarks[:1], SIZE, SIZE, float("nan"))


def naive_causal(mask: np.ndarray, stride: int, temporal: int) -> np.ndarray:
    """Latent frame 0 is frame 0, latent frame k > 0 is frames 4k-3..4k; the mean over each cell."""
    groups = [[0]] + [
        list(range(temporal * (k - 1) + 1, temporal * k + 1)) for k in range(1, (len(mask) - 1) // temporal + 1)
    ]
    height, width = mask.shape[1] // stride, mask.shape[2] // stride
    result = np.zeros((len(groups), height, width), np.float32)
    for k, group in enumerate(groups):
        for y in range(height):
            for x in range(width):
                result[k, y, x] = mask[group, y * stride : (y + 1) * stride, x * stride : (x + 1) * stride].mean()
    return result


@pytest.mark.parametrize(("frames", "stride", "temporal"), [(1, 8, 4), (9, 8, 4), (17, 4, 4), (7, 16, 2)])
def test_causal_projection(frames: int, stride: int, temporal: int) -> None:
    mask = np.random.default_rng(frames).random((frames, 32, 48)) > 0.7
    projected = project_mask(mask, stride, temporal)
    assert projected.dtype == np.float32
    assert projected == pytest.approx(naive_causal(mask, stride, temporal), abs=1e-6)


def test_causal_projection_keeps_frames_in_their_group() -> None:
    for frame in range(9):
        mask = np.zeros((9, 16, 16), bool)
        mask[frame] = True
        lit = np.flatnonzero(project_mask(mask, 8, 4).sum(axis=(1, 2)))
        assert lit.tolist() == [(frame + 3) // 4]


def test_trilinear_projection_equals_torch() -> None:
    mask = np.random.default_rng(0).random((13, 32, 24)) > 0.5
    expected = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None].float(), (4, 4, 3), mode="trilinear")
    assert project_mask(mask, 8, 4, "trilinear") == pytest.approx(expected[0, 0].numpy())


def test_sizes_that_do_not_divide_are_refused() -> None:
    for shape, method, code, field, value in (
        ((9, 12, 16), "causal", ErrorCode.out_of_range, "mask", (16, 12)),
        ((9, 16, 12), "trilinear", ErrorCode.out_of_range, "mask", (12, 16)),
        ((9, 16, 16), "x", ErrorCode.invalid_choice, "method", "x"),
    ):
        with raises_input_error(code, field, value):
            project_mask(np.zeros(shape, bool), 8, 4, method)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="8"):
        project_mask(np.zeros((8, 16, 16), bool), 8, 4)
