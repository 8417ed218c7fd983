"""Tests of still portraits by framing."""

import numpy as np
import pytest

from fantasytalking.common.errors import ErrorCode
from fantasytalking.perception.face_track import detect_faces
from fantasytalking.portrait_world.corpus.rendered_clip import PortraitRenderer
from fantasytalking.portrait_world.people.identity import make_identity
from fantasytalking.portrait_world.render.framed_portrait import PortraitFraming, render_framed_portrait
from tests.helpers.errors import raises_input_error

SOMEONE = make_identity(1003)


def test_the_default_framing_is_that_of_the_clips() -> None:
    framed = render_framed_portrait(SOMEONE, PortraitFraming(zoom=1.2, width=128, height=128))
    assert np.array_equal(framed, PortraitRenderer(SOMEONE, 128, 1.2).portrait())


def test_the_face_is_where_and_as_large_as_requested() -> None:
    usual, moved = PortraitFraming(width=160, height=160), PortraitFraming(1.4, 0.2, 0.05, 240, 160)
    boxes = [detect_faces(render_framed_portrait(SOMEONE, framing))[0].box for framing in (usual, moved)]
    heights = [float(bottom - top) for _, top, _, bottom in boxes]
    assert heights[1] / heights[0] == pytest.approx(1.4, abs=0.1)
    centers = [float(left + right) / 2 for left, _, right, _ in boxes]
    assert centers[1] - 120 == pytest.approx(centers[0] - 80 + 0.2 * 160, abs=5)


def test_framings_out_of_range_are_rejected() -> None:
    with raises_input_error(ErrorCode.out_of_range, "framing.zoom", 2.5):
        PortraitFraming(zoom=2.5).validate()
