"""Face blur grows as the image is defocused, independent of contrast, brightness and resolution."""

import cv2
import numpy as np
import pytest

from fantasytalking.perception.sharpness import face_blur
from fantasytalking.portrait_world.corpus.rendered_clip import PortraitRenderer
from fantasytalking.portrait_world.people.identity import make_identity

SIZE = 192
BOX = np.array([0.30, 0.15, 0.70, 0.72]) * SIZE


@pytest.fixture(scope="module", params=[3, 8, 1004])
def portrait(request: pytest.FixtureRequest) -> np.ndarray:
    return PortraitRenderer(make_identity(request.param), SIZE).portrait()


def test_blur_grows_with_the_lens_out_of_focus(portrait: np.ndarray) -> None:
    blurs = [face_blur(portrait, BOX)]
    blurs += [face_blur(cv2.GaussianBlur(portrait, (0, 0), deviation), BOX) for deviation in (1.5, 3.0, 6.0)]
    assert blurs == sorted(blurs)
    assert blurs[0] < 0.6
    assert blurs[2] > 0.7
    assert blurs[-1] <= 1


def test_contrast_and_brightness_do_not_count(portrait: np.ndarray) -> None:
    faint = (portrait // 2 + 60).astype(np.uint8)
    assert face_blur(faint, BOX) == pytest.approx(face_blur(portrait, BOX), abs=0.03)


def test_more_pixels_of_the_same_face_are_not_more_blurred(portrait: np.ndarray) -> None:
    larger = cv2.resize(portrait, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    assert face_blur(larger, BOX * 3) == pytest.approx(face_blur(portrait, BOX), abs=0.06)


def test_nothing_to_see_is_blurred(portrait: np.ndarray) -> None:
    assert face_blur(np.full((64, 64, 3), 90, np.uint8), np.array([8, 8, 56, 56])) == 1
    assert face_blur(portrait, np.array([SIZE + 5, 10, SIZE + 60, 80])) == 1
    assert 0 < face_blur(portrait, BOX + np.array([-500, 0, 0, 0])) < 1, "a box may reach beyond the picture"
