"""Tests of the deformation of the face by each parameter."""

import numpy as np
import pytest

from fantasytalking.portrait_world.motion.frame_state import NEUTRAL, FaceState
from fantasytalking.portrait_world.people.anatomy import Anatomy
from fantasytalking.portrait_world.people.identity import make_identity

PEOPLE = (0, 3, 22, 1001)


@pytest.fixture(scope="module", params=PEOPLE)
def anatomy(request: pytest.FixtureRequest) -> Anatomy:
    return Anatomy(make_identity(request.param))


def test_the_gap_between_the_lips_is_the_requested_one(anatomy: Anatomy) -> None:
    rig = anatomy.rig
    for asked in (0.0, 0.2, 0.5, 1.0):
        for other in ({}, {"mouth_width": -1.0}, {"smile": 1.0, "brow": 1.0}, {"blink": 1.0}):
            assert rig.mouth_opening(rig.deform(FaceState(mouth_open=asked, **other))) == pytest.approx(asked, abs=0.02)


def test_the_mouth_gets_wider_and_rounder(anatomy: Anatomy) -> None:
    rig = anatomy.rig
    widths = [rig.mouth_width(rig.deform(FaceState(mouth_width=width))) for width in (-1, -0.5, 0, 0.5, 1)]
    assert widths == sorted(widths)
    assert widths[-1] > 1.3 * widths[0]


def test_a_blink_closes_both_eyes_and_moves_nothing_below(anatomy: Anatomy) -> None:
    rig, head = anatomy.rig, anatomy.head
    open_eyes, shut_eyes = rig.deform(NEUTRAL), rig.deform(FaceState(blink=1.0))
    upper = head.grids[0].view(open_eyes)[-1, :, 1] - head.grids[1].view(open_eyes)[0, :, 1]
    closed = head.grids[0].view(shut_eyes)[-1, :, 1] - head.grids[1].view(shut_eyes)[0, :, 1]
    assert upper.max() > 0.07
    assert np.abs(closed).max() < 1e-3
    below = head.ring > 7.5
    assert np.allclose(open_eyes[below], shut_eyes[below])


def test_raised_brows_keep_the_skin_beside_the_eyes_smooth(anatomy: Anatomy) -> None:
    rig, head = anatomy.rig, anatomy.head
    raised = rig.deform(FaceState(brow=1.0, frown=1.0, smile=1.0, mouth_open=1.0))
    for above, below in ((0, 1), (1, 2)):
        upper, lower = head.grids[above].view(raised)[-1], head.grids[below].view(raised)[0]
        slit = np.linalg.norm(upper - lower, axis=1) > 1e-3
        x = np.abs(upper[slit, 0])
        limit = head.features.eye_x + 1.1 * head.features.eye_half_width if above == 0 else 0.4
        assert x.max() < limit
    rise = raised[:, 1] - rig.deform(NEUTRAL)[:, 1]
    at_brows = (np.abs(head.points[:, 1] - head.features.brow_y) < 0.03) & (np.abs(head.angle) < 0.6) & (head.ring < 6)
    assert rise[at_brows].mean() > 0.02


def test_the_mouth_interior_does_not_intersect_the_chin(anatomy: Anatomy) -> None:
    head = anatomy.head
    for opening in (0.0, 0.5, 1.0):
        points, _ = anatomy.deform(FaceState(mouth_open=opening))
        chin = head.grids[2].view(points)
        front = chin[4:, np.abs(head.angle[: chin.shape[1]]) < 0.06].reshape(-1, 3)
        inside = points[len(head.points) :]
        middle = inside[np.abs(inside[:, 0]) < 0.03]
        for x, y, z in middle[middle[:, 1] < front[:, 1].max()]:
            if y > front[:, 1].min():
                skin = front[np.argmin(np.abs(front[:, 1] - y)), 2]
                assert z < skin, (opening, x, y)


def test_normals_point_outward(anatomy: Anatomy) -> None:
    points, normals = anatomy.deform(NEUTRAL)
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-3)
    cheeks = (np.abs(anatomy.head.angle) < 0.5) & (np.abs(anatomy.head.ring - 3.5) < 0.6)
    assert normals[: len(anatomy.head.points)][cheeks, 2].min() > 0.3
    assert np.isfinite(points).all()
