"""Classifier-free guidance over text, audio and expression: its branches and their weights."""

from enum import Enum
from typing import NamedTuple, TypeVar

from torch import Tensor

ScaleT = TypeVar("ScaleT", float, Tensor)


class GuidanceBranch(NamedTuple):
    """Conditions of one prediction. Without audio or expression, its scale is 0 and its features are unchanged."""

    text: bool
    audio: bool
    expression: bool = False
    """Only for a video with an expression condition."""

    @property
    def label(self) -> str:
        """Name of the branch's cache context."""
        parts = f"{'text' if self.text else 'none'}+{'audio' if self.audio else 'none'}"
        return f"{parts}+expression" if self.expression else parts


FULL_BRANCH = GuidanceBranch(text=True, audio=True)
"""The branch with all conditions, without an expression condition."""
FULL_BRANCH_WITH_EXPRESSION = FULL_BRANCH._replace(expression=True)
"""The branch with all conditions, with an expression condition."""


class CfgOrder(Enum):
    """Order in which text and audio guidance are added to e(none, none)."""

    text_first = "text_first"
    """e(none,none) + s_text [e(text,none) - e(none,none)] + s_audio [e(text,audio) - e(text,none)], as released."""
    audio_first = "audio_first"
    """e(none,none) + s_audio [e(none,audio) - e(none,none)] + s_text [e(text,audio) - e(none,audio)]."""


def cfg_branch_weights(order: CfgOrder, text: ScaleT, audio: ScaleT) -> list[tuple[GuidanceBranch, ScaleT]]:
    """Returns the guidance formula as weights of three branches, from the unconditional one to `FULL_BRANCH`.

    Args:
        order: of text and audio.
        text, audio: guidance scales; tensors for one scale per sample.
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
    """Returns the weights of `cfg_branch_weights` plus those of expression guidance.

    Adds s_expression [e(all) - e(all but expression)]. With text guidance alone this is FantasyPortrait's formula
    (released inference code of arXiv 2507.12956).
    """
    *before, (full, second) = cfg_branch_weights(order, text, audio)
    return [*before, (full, second - expression), (FULL_BRANCH_WITH_EXPRESSION, expression)]
