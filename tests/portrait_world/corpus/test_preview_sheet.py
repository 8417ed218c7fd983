"""Tests of preview images."""

import numpy as np

from fantasytalking.portrait_world.corpus.preview_sheet import frame_strip, portrait_grid
from fantasytalking.portrait_world.corpus.rendered_clip import ClipPlan, PortraitRenderer, perform_plan
from fantasytalking.portrait_world.people.identity import make_identity


def test_portraits_are_arranged_in_rows() -> None:
    sheet = portrait_grid([3, 1, 4], 96, 2)
    assert sheet.shape == (192, 192, 3)
    assert np.array_equal(sheet[:96, 96:], PortraitRenderer(make_identity(1), 96).portrait())
    assert np.array_equal(sheet[96:, :96], PortraitRenderer(make_identity(4), 96).portrait())
    assert sheet[96:, 96:].std() == 0


def test_a_strip_covers_the_first_to_the_last_frame() -> None:
    renderer = PortraitRenderer(make_identity(3), 96)
    performance = perform_plan(renderer.identity, ClipPlan(3, 0, "Mow.", 0))
    film = frame_strip(renderer, performance, 4)
    assert film.shape == (96, 384, 3)
    assert np.array_equal(film[:, :96], renderer.frame(performance.animation.states[0]))
    assert np.array_equal(film[:, -96:], renderer.frame(performance.animation.states[-1]))
