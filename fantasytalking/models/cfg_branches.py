"""Classifier-free guidance over text, audio and further conditions: its branches and their weights."""

from enum import Enum
from typing import NamedTuple, TypeVar

from torch import Tensor

ScaleT = TypeVar("ScaleT", float, Tensor)


class GuidanceBranch(NamedTuple):
    """Conditions of one prediction. Without a condition, its scale is 0 and its features are unchanged."""

    text: bool
    audio: bool
    further: tuple[str, ...] = ()
    """Names of further conditions, such as expression, in the order of their guidance."""

    @property
    def label(self) -> str:
        """Name of the branch's cache context."""
        return "+".join(["text" if self.text else "none", "audio" if self.audio else "none", *self.further])


FULL_BRANCH = GuidanceBranch(text=True, audio=True)
"""The branch with text and audio."""


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


def add_condition_guidance(
    weights: list[tuple[GuidanceBranch, float]], name: str, scale: float
) -> list[tuple[GuidanceBranch, float]]:
    """Returns the weights plus those of guidance by one more condition.

    Adds scale [e(all) - e(all but the condition)], where all is the last branch of `weights` with the condition. With
    text guidance alone and the expression, this is FantasyPortrait's formula (released inference code of arXiv
    2507.12956).
    """
    *before, (full, weight) = weights
    return [*before, (full, weight - scale), (full._replace(further=(*full.further, name)), scale)]
