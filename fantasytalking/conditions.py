"""The transformer's conditions as one typed object.

Axes: B batch, F latent frames of s video frames (the first of one), Z latent channels, H and W latent height and width,
L audio tokens in a window, N face crops, P people.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

EXPRESSION_PREFIX = "expression."
"""Prefix of the names of tensors within the expression condition."""


class ExpressionCondition(NamedTuple):
    """Expression features that drive the faces of one or several people (FantasyPortrait, arXiv 2507.12956).

    Features, presence and regions list the people in the same order, which has no meaning of its own.
    """

    features: Tensor
    """(B, P, 1 + s (F - 1), D) implicit features of every video frame: head, eye, emotion, mouth. Values where
    `present` is False are ignored."""
    present: Tensor
    """(B, P, 1 + s (F - 1)) bool, True where the frame has features; all False for an absent person."""
    regions: Tensor | None
    """(B, P, F, H/2, W/2) bool, True where a token attends to the person; None = all tokens, for one person only."""
    scale: Tensor
    """(B,) weight; 0 = dropped, 1 = as trained."""

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None, non_blocking: bool = False
    ) -> "ExpressionCondition":
        """Moves every tensor to `device` and every floating-point tensor to `dtype`."""
        return self._replace(**_moved_tensors(self, device, dtype, non_blocking))


class Conditions(NamedTuple):
    """Conditions of one batch. A NamedTuple, so that accelerate and DeepSpeed can traverse it.

    The number of audio windows determines the level of alignment: one window for the whole clip (stage 1) or one per
    latent frame (stage 2 and inference), paper section 3.1.
    """

    prompt_embeds: Tensor
    """(B, T, D_text) umT5 states; Wan pads to T = 512, shorter sequences are allowed."""
    image_embeds: Tensor | None
    """(B, I, D_clip) CLIP states of the portrait (I = 257 for Wan); None for a base without image cross-attention."""
    image_latents: Tensor
    """(B, s + Z, F, H, W) first-frame mask (s channels) and first-frame latents, concatenated to the noisy ones; or
    (B, Z, 1, H, W) latents of the portrait, which replace latent frame 0 (`models.image_conditioning`)."""
    audio_embeds: Tensor
    """(B, 1 or F, L, D_audio) audio features cut into windows. With `speaker_regions`, L consists of one equal block
    per speaker, in the order of the regions (`audio_windows.join_speaker_windows`)."""
    audio_mask: Tensor
    """(B, 1 or F, L) bool, True where the token is real. Values of other tokens are ignored."""
    face_embeds: Tensor
    """(B, N, 512) ArcFace embeddings of the portrait."""
    motion_intensity: Tensor
    """(B, 2) expression and body intensity in [0, 1]."""
    condition_scale: Tensor
    """(B, 2) weights of audio and of face; 0 = dropped, 1 = as trained."""
    expression: ExpressionCondition | None = None
    """Expressions that drive the faces; None for a video driven by audio alone."""
    speaker_regions: Tensor | None = None
    """(B, P, F, H/2, W/2) bool, True where a video token attends to the speaker's audio; None = all tokens attend to
    all audio."""
    guidance: Tensor | None = None
    """(B, 2) scales of text and audio guidance, for a distilled model only; None = the prediction is not guided."""

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None, non_blocking: bool = False
    ) -> "Conditions":
        """Moves every tensor to `device` and every floating-point tensor to `dtype`; offloading hooks call it too."""
        return self._replace(**_moved_tensors(self, device, dtype, non_blocking))


def flatten_conditions(conditions: Conditions) -> dict[str, Tensor]:
    """Returns the tensors that are present by name, those of the expression as `expression.features` and so on."""
    tensors: dict[str, Tensor] = {}
    for name, value in conditions._asdict().items():
        if isinstance(value, ExpressionCondition):
            inner = value._asdict().items()
            tensors |= {EXPRESSION_PREFIX + key: tensor for key, tensor in inner if tensor is not None}
        elif value is not None:
            tensors[name] = value
    return tensors


def unflatten_conditions(tensors: Mapping[str, Tensor]) -> Conditions:
    """Returns the conditions of named tensors: the inverse of `flatten_conditions`."""
    inner = {
        name.removeprefix(EXPRESSION_PREFIX): value
        for name, value in tensors.items()
        if name.startswith(EXPRESSION_PREFIX)
    }
    values: dict[str, Any] = {name: tensors.get(name) for name in Conditions._fields}
    if inner:
        values["expression"] = ExpressionCondition(**{"regions": None, **inner})  # type: ignore[arg-type]
    return Conditions(**values)


def _moved_tensors(
    values: NamedTuple, device: torch.device | str | None, dtype: torch.dtype | None, non_blocking: bool
) -> dict[str, Any]:
    moved: dict[str, Any] = {}
    for name, value in values._asdict().items():
        if isinstance(value, Tensor):
            kind = dtype if value.is_floating_point() else None
            moved[name] = value.to(device=device, dtype=kind, non_blocking=non_blocking)
        elif value is not None:
            moved[name] = value.to(device=device, dtype=dtype, non_blocking=non_blocking)
    return moved
