"""Mouth opening and loudness of a video with known ground truth."""

import numpy as np
import pytest

from fantasytalking.perception.mouth_curve import mouth_curve
from fantasytalking.portrait_world.corpus.rendered_clip import PortraitRenderer
from fantasytalking.portrait_world.motion.frame_state import FaceState
from fantasytalking.portrait_world.people.identity import make_identity

RATE = 16000


def test_opening_follows_the_mouth_and_loudness_the_audio():
    opened = 0.5 - 0.5 * np.cos(np.arange(12) * np.pi / 3)
    sitter = PortraitRenderer(make_identity(7), 128)
    frames = [(number / 25, sitter.frame(FaceState(mouth_open=value))) for number, value in enumerate(opened)]
    sound = np.where(np.arange(RATE) < RATE // 4, 0.0, 0.5).astype(np.float32)
    curve = mouth_curve(iter(frames), sound, RATE)
    assert curve.times.tolist() == [number / 25 for number in range(12)]
    assert curve.visible_fraction == 1
    assert np.corrcoef(curve.opening, opened)[0, 1] > 0.9
    assert curve.mean_opening_speed > 1
    assert curve.loudness[:5] == pytest.approx(0, abs=0.01) and curve.loudness[8:] == pytest.approx(0.5, abs=0.01)


def test_without_a_face_the_opening_is_unknown():
    gray = np.full((64, 64, 3), 128, np.uint8)
    curve = mouth_curve([(number / 25, gray) for number in range(3)], np.zeros(RATE, np.float32), RATE)
    assert curve.visible_fraction == 0 and np.isnan(curve.opening).all() and np.isnan(curve.mean_opening_speed)
