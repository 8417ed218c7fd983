"""The formula of guidance by text and by audio: its branches, and their weights."""

from enum import Enum
from typing import NamedTuple, TypeVar

from torch import Tensor

ScaleT = TypeVar("ScaleT", float, Tensor)


class Branch(NamedTuple):
    """One prediction: what it is told. Without audio means an audio gate of 0, never zeroed audio."""

    text: bool
    audio: bool

    @property
    def label(self) -> str:
        """Name of its cache context."""
        return f"{'text' if self.text else 'none'}+{'audio' if self.audio else 'none'}"


WHOLE = Branch(text=True, audio=True)
"""The branch that is told everything."""


class Formula(Enum):
    """In which order text and audio are added to e(none, none)."""

    text_first = "text_first"
    """e(none,none) + s_text [e(text,none) - e(none,none)] + s_audio [e(text,audio) - e(text,none)], as released."""
    audio_first = "audio_first"
    """e(none,none) + s_audio [e(none,audio) - e(none,none)] + s_text [e(text,audio) - e(none,audio)]."""


def path_weights(formula: Formula, text: ScaleT, audio: ScaleT) -> list[tuple[Branch, ScaleT]]:
    """The formula as a weighted sum of three branches, from the one that is told nothing to `WHOLE`.

    Args:
        text, audio: the scales; tensors give the weights of many samples at once.
    """
    middle, first, second = (
        (Branch(text=True, audio=False), text, audio)
        if formula is Formula.text_first
        else (Branch(text=False, audio=True), audio, text)
    )
    return [(Branch(text=False, audio=False), 1 - first), (middle, first - second), (WHOLE, second)]
