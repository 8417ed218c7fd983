"""Renders preview images of the portrait world: a grid of identities, and a strip of frames of one performance."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.portrait_world.corpus.rendered_clip import Performance, PortraitRenderer
from fantasytalking.portrait_world.people.identity import make_identity


def portrait_grid(identities: Sequence[int], size: int, columns: int) -> NDArray[np.uint8]:
    """Renders neutral portraits in rows of `columns`: (rows * size, columns * size, 3) uint8 RGB, unused cells dark."""
    rows = -(-len(identities) // columns)
    sheet = np.full((rows * size, columns * size, 3), 24, np.uint8)
    for index, number in enumerate(identities):
        top, left = index // columns * size, index % columns * size
        sheet[top : top + size, left : left + size] = PortraitRenderer(make_identity(number), size).portrait()
    return sheet


def frame_strip(renderer: PortraitRenderer, performance: Performance, count: int) -> NDArray[np.uint8]:
    """Renders `count` evenly spaced frames of a performance side by side: (size, count * size, 3) uint8 RGB."""
    states = performance.animation.states
    chosen = np.linspace(0, len(states) - 1, count).round().astype(int)
    return np.concatenate([renderer.frame(states[frame]) for frame in chosen], 1)
