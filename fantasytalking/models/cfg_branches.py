"""The formula of guidance by text, by audio and by expression: its branches, and their weights."""

from enum import Enum
from typing import NamedTuple, TypeVar

from torch import Tensor

ScaleT = TypeVar("ScaleT", float, Tensor)


class GuidanceBranch(NamedTuple):
    """One prediction: what it is told. Without audio means an audio gate of 0, never zeroed audio; expression too."""

    text: bool
    audio: bool
    expression: bool = False
    """Of a video whose faces are driven."""

    @property
    def label(self) -> str:
        """Name of its cache context."""
        parts = f"{'text' if self.text else 'none'}+{'audio' if self.audio else 'none'}"
        return f"{parts}+expression" if self.expression else parts


FULL_BRANCH = GuidanceBranch(text=True, audio=True)
"""The branch that is told everything, where no expression drives."""
FULL_BRANCH_WITH_EXPRESSION = FULL_BRANCH._replace(expression=True)
"""The branch that is told everything, where one does."""


class CfgOrder(Enum):
    """In which order text and audio are added to e(none, none)."""

    text_first = "text_first"
    """e(none,none) + s_text [e(text,none) - e(none,none)] + s_audio [e(text,audio) - e(text,none)], as released."""
    audio_first = "audio_first"
    """e(none,none) + s_audio [e(none,audio) - e(none,none)] + s_text [e(text,audio) - e(none,audio)]."""


def cfg_branch_weights(order: CfgOrder, text: ScaleT, audio: ScaleT) -> list[tuple[GuidanceBranch, ScaleT]]:
    """The formula as a weighted sum of three branches, from the one that is told nothing to `FULL_BRANCH`.

    Args:
        text, audio: the scales; tensors give the weights of many samples at once.
    """
    middle, first, second = (
        (GuidanceBranch(text=True, audio=False), text, audio)
        if order is CfgOrder.text_first
        else (GuidanceBranch(text=False, audio=True), audio, text)
    )
    return [(GuidanceBranch(text=False, audio=False), 1 - first), (middle, first - second), (FULL_BRANCH, second)]


def cfg_branch_weights_with_expression(
    order: CfgOrder, text: float, audio: float, expression: float
) -> list[tuple[GuidanceBranch, float]]:
    """The same with a last step, from everything but the expression to everything.

    With the path of text and audio before it this is + s_expression [e(all) - e(all but expression)], which with text
    alone is FantasyPortrait's own formula (released inference code of arXiv 2507.12956).
    """
    *before, (whole, second) = cfg_branch_weights(order, text, audio)
    return [*before, (whole, second - expression), (FULL_BRANCH_WITH_EXPRESSION, expression)]
