"""Sheets for people to look at."""

import numpy as np

from fantasytalking.portrait_world.corpus.preview_sheet import portraits, strip
from fantasytalking.portrait_world.corpus.rendered_clip import ClipPlan, Sitter, act
from fantasytalking.portrait_world.people.identity import make_identity


def test_portraits_stand_in_rows() -> None:
    sheet = portraits([3, 1, 4], 96, 2)
    assert sheet.shape == (192, 192, 3)
    assert np.array_equal(sheet[:96, 96:], Sitter(make_identity(1), 96).portrait())
    assert np.array_equal(sheet[96:, :96], Sitter(make_identity(4), 96).portrait())
    assert sheet[96:, 96:].std() == 0


def test_a_strip_runs_from_the_first_frame_to_the_last() -> None:
    sitter = Sitter(make_identity(3), 96)
    acted = act(sitter.identity, ClipPlan(3, 0, "Mow.", 0))
    film = strip(sitter, acted, 4)
    assert film.shape == (96, 384, 3)
    assert np.array_equal(film[:, :96], sitter.frame(acted.performance.states[0]))
    assert np.array_equal(film[:, -96:], sitter.frame(acted.performance.states[-1]))
